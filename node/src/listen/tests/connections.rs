//! How connections begin, how many there are, and how they end.

use super::*;

#[tokio::test]
async fn callers_beyond_the_cap_wait_for_a_free_connection() {
    let rig = Rig::start(Plan::Answer, Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = rig.connect().await;
    assert_eq!(first.get("/livez").await.status, 200);
    let mut second = rig.connect().await;
    second.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    for _ in 0..10 {
        assert_eq!(first.get("/livez").await.status, 200);
    }
    // The second request was there before the last ten of the first connection, and still waits.
    rig.observed(&[("/livez", 200); 11]).await;
    drop(first);
    assert_eq!(second.reply().await.status, 200);
}

#[tokio::test]
async fn a_caller_who_leaves_takes_its_job_along() {
    let rig = Rig::start(Plan::Hold, Limits::default()).await;
    let mut client = rig.connect().await;
    client.send(post("/embed", "", r#"{"inputs":"a"}"#)).await;
    rig.placed(1).await;
    drop(client);
    rig.abandoned(1).await;
    rig.observed(&[("/embed", 499)]).await;
}

#[tokio::test]
async fn a_stop_lets_what_is_in_work_finish() {
    let rig = Rig::start(Plan::Hold, Limits::default()).await;
    let (mut busy, mut idle) = (rig.connect().await, rig.connect().await);
    assert_eq!(idle.get("/livez").await.status, 200);
    busy.send(post("/embed", "", r#"{"inputs":"a"}"#)).await;
    rig.placed(1).await;

    rig.stop.send_replace(true);
    // The idle connection is closed first, so the stop is under way while the job still runs.
    idle.closed().await;
    rig.release(1);
    let reply = busy.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    busy.closed().await;
    let addr = rig.addr;
    assert_eq!(rig.stopped().await, 0);
    assert!(within(TcpStream::connect(addr)).await.is_err(), "somebody still listens");
}

#[tokio::test]
async fn a_stop_cuts_off_what_does_not_finish_in_time() {
    let rig = Rig::start(Plan::Hold, Limits { stop_timeout: Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = rig.connect().await;
    client.send(post("/embed", "", r#"{"inputs":"a"}"#)).await;
    rig.placed(1).await;
    let script = Arc::clone(&rig.script);
    assert_eq!(rig.stopped().await, 1);
    within(script.abandoned.subscribe().wait_for(|&abandoned| abandoned == 1)).await.unwrap();
    client.closed().await;
}

#[tokio::test]
async fn who_connected_before_the_stop_is_answered() {
    // The caller is in the kernel's queue, its request sent, before the server even looks.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::new(within(TcpStream::connect(listener.local_addr().unwrap())).await.unwrap());
    client.send(post("/embed", "", r#"{"inputs":"a"}"#)).await;
    let rig = Rig::start_on(listener, Plan::Answer, Limits::default(), watch::Sender::new(true));
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    client.closed().await;
    assert_eq!(rig.stopped().await, 0);
}

#[tokio::test]
async fn a_stop_also_comes_when_its_sender_is_gone() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let Rig { stop, serving, .. } = rig;
    drop(stop);
    assert_eq!(within(serving).await.unwrap(), 0);
}

#[tokio::test]
async fn a_draining_node_answers_and_asks_to_connect_elsewhere() {
    let rig = Rig::start(Plan::Answer, Limits::default()).await;
    let mut client = rig.connect().await;
    assert_eq!(client.get("/livez").await.header("connection"), None);
    rig.script.draining.store(true, Ordering::SeqCst);
    let reply = client.post("/embed", "", r#"{"inputs":"a"}"#).await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    client.closed().await;
    // New callers are served all the same.
    assert_eq!(rig.connect().await.post("/embed", "", r#"{"inputs":"a"}"#).await.status, 200);
}
