//! What callers get over a socket: bodies, headers, and one observation a request.

use super::*;

#[tokio::test]
async fn embed_answers_rows_and_says_who_computed_them() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = format!("x-request-id: mine\r\ntraceparent: {trace}\r\nx-deadline-ms: 5000\r\nx-shoal-hops: 7\r\n");
    let mut client = rig.connect().await;
    let reply = client.post("/embed", &headers, r#"{"inputs":["é","abc"]}"#).await;

    assert_eq!((reply.status, reply.body.as_str()), (200, "[[2.0,-0.5],[3.0,-0.5]]"));
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-request-id", "mine"),
        ("x-served-by", "node-b"),
        ("x-shoal-hops", "1"),
        ("x-shoal-placements", "2"),
        ("x-queue-time", "4"),
        ("x-inference-time", "7"),
        ("x-compute-tokens", "6"),
        ("x-compute-characters", "4"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name} in {}", reply.head);
    }
    assert!(reply.header("x-total-time").is_some() && reply.header("connection").is_none(), "{}", reply.head);
    {
        let jobs = rig.script.jobs.lock().unwrap();
        assert_eq!((&*jobs[0].request_id, jobs[0].traceparent.as_deref()), ("mine", Some(trace)));
        assert!((1..=5000).contains(&jobs[0].deadline_ms), "{}", jobs[0].deadline_ms);
    }
    // The same connection serves the next request.
    assert_eq!(client.post("/embed", "", r#"{"inputs":"a"}"#).await.body, "[[1.0,-0.5]]");
    rig.observed(&[("/embed", 200), ("/embed", 200)]).await;
}

#[tokio::test]
async fn a_session_and_a_wish_to_know_why_reach_the_job_and_why_comes_back_on_errors_too() {
    let rig = Rig::start(Plan::Answer, Limits { explain: true, ..Limits::default() }).await;
    let mut client = rig.connect().await;
    let asks = "x-session-id: one\r\nx-shoal-explain: 1\r\n";
    let why = Some(r#"{"why":"because"}"#);
    let reply = client.post("/embed", asks, r#"{"inputs":"a"}"#).await;
    assert_eq!((reply.status, reply.header("x-shoal-explain")), (200, why));
    let reply = client.post("/v1/embeddings", "", r#"{"input":"a"}"#).await;
    assert_eq!((reply.status, reply.header("x-shoal-explain")), (200, None));
    rig.plan(Plan::Fail(Failure::Overloaded { retry_after_ms: 5 }));
    let reply = client.post("/embed", asks, r#"{"inputs":"a"}"#).await;
    assert_eq!((reply.status, reply.header("x-shoal-explain")), (429, why));
    let jobs = rig.script.jobs.lock().unwrap();
    let heard: Vec<_> = jobs.iter().map(|job| (job.session.is_some(), job.explain)).collect();
    assert_eq!(heard, [(true, true), (false, false), (true, true)]);
    assert!(jobs.iter().all(|job| job.client == jobs[0].client && job.client != 0), "one caller is one client");
}

#[tokio::test]
async fn a_session_that_is_none_is_refused_in_the_callers_dialect() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let mut client = rig.connect().await;
    let why = "header `x-session-id` has to be one text of 1 to 128 printable ASCII characters";
    for session in ["", &"x".repeat(129), "\u{e9}"] {
        let header = format!("x-session-id: {session}\r\n");
        let tei = client.post("/embed", &header, r#"{"inputs":"a"}"#).await;
        assert_eq!((tei.status, tei.body), (400, format!(r#"{{"error":"{why}","error_type":"Validation"}}"#)));
        client = rig.connect().await;
        let openai = client.post("/v1/embeddings", &header, r#"{"input":"a"}"#).await;
        assert_eq!(openai.status, 400);
        assert!(openai.body.contains(why) && openai.body.contains("invalid_request_error"), "{}", openai.body);
        client = rig.connect().await;
    }
    assert!(rig.script.jobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn embeddings_answers_numbers_or_base64_with_usage() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let mut client = rig.connect().await;
    let reply = client.post("/v1/embeddings", "", r#"{"input":"ab","model":"minilm"}"#).await;
    assert_eq!(
        reply.body,
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[2.0,-0.5]}],"model":"minilm","usage":{"prompt_tokens":3,"total_tokens":3}}"#
    );
    assert!(reply.header("openai-processing-ms").is_some(), "{}", reply.head);
    assert_eq!(reply.header("x-request-id").map(str::len), Some(32));
    let reply = client.post("/embeddings", "", r#"{"input":["ab"],"encoding_format":"base64"}"#).await;
    assert_eq!(
        reply.body,
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AAAAQAAAAL8="}],"model":"minilm","usage":{"prompt_tokens":3,"total_tokens":3}}"#
    );
    rig.observed(&[("/v1/embeddings", 200), ("/v1/embeddings", 200)]).await;
}

#[tokio::test]
async fn probes_and_descriptions_answer_with_their_type() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let mut client = rig.connect().await;
    let cases = [
        ("/livez", 200, "text/plain; charset=utf-8", "alive\n"),
        ("/readyz", 200, "text/plain; charset=utf-8", "ready\n"),
        ("/readyz?verbose", 200, "application/json", r#"{"ready":true,"node_id":"node-a","cluster":"test","#),
        ("/health", 200, "application/json", r#"{"status":"healthy","timestamp":"#),
        ("/metrics", 200, "application/openmetrics-text; version=1.0.0; charset=utf-8", "shoal_up 1\n"),
        ("/info", 200, "application/json", r#"{"model_id":"minilm","model_sha":"00ff","model_dtype":"float32","#),
        ("/v1/models", 200, "application/json", r#"{"object":"list","data":[{"id":"minilm","object":"model","#),
        ("/v1/models/minilm", 200, "application/json", r#"{"id":"minilm","object":"model","created":5,"#),
        ("/", 200, "application/json", r#"{"name":"shoal","#),
    ];
    for (path, status, content_type, start) in cases {
        let reply = client.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (status, Some(content_type)), "{path}");
        assert!(reply.body.starts_with(start), "{path}: {}", reply.body);
        assert_eq!(reply.header("x-served-by"), Some("node-a"), "{path}");
    }
    rig.script.can_answer.store(false, Ordering::SeqCst);
    let cases = [
        ("/livez", 200, "alive\n"),
        ("/readyz", 503, "not ready: engine is starting, no peer can answer\n"),
        ("/readyz?verbose", 503, r#"{"ready":false,"#),
        ("/health", 503, r#"{"status":"unhealthy","#),
        ("/info", 200, r#"{"model_id":null,"#),
        ("/v1/models", 200, r#"{"object":"list","data":[]}"#),
    ];
    for (path, status, start) in cases {
        let reply = client.get(path).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.body.starts_with(start), "{path}: {}", reply.body);
    }
}

#[tokio::test]
async fn head_tells_the_length_and_sends_no_body() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let mut client = rig.connect().await;
    client.send("HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    while !client.buffer.ends_with(b"alive\n") {
        client.fill().await;
    }
    let text = String::from_utf8(client.buffer).unwrap();
    assert_eq!(text.matches("content-length: 6\r\n").count(), 2, "{text}");
    assert_eq!(text.matches("alive").count(), 1, "{text}");
}

#[tokio::test]
async fn every_refusal_comes_in_the_dialect_of_its_path() {
    let rig = Rig::start(Plan::Answer, Limits { inputs_max: 2, body_bytes_max: 200, ..Limits::default() }).await;
    let json = "content-type: application/json\r\n";
    let nothing = "there is nothing at this path; there is POST /embed, POST /v1/embeddings, GET /v1/models, GET /info, \
                   GET /livez, GET /readyz, GET /health, GET /status, GET /metrics";
    let tei = |error: &str, kind: &str| format!(r#"{{"error":"{error}","error_type":"{kind}"}}"#);
    let openai = |message: &str, param: &str, code: &str| {
        format!(r#"{{"error":{{"message":"{message}","type":"invalid_request_error","param":{param},"code":{code}}}}}"#)
    };
    let advice = "send JSON with the header `content-type: application/json`";
    let cases = [
        ("GET /nothing", "", "", 404, tei(nothing, "Validation")),
        ("GET /v1/nothing", "", "", 404, openai(nothing, "null", "null")),
        ("GET /embed", "", "", 405, tei("the method GET is not allowed here; use POST", "Validation")),
        ("PUT /v1/models", "", "", 405, openai("the method PUT is not allowed here; use GET, HEAD", "null", "null")),
        ("POST /embed", "", "{}", 415, tei(&format!("there is no content-type; {advice}"), "Validation")),
        (
            "POST /v1/embeddings",
            "content-type: text/plain\r\n",
            "{}",
            415,
            openai(&format!(r#"the content-type \"text/plain\" is not supported; {advice}"#), "null", "null"),
        ),
        (
            "POST /embed",
            "content-type: application/json\r\nx-deadline-ms: 0\r\n",
            r#"{"inputs":"a"}"#,
            400,
            tei("header `x-deadline-ms` has to be one whole number from 1 to 300000", "Validation"),
        ),
        (
            "POST /embed",
            json,
            "{\n \"inputs\": ]",
            400,
            tei("the body is not valid JSON: expected value at line 2 column 12", "Validation"),
        ),
        (
            "POST /embed",
            json,
            r#"{"inputs":[]}"#,
            400,
            tei("`inputs` cannot be empty: there is no text in it", "Empty"),
        ),
        (
            "POST /embed",
            json,
            r#"{"inputs":["a","b","c"]}"#,
            422,
            tei("`inputs` has 3 texts, at most 2 are taken; split the call", "Validation"),
        ),
        (
            "POST /v1/embeddings",
            json,
            r#"{"input":["a","b","c"]}"#,
            400,
            openai("`input` has 3 texts, at most 2 are taken; split the call", r#""input""#, "null"),
        ),
        (
            "POST /v1/embeddings",
            json,
            r#"{"input":"a","model":"gpt"}"#,
            404,
            openai("the model `gpt` does not exist here; there is `minilm`", r#""model""#, r#""model_not_found""#),
        ),
        (
            "GET /v1/models/gpt",
            "",
            "",
            404,
            openai("the model `gpt` does not exist here; there is `minilm`", r#""model""#, r#""model_not_found""#),
        ),
    ];
    let count = cases.len();
    for (line, headers, body, status, expected) in cases {
        let mut client = rig.connect().await;
        let length = body.len();
        client.send(format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.body), (status, expected), "{line} {body}");
        assert_eq!(reply.head.contains("\r\nallow: "), status == 405, "{}", reply.head);
        assert!(reply.head.contains("\r\nx-served-by: node-a\r\n"), "{}", reply.head);
    }
    assert_eq!(*rig.script.placed.borrow(), 0, "a refused request was placed");
    assert_eq!(rig.script.observed.borrow().len(), count);
}

#[tokio::test]
async fn failures_of_the_job_reach_the_caller_with_the_time_to_wait() {
    let rig = Rig::start(Plan::Fail(Failure::Overloaded { retry_after_ms: 1500 }), Limits::default()).await;
    let mut client = rig.connect().await;
    let reply = client.post("/embed", "", r#"{"inputs":"a"}"#).await;
    assert_eq!(
        (reply.status, reply.header("retry-after"), reply.header("retry-after-ms")),
        (429, Some("2"), Some("1500"))
    );

    rig.plan(Plan::Fail(Failure::Unavailable { message: "loading".into(), retry_after_ms: 200 }));
    let reply = client.post("/v1/embeddings", "", r#"{"input":"a"}"#).await;
    assert_eq!(
        (reply.status, reply.header("retry-after"), reply.header("retry-after-ms")),
        (503, Some("1"), Some("200"))
    );

    rig.plan(Plan::Fail(Failure::Engine { index: 3, message: "NaN".into() }));
    let reply = client.post("/v1/embeddings", "", r#"{"input":"a"}"#).await;
    assert_eq!((reply.status, reply.header("x-should-retry")), (500, Some("false")));

    rig.plan(Plan::Short);
    let reply = client.post("/embed", "", r#"{"inputs":["a","b"]}"#).await;
    assert_eq!((reply.status, reply.body.contains("gave 1 vectors for 2 texts")), (500, true), "{}", reply.body);
    rig.observed(&[("/embed", 429), ("/v1/embeddings", 503), ("/v1/embeddings", 500), ("/embed", 500)]).await;
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_lives_on() {
    let rig = Rig::start(Plan::Panic, Limits::default()).await;
    let mut client = rig.connect().await;
    let reply = client.post("/v1/embeddings", "x-request-id: p\r\n", r#"{"input":"a"}"#).await;
    assert_eq!((reply.status, reply.header("x-request-id")), (500, Some("p")));
    assert!(reply.body.starts_with(r#"{"error":{"message":"a fault in this program"#), "{}", reply.body);
    rig.plan(Plan::Answer);
    assert_eq!(client.post("/embed", "", r#"{"inputs":"a"}"#).await.status, 200);
    rig.observed(&[("/v1/embeddings", 500), ("/embed", 200)]).await;
}
