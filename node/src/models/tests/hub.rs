//! Fetching from a hub that cuts connections, changes files, lies about them, or refuses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::super::{HubOptions, ModelError, Progress, fetch_with, inspect, list, resolve};
use super::fixture;
use super::server::{Faults, Server, WEIGHTS};

/// A place inside the fixture's weights, and one further on.
const CUT: usize = 100_000;
const SECOND_CUT: usize = 50_000;

fn fetch(server: &Server, cache: &Path) -> Result<std::path::PathBuf, ModelError> {
    fetch_with("org/name", cache, &Progress::Silent, &server.hubs())
}

#[track_caller]
fn assert_complete(directory: &Path) {
    for name in
        [WEIGHTS, "config.json", "vocab.txt", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"]
    {
        let expected = fs::read(fixture("st-mean").join(name)).unwrap();
        assert!(fs::read(directory.join(name)).unwrap() == expected, "{name} differs");
    }
}

#[test]
fn a_repository_is_fetched_once_and_can_be_served() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(&fixture("st-mean"), Faults::default());
    let directory = fetch(&server, cache.path()).unwrap();
    assert_eq!(directory, cache.path().join("org--name"));
    assert_complete(&directory);
    assert!(!directory.join("golden.json").exists(), "only what a model needs is fetched");
    assert_eq!(resolve("org/name", cache.path()).unwrap(), directory);
    assert_eq!(list(cache.path()).unwrap()[0].name, "org/name");
    assert!(inspect("org/name", cache.path(), None).unwrap().supported);

    server.forget_requests();
    assert_eq!(fetch(&server, cache.path()).unwrap(), directory);
    assert!(server.requests("").is_empty(), "what is there is not asked for again");
}

#[test]
fn modelscope_has_its_own_addresses_and_gets_no_token() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(&fixture("gte-zh"), Faults::default());
    let directory = fetch_with("modelscope:iic/gte", cache.path(), &Progress::Silent, &server.hubs()).unwrap();
    assert_eq!(directory, cache.path().join("modelscope--iic--gte"));
    assert!(inspect("modelscope:iic/gte", cache.path(), None).unwrap().supported);
    assert!(server.requests("").iter().all(|request| !request.headers.contains_key("authorization")));
    assert!(!server.requests("/api/v1/models/iic/gte/repo?Revision=master&FilePath=pytorch_model.bin").is_empty());

    let server = Server::start(&fixture("st-mean"), Faults::default());
    fetch(&server, cache.path()).unwrap();
    let sent = |request: &super::server::Request| request.headers.get("authorization").cloned();
    assert!(server.requests("").iter().all(|request| sent(request).as_deref() == Some("Bearer secret")));
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(&fixture("st-mean"), Faults { cuts: vec![CUT, SECOND_CUT], ..Faults::default() });
    assert_complete(&fetch(&server, cache.path()).unwrap());
    let ranges: Vec<_> =
        server.requests(WEIGHTS).into_iter().map(|request| request.headers.get("range").cloned()).collect();
    let second = format!("bytes={CUT}-");
    let third = format!("bytes={}-", CUT + SECOND_CUT);
    assert_eq!(ranges, [None, Some(second), Some(third)]);
}

#[test]
fn an_interrupted_fetch_is_resumed_by_the_next_one() {
    let cache = tempfile::tempdir().unwrap();
    // One transfer brings bytes; then nothing more comes, so this fetch gives up.
    let server = Server::start(&fixture("st-mean"), Faults { cuts: vec![CUT, 0, 0, 0, 0, 0, 0], ..Faults::default() });
    let failed = fetch(&server, cache.path()).unwrap_err();
    assert!(matches!(failed, ModelError::Network { .. }), "{failed}");
    assert!(failed.to_string().contains("goes on where it ended"), "{failed}");
    assert!(resolve("org/name", cache.path()).is_err(), "what is incomplete is not served");

    server.set(Faults::default());
    server.forget_requests();
    assert_complete(&fetch(&server, cache.path()).unwrap());
    let [request] = &server.requests(WEIGHTS)[..] else { panic!("one request for the rest of the weights") };
    assert_eq!(request.headers["range"], format!("bytes={CUT}-"));
    assert!(server.requests("/config.json").is_empty(), "a complete file is not fetched again");
}

#[test]
fn a_server_without_ranges_starts_over() {
    let cache = tempfile::tempdir().unwrap();
    let faults = Faults { cuts: vec![CUT], ignores_ranges: true, ..Faults::default() };
    let server = Server::start(&fixture("st-mean"), faults);
    assert_complete(&fetch(&server, cache.path()).unwrap());
    assert_eq!(server.requests(WEIGHTS).len(), 2);
}

#[test]
fn bytes_of_two_versions_are_never_mixed() {
    let cache = tempfile::tempdir().unwrap();
    let mut other = fs::read(fixture("st-mean").join(WEIGHTS)).unwrap();
    other[10_000] ^= 0xFF;
    let faults = Faults { cuts: vec![CUT, 0, 0, 0, 0, 0, 0], weights: Some(other), ..Faults::default() };
    let server = Server::start(&fixture("st-mean"), faults);
    fetch(&server, cache.path()).unwrap_err();
    // Now the server has the true file, with another tag.
    server.set(Faults::default());
    assert_complete(&fetch(&server, cache.path()).unwrap());
}

#[test]
fn a_wrong_digest_removes_the_file_and_says_so() {
    let cache = tempfile::tempdir().unwrap();
    let server =
        Server::start(&fixture("st-mean"), Faults { listed_digest: Some("0".repeat(64)), ..Faults::default() });
    let wrong = fetch(&server, cache.path()).unwrap_err();
    assert!(matches!(wrong, ModelError::Digest { .. }), "{wrong}");
    assert!(!cache.path().join("org--name").exists());
    server.set(Faults::default());
    server.forget_requests();
    assert_complete(&fetch(&server, cache.path()).unwrap());
    assert!(!server.requests(WEIGHTS)[0].headers.contains_key("range"), "nothing of the wrong file is kept");
}

#[test]
fn a_size_that_differs_from_the_listing_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(&fixture("st-mean"), Faults { listed_bytes_more: 5, ..Faults::default() });
    let wrong = fetch(&server, cache.path()).unwrap_err();
    assert!(matches!(wrong, ModelError::Content { .. }) && wrong.to_string().contains("lists"), "{wrong}");
}

#[test]
fn a_refusal_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    for (status, advice) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "name of the model"), (503, "later")] {
        let server = Server::start(&fixture("st-mean"), Faults { status: Some(status), ..Faults::default() });
        let refused = fetch(&server, cache.path()).unwrap_err();
        assert!(matches!(refused, ModelError::Refused { .. }) && refused.to_string().contains(advice), "{refused}");
    }
    // Nobody listens on port 1, and no other test can be given it.
    let nobody = HubOptions {
        huggingface: "http://127.0.0.1:1".to_owned(),
        modelscope: String::new(),
        huggingface_token: None,
        retry_pause: Duration::ZERO,
    };
    let unreachable = fetch_with("org/name", cache.path(), &Progress::Silent, &nobody).unwrap_err();
    assert!(matches!(unreachable, ModelError::Network { .. }), "{unreachable}");
}

#[test]
fn two_fetches_at_a_time_download_once() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(&fixture("st-mean"), Faults::default());
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| fetch(&server, cache.path()).unwrap()));
        for fetched in both {
            assert_complete(&fetched.join().unwrap());
        }
    });
    assert_eq!(server.requests(WEIGHTS).len(), 1);
}
