//! The same face over HTTP/2 without TLS.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

type Sender = SendRequest<Full<Bytes>>;

/// Connects; the second value ends with the connection.
async fn connect(rig: &Rig) -> (Sender, JoinHandle<()>) {
    let stream = within(TcpStream::connect(rig.addr)).await.unwrap();
    let (sender, connection) = within(handshake(TokioExecutor::new(), TokioIo::new(stream))).await.unwrap();
    let ended = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, ended)
}

fn embed(text: &str) -> Request<Full<Bytes>> {
    Request::post("http://x/embed")
        .header("content-type", "application/json")
        .body(Full::from(serde_json::json!({ "inputs": text }).to_string()))
        .unwrap()
}

async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> (StatusCode, String) {
    let reply = within(sender.send_request(request)).await.unwrap();
    assert_eq!(reply.version(), Version::HTTP_2);
    assert!(!reply.headers().contains_key("connection"), "{:?}", reply.headers());
    let status = reply.status();
    let body = within(reply.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn requests_share_a_connection() {
    let rig = Rig::start(Plan::Hold, Limits::default()).await;
    let (sender, _ended) = connect(&rig).await;
    let (mut one, mut two) = (sender.clone(), sender);
    let both = async { tokio::join!(send(&mut one, embed("a")), send(&mut two, embed("bc"))) };
    let release = async {
        rig.placed(2).await;
        rig.release(2);
    };
    let (replies, ()) = tokio::join!(both, release);
    let ok = |body: &str| (StatusCode::OK, body.to_owned());
    assert_eq!(replies, (ok("[[1.0,-0.5]]"), ok("[[2.0,-0.5]]")));
    rig.observed(&[("/embed", 200); 2]).await;
}

/// Waits until `request` has been placed as the job with this number; it must not be answered.
async fn placed(rig: &Rig, jobs: usize, request: impl Future) {
    tokio::select! {
        _ = request => panic!("answered a job that is held"),
        () = rig.placed(jobs) => {}
    }
}

#[tokio::test]
async fn a_reset_stream_takes_its_job_along() {
    let rig = Rig::start(Plan::Hold, Limits::default()).await;
    let (mut sender, _ended) = connect(&rig).await;
    // Dropping the future of one request resets its stream and nothing else.
    placed(&rig, 1, sender.send_request(embed("a"))).await;
    rig.abandoned(1).await;
    rig.observed(&[("/embed", 499)]).await;
    rig.plan(Plan::Answer);
    assert_eq!(send(&mut sender, embed("a")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_lost_connection_takes_its_jobs_along() {
    let mut rig = Rig::start(Plan::Hold, Limits::default()).await;
    // Between client and server runs a relay, because the client's own tasks cannot be stopped from outside.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = std::mem::replace(&mut rig.addr, relay.local_addr().unwrap());
    let relaying = tokio::spawn(async move {
        let (mut near, _) = relay.accept().await.unwrap();
        let mut far = TcpStream::connect(server).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let (sender, _ended) = connect(&rig).await;
    let (mut one, mut two) = (sender.clone(), sender);
    let both = async { tokio::join!(one.send_request(embed("a")), two.send_request(embed("b"))) };
    let lose = async {
        rig.placed(2).await;
        relaying.abort();
        rig.abandoned(2).await;
    };
    let ((first, second), ()) = tokio::join!(within(both), lose);
    assert!(first.is_err() && second.is_err(), "answered jobs that are held");
    rig.observed(&[("/embed", 499); 2]).await;
}

#[tokio::test]
async fn an_answer_that_its_stream_does_not_take_counts_against_the_common_budget() {
    // 6 MB of an answer; a stream takes 2 MB before its caller reads, and there is room for one and a half answers.
    let rig = Rig::start(Plan::Wide(500_000), Limits { bodies_bytes_max: 9_000_000, ..Limits::default() }).await;
    let (mut sender, _ended) = connect(&rig).await;
    let unread = within(sender.send_request(embed("a"))).await.unwrap();
    assert_eq!(unread.status(), StatusCode::OK);
    assert_eq!(send(&mut sender, embed("a")).await.0, StatusCode::TOO_MANY_REQUESTS);
    // Dropped, it is reset, and its bytes are gone.
    drop(unread);
    within(async { while send(&mut sender, embed("a")).await.0 != StatusCode::OK {} }).await;
}

#[tokio::test]
async fn a_stop_sends_goaway_and_finishes_what_is_in_work() {
    let rig = Rig::start(Plan::Hold, Limits::default()).await;
    let (mut sender, ended) = connect(&rig).await;
    let request = tokio::spawn(async move { send(&mut sender, embed("a")).await });
    rig.placed(1).await;
    rig.stop.send_replace(true);
    rig.release(1);
    assert_eq!(within(request).await.unwrap(), (StatusCode::OK, "[[1.0,-0.5]]".to_owned()));
    within(ended).await.unwrap();
    assert_eq!(rig.stopped().await, 0);
}

#[tokio::test]
async fn a_draining_node_sends_goaway_after_its_answer() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    rig.script.draining.store(true, Ordering::SeqCst);
    let (mut sender, ended) = connect(&rig).await;
    assert_eq!(send(&mut sender, embed("a")).await.0, StatusCode::OK);
    within(ended).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() };
    let rig = Rig::start(Plan::Answer, limits).await;
    let (mut sender, ended) = connect(&rig).await;
    assert_eq!(send(&mut sender, embed("a")).await.0, StatusCode::OK);
    within(ended).await.unwrap();
}

#[tokio::test]
async fn limits_and_panics_are_answers_of_one_stream() {
    let rig = Rig::start(Plan::Panic, Limits { body_bytes_max: 50, ..Limits::default() }).await;
    let (mut sender, _ended) = connect(&rig).await;
    assert_eq!(send(&mut sender, embed("a")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(send(&mut sender, embed(&"x".repeat(1_000_000))).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let request = Request::get("http://x/livez").header("x-long", "y".repeat(20_000)).body(Full::default()).unwrap();
    assert_eq!(send(&mut sender, request).await.0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let request = Request::head("http://x/livez").body(Full::default()).unwrap();
    assert_eq!(send(&mut sender, request).await, (StatusCode::OK, String::new()));
    rig.plan(Plan::Answer);
    assert_eq!(send(&mut sender, embed("a")).await.0, StatusCode::OK);
}
