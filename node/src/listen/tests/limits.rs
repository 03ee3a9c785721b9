//! What hostile and slow callers run into.

use super::*;

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn headers_that_do_not_come_close_the_connection() {
    let rig = Rig::start(Plan::Answer, Limits { header_timeout: SHORT, ..Limits::default() }).await;
    // Nothing, one letter, a part of the HTTP/2 preface, a part of a request, the HTTP/2 preface and nothing more.
    for start in ["", "G", "PRI * HT", "GET /livez HTTP/1.1\r\nhost: x\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = rig.connect().await;
        client.send(start).await;
        let mut rest = Vec::new();
        let _ = within(client.stream.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{start:?}: {:?}", String::from_utf8_lossy(&rest));
    }
    // After a request too.
    let mut client = rig.connect().await;
    assert_eq!(client.get("/livez").await.status, 200);
    client.closed().await;
    rig.observed(&[("/livez", 200)]).await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_a_408() {
    let rig = Rig::start(Plan::Answer, Limits { body_idle_timeout: SHORT, ..Limits::default() }).await;
    for (framing, part) in [("content-length: 20", "{\"inp"), ("transfer-encoding: chunked", "5\r\n{\"inp\r\n")] {
        let mut client = rig.connect().await;
        let head = format!("POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
        client.send(head + part).await;
        let reply = client.reply().await;
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (408, r#"{"error":"nothing of the body came for 100 ms","error_type":"Validation"}"#)
        );
        assert_eq!(reply.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn a_body_has_to_be_complete_before_the_deadline() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let mut client = rig.connect().await;
    client
        .send("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-deadline-ms: 50\r\ncontent-length: 9\r\n\r\n{")
        .await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 408);
    assert!(reply.body.contains("the deadline passed before the body was complete"), "{}", reply.body);
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_413_that_the_caller_can_read() {
    let rig = Rig::start(Plan::Answer, Limits { body_bytes_max: 100_000, ..Limits::default() }).await;
    let expected = r#"{"error":"the body is larger than 100000 bytes; split the call","error_type":"Validation"}"#;
    let size = 8_000_000;
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let declared = format!("{head}content-length: {size}\r\n\r\n{}", " ".repeat(size));
    let chunk = format!("{:x}\r\n{}\r\n", 50_000, " ".repeat(50_000));
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(size / 50_000));
    for request in [declared, chunked] {
        // Everything is sent before the answer is looked at, as simple clients do.
        let mut client = rig.connect().await;
        client.send(&request).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.body.as_str()), (413, expected));
        assert_eq!(reply.header("connection"), Some("close"));
    }
    // The declared length alone is enough.
    let mut client = rig.connect().await;
    client.send(format!("{head}content-length: 100001\r\n\r\n")).await;
    assert_eq!(client.reply().await.status, 413);
    rig.observed(&[("/embed", 413); 3]).await;
}

#[tokio::test]
async fn a_body_at_the_limit_is_taken_in_both_framings() {
    let text = "x".repeat(2_000_000 - r#"{"inputs":""}"#.len());
    let body = format!(r#"{{"inputs":"{text}"}}"#);
    let rig = Rig::start(Plan::Answer, Limits { body_bytes_max: body.len(), ..Limits::default() }).await;
    let mut client = rig.connect().await;
    assert_eq!(client.post("/embed", "", &body).await.status, 200);
    let (first, second) = body.split_at(777_777);
    let (first_length, second_length) = (first.len(), second.len());
    client
        .send(format!(
            "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
             {first_length:x}\r\n{first}\r\n{second_length:x}\r\n{second}\r\n0\r\n\r\n"
        ))
        .await;
    assert_eq!(client.reply().await.status, 200);
    let jobs = rig.script.jobs.lock().unwrap();
    assert_eq!(jobs.len(), 2);
    assert!(jobs.iter().all(|job| *job.texts[0] == *text));
}

#[tokio::test]
async fn bodies_beyond_the_common_budget_are_told_to_come_again() {
    let body = format!(r#"{{"inputs":"{}"}}"#, "x".repeat(1000));
    let rig = Rig::start(Plan::Hold, Limits { bodies_bytes_max: body.len() * 3 / 2, ..Limits::default() }).await;
    let (mut first, mut second) = (rig.connect().await, rig.connect().await);
    first.send(post("/embed", "", &body)).await;
    rig.placed(1).await;
    let reply = second.post("/embed", "", &body).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
    rig.release(2);
    assert_eq!(first.reply().await.status, 200);
    let mut third = rig.connect().await;
    assert_eq!(third.post("/embed", "", &body).await.status, 200);
}

#[tokio::test]
async fn ten_thousand_headers_are_refused() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let mut client = rig.connect().await;
    let headers: String = (0..10_000).map(|index| format!("x-{index}: y\r\n")).collect();
    client.send(format!("GET /livez HTTP/1.1\r\nhost: x\r\n{headers}\r\n")).await;
    assert_eq!(client.reply().await.status, 431);
    rig.observed(&[]).await;
    // And one endless header.
    let mut client = rig.connect().await;
    client.send(format!("GET /livez HTTP/1.1\r\nx: {}", "y".repeat(200_000))).await;
    assert_eq!(client.reply().await.status, 431);
}

#[tokio::test]
async fn two_framings_at_once_cannot_smuggle_a_request() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let smuggled = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    for framing in
        ["content-length: 5\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 5"]
    {
        let mut client = rig.connect().await;
        let head = format!("POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
        client.send(format!("{head}0\r\n\r\n{smuggled}")).await;
        // The chunked framing alone counts, as RFC 9112 section 6.3 says, and the connection ends with the answer.
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (400, Some("close")), "{reply:?}");
        client.closed().await;
    }
    // What hyper itself refuses: framings that contradict themselves.
    for framing in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: -5",
        "content-length: 5, 5",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, gzip",
    ] {
        let mut client = rig.connect().await;
        client.send(format!("POST /embed HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n{smuggled}")).await;
        assert_eq!(client.reply().await.status, 400, "{framing}");
        client.closed().await;
    }
    rig.observed(&[("/embed", 400); 2]).await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_does_not_hold_its_connection() {
    let limits = Limits {
        connections_max: 1,
        idle_timeout: SHORT,
        header_timeout: SHORT,
        body_bytes_max: 100_000,
        ..Limits::default()
    };
    // About 100 MB of answer: more than the kernel's buffers take.
    let rig = Rig::start(Plan::Wide(5_000), limits).await;
    let texts = vec!["a"; 2_000];
    let mut idle = rig.connect().await;
    idle.send(post("/embed", "", &serde_json::json!({ "inputs": texts }).to_string())).await;
    rig.observed(&[("/embed", 200)]).await;
    // The only connection becomes free although the caller of the first neither reads nor leaves.
    let mut next = rig.connect().await;
    assert_eq!(next.get("/livez").await.status, 200);
    drop(idle);
}

#[tokio::test]
async fn answers_that_nobody_reads_count_against_the_common_budget_until_they_are_read() {
    // About 24 MB of an answer, more than the kernel's buffers take; there is room for one and a half.
    let rig = Rig::start(Plan::Wide(5_000), Limits { bodies_bytes_max: 36_000_000, ..Limits::default() }).await;
    let large = serde_json::json!({ "inputs": vec!["a"; 400] }).to_string();
    let (mut first, mut second) = (rig.connect().await, rig.connect().await);
    first.send(post("/embed", "", &large)).await;
    rig.observed(&[("/embed", 200)]).await;
    let reply = second.post("/embed", "", &large).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")), "{}", reply.body);
    assert_eq!(second.post("/embed", "", r#"{"inputs":"a"}"#).await.status, 200, "a small one has room");
    assert_eq!(first.reply().await.status, 200);
    // The last bytes are in the caller's hands a moment before this node hears of it.
    within(async { while second.post("/embed", "", &large).await.status != 200 {} }).await;
}

#[tokio::test]
async fn an_answer_larger_than_the_common_budget_is_given_while_little_else_is_held() {
    let rig = Rig::start(Plan::Wide(5_000), Limits { bodies_bytes_max: 50_000, ..Limits::default() }).await;
    let mut client = rig.connect().await;
    for _ in 0..3 {
        within(async { while client.post("/embed", "", r#"{"inputs":"a"}"#).await.status != 200 {} }).await;
    }
}

#[tokio::test]
async fn a_long_job_is_not_idleness() {
    let rig = Rig::start(Plan::Hold, Limits { idle_timeout: SHORT, header_timeout: SHORT, ..Limits::default() }).await;
    let mut client = rig.connect().await;
    client.send(post("/embed", "", r#"{"inputs":"a"}"#)).await;
    rig.placed(1).await;
    // Each of these silent connections lasts as long as the limits allow.
    for _ in 0..3 {
        rig.connect().await.closed().await;
    }
    rig.release(1);
    assert_eq!(client.reply().await.status, 200);
}
