//! The feed of checkpoints, as somebody follows it who proves every step.

use std::time::{Duration, Instant};

use sift_spec::api::{CheckpointItem, CheckpointsAnswer, ConsistencyAnswer, ProblemKind, Publish};
use sift_spec::proof::{Proof, TreeHead, verify_consistency};
use sift_spec::types::TreeSize;
use sift_tests::{Http, LogProcess, TestLog, Writer, check_log};

/// Checks that each checkpoint is the log's and its tree extends the one before: strictly larger, and proven.
async fn verify(log: &TestLog, http: &Http, checkpoints: &[CheckpointItem]) -> Vec<TreeHead> {
    let mut heads: Vec<TreeHead> = Vec::new();
    for checkpoint in checkpoints {
        let head = log.trust().verify(checkpoint.note.as_bytes()).unwrap().checkpoint().head;
        assert_eq!(head.size, checkpoint.size);
        if let Some(before) = heads.last() {
            assert!(before.size < head.size, "{} after {}", head.size, before.size);
            let path = format!("/v1/proof/consistency?old={}&new={}", before.size, head.size);
            let ConsistencyAnswer { hashes, .. } = http.get(&path).await.unwrap().json();
            verify_consistency(before, &head, &Proof(hashes)).unwrap();
        }
        heads.push(head);
    }
    heads
}

/// All pages of history after a size.
async fn history(http: &Http, limit: usize, after: Option<TreeSize>) -> Vec<CheckpointItem> {
    let (mut found, mut after) = (Vec::new(), after);
    loop {
        let after_text = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let page: CheckpointsAnswer =
            http.get(&format!("/v1/checkpoints?limit={limit}{after_text}")).await.unwrap().json();
        assert!(page.checkpoints.len() <= limit.max(1) + 1);
        assert_eq!(page.publish, Publish::Signed);
        found.extend(page.checkpoints);
        match page.next {
            Some(next) => after = Some(next),
            None => {
                assert!(found.last().is_none_or(|last| last.size == page.newest));
                return found;
            }
        }
    }
}

/// Adds runs until the log has kept some checkpoints more.
async fn grow(log: &TestLog, writer: &Writer, runs: u64) {
    for _ in 0..runs {
        log.http.add_all(&writer.entries(&writer.run(60))).await.unwrap();
    }
}

async fn size(http: &Http) -> TreeSize {
    http.get("/v1/checkpoints").await.unwrap().json::<CheckpointsAnswer>().newest
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_every_kept_checkpoint_and_the_newest() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    grow(&log, &writer, 13).await;
    let all = history(&log.http, 1000, None).await;
    let sizes: Vec<u64> = all.iter().map(|checkpoint| checkpoint.size.get()).collect();
    // 2 + 13 runs of 122: one kept after each multiple of 256, that of the empty tree and the first, and the newest.
    println!("kept {sizes:?}");
    assert_eq!(sizes.first(), Some(&0));
    assert_eq!(sizes.last(), Some(&(2 + 13 * 122)));
    for multiple in 1..=6 {
        assert!(sizes.iter().any(|size| (multiple * 256..multiple * 256 + 122).contains(size)), "{multiple}");
    }
    verify(&log, &log.http, &all).await;
    for limit in [1, 2, 3, 7] {
        assert_eq!(history(&log.http, limit, None).await, all, "{limit} a page");
    }
    for (position, checkpoint) in all.iter().enumerate() {
        assert_eq!(history(&log.http, 3, Some(checkpoint.size)).await, all[position + 1..]);
    }
    // Who knows more than the log is told nothing new, and how far the log is.
    let beyond: CheckpointsAnswer = log.http.get("/v1/checkpoints?after=100000").await.unwrap().json();
    assert_eq!((beyond.checkpoints.len(), beyond.next, beyond.newest.get()), (0, None, 2 + 13 * 122));
    log.stop().await;
    log.restart().await.unwrap();
    assert_eq!(history(&log.http, 4, None).await, all, "after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_resumes_over_a_crash_without_gap_or_duplicate() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    grow(&log, &writer, 3).await;
    log.stop().await;
    let mut process = LogProcess::start(log.dir()).unwrap();
    let mut seen: Vec<CheckpointItem> = Vec::new();
    for round in 0..3_u64 {
        let http = process.http.clone();
        let resume = seen.last().map(|last| last.size.to_string());
        let headers: Vec<(&str, &str)> = resume.iter().map(|id| ("last-event-id", id.as_str())).collect();
        // `after` is what the reader began with; the header counts more.
        let mut events = http.events("/v1/checkpoints/stream?after=0", &headers).await.unwrap();
        let calls = 40 + round;
        let entries: Vec<Vec<u8>> = (0..8).flat_map(|_| writer.entries(&writer.run(calls))).collect();
        let target = size(&http).await.get() + entries.len() as u64;
        let writing = tokio::spawn({
            let http = http.clone();
            async move {
                for entries in entries.chunks(50) {
                    http.add_all(entries).await.unwrap();
                }
            }
        });
        while seen.last().is_none_or(|last| last.size.get() < target) {
            seen.push(events.next().await.expect("an event"));
        }
        writing.await.unwrap();
        verify(&log, &http, &seen).await;
        // Killed with the stream open, which ends; another goes on where it was.
        process.kill();
        assert_eq!(events.next().await, None);
        process = LogProcess::start(log.dir()).unwrap();
    }
    // Every kept checkpoint was among them.
    let kept = history(&process.http, 1000, Some(TreeSize::ZERO)).await;
    println!("{} events, {} kept", seen.len(), kept.len());
    for checkpoint in &kept {
        assert!(seen.contains(checkpoint), "{} is missing", checkpoint.size);
    }
    // And whoever names no size begins with the newest.
    let mut fresh = process.http.events("/v1/checkpoints/stream", &[]).await.unwrap();
    assert_eq!(fresh.next().await.as_ref(), kept.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_streams_at_once_tell_one_history() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    grow(&log, &writer, 3).await;
    let begun = size(&log.http).await.get();
    let target = begun + 12 * 122;
    let readers: Vec<_> = (0..200_u64)
        .map(|reader| {
            let http = log.http.clone();
            tokio::spawn(async move {
                // Half of them begin with history, half with what is newest.
                let path =
                    if reader % 2 == 0 { "/v1/checkpoints/stream?after=0" } else { "/v1/checkpoints/stream" };
                let mut events = http.events(path, &[]).await.unwrap();
                let mut seen = Vec::new();
                loop {
                    let checkpoint = events.next().await.expect("an event");
                    seen.push(checkpoint);
                    if seen.last().is_some_and(|last| last.size.get() == target) {
                        return seen;
                    }
                }
            })
        })
        .collect();
    grow(&log, &writer, 12).await;
    let (_, entries) = check_log(&log.http, &log.trust()).await;
    assert_eq!(entries.len() as u64, target);
    let kept = history(&log.http, 1000, None).await;
    let tree = sift_spec::tree::MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
    let mut events = 0;
    for reader in readers {
        let seen = reader.await.unwrap();
        events += seen.len();
        assert!(seen.is_sorted_by(|one, two| one.size < two.size), "ascending, each once");
        for checkpoint in &seen {
            let head = log.trust().verify(checkpoint.note.as_bytes()).unwrap().checkpoint().head;
            assert_eq!(tree.root(head.size), Some(head.root));
        }
        let first = seen[0].size;
        for checkpoint in kept.iter().filter(|kept| kept.size > first) {
            assert!(seen.contains(checkpoint), "{} is missing", checkpoint.size);
        }
    }
    println!("200 streams, {events} events, {} kept checkpoints", kept.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_stops_with_streams_open_and_has_so_many_at_most() {
    let mut log = TestLog::start().await;
    log.stop().await;
    log.config_mut().feed.streams_max = 20;
    log.restart().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut events = log.http.events("/v1/checkpoints/stream", &[]).await.unwrap();
        assert!(events.next().await.is_some());
        streams.push(events);
    }
    let refused = log.http.events("/v1/checkpoints/stream", &[]).await.err().expect("a refusal");
    assert_eq!(refused.problem().kind, ProblemKind::Busy);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    // Pages are for whoever got no stream, and a stream that is closed makes room.
    assert_eq!(history(&log.http, 10, None).await.len(), 1);
    drop(streams.pop());
    let end = Instant::now() + Duration::from_secs(30);
    let mut again = loop {
        match log.http.events("/v1/checkpoints/stream", &[]).await {
            Ok(events) => break events,
            Err(_) => assert!(Instant::now() < end, "a place must be given back"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(again.next().await.is_some());
    streams.push(again);
    // The log does not wait for its readers: their streams end, and it is gone well before its patience is.
    let begun = Instant::now();
    log.stop().await;
    let stopped = begun.elapsed();
    println!("stopped with 20 streams open after {stopped:?}");
    assert!(stopped < Duration::from_secs(9), "{stopped:?}");
    for mut events in streams {
        assert_eq!(events.next().await, None);
    }
}
