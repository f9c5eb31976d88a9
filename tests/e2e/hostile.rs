//! Clients that mean no good, while honest ones go on.

use std::time::{Duration, Instant};

use sift_spec::api::{BatchResult, ProblemKind};
use sift_tests::{TestLog, check_log, new_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn address(log: &TestLog) -> String {
    log.http.url().trim_start_matches("http://").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_connection_does_not_keep_the_log_from_stopping() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let mut stuck = TcpStream::connect(address(&log)).await.unwrap();
    stuck.write_all(b"GET /checkpoint HTTP/1.1\r\nhost: x\r\nx-never: ").await.unwrap();
    log.http.add_all(&writer.entries(&writer.run(1))).await.unwrap();
    let begun = Instant::now();
    log.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    log.restart().await.unwrap();
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_never_end_are_cut_off() {
    let log = TestLog::start().await;
    let mut slow = TcpStream::connect(address(&log)).await.unwrap();
    slow.write_all(b"GET /checkpoint HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut answer = Vec::new();
    // The log closes the connection by itself.
    tokio::time::timeout(Duration::from_secs(20), slow.read_to_end(&mut answer)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_take_no_more_than_their_share() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    // 16 times 8 MiB is all there is for bodies; whoever comes next is told to come again.
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(address(&log)).await.unwrap();
        let head = "POST /v1/records HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
                    content-length: 8388608\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[0; 1024]).await.unwrap();
        held.push(stream);
    }
    let entry = writer.sign(&writer.run(0)[0]).into_bytes();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = log.http.add(&entry).await.unwrap();
        if answer.status == 429 {
            assert_eq!(answer.problem().kind, ProblemKind::Busy);
            break;
        }
        assert!(Instant::now() < end, "the seventeenth body must be refused");
    }
    // Reads go on, and so do writes once the others are gone.
    assert_eq!(log.http.get("/checkpoint").await.unwrap().status, 200);
    drop(held);
    let end = Instant::now() + Duration::from_secs(10);
    while log.http.add(&entry).await.unwrap().status != 200 {
        assert!(Instant::now() < end, "the room must be given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_signatures_among_good_ones_harm_only_themselves() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let stranger = new_key("test/kernel");
    let runs: Vec<_> = (0..100).map(|_| writer.run(2)).collect();
    let mut entries = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        for (seq, record) in run.iter().enumerate() {
            let mut entry = writer.sign(record).into_bytes();
            if number % 10 == 3 && seq == 0 {
                // The first character of the signature, after the key id: another R.
                let position = entry.len() - 60;
                entry[position] = if entry[position] == b'A' { b'B' } else { b'A' };
            }
            entries.push(entry);
        }
        if number == 50 {
            entries.push(sift_spec::entry::Entry::sign(&run[0], &stranger).unwrap().into_bytes());
        }
    }
    let answer = log.http.add_all(&entries).await.unwrap();
    let refused = answer.results.iter().filter(|result| matches!(result, BatchResult::Problem(_))).count();
    // Ten runs of six records each lose their open and so everything, and the stranger is refused.
    assert_eq!(refused, 10 * 6 + 1);
    let (_, entries) = check_log(&log.http, &log.trust()).await;
    assert_eq!(entries.len(), 2 + 90 * 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once() {
    let mut log = TestLog::start().await;
    log.stop().await;
    log.config_mut().connections_max = 64;
    log.restart().await.unwrap();
    let writer = log.writer("test/kernel").await;
    // Connections that say nothing: more than are served at a time.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address(&log)).await.unwrap());
    }
    // They are closed for saying nothing, and an honest writer gets its turn.
    let entry = writer.sign(&writer.run(0)[0]).into_bytes();
    let answer = tokio::time::timeout(Duration::from_secs(60), log.http.add(&entry)).await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}
