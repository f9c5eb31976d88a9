//! SIGKILL, at any time: nothing acknowledged is lost, no index is given twice, no two heads disagree.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sift_spec::hash::leaf_hash;
use sift_spec::receipt::Receipt;
use sift_tests::{LogProcess, Sent, TestLog, Told, check_log};

/// Kills, unless `SIFT_KILLS` says how many.
const KILLS: u64 = 8;

/// Requests whose outcome is not known when the log is killed, to be sent again to the next process.
type Unanswered = Arc<Mutex<BTreeSet<Vec<Vec<u8>>>>>;

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_again_and_again() {
    let kills =
        std::env::var("SIFT_KILLS").map_or(KILLS, |kills| kills.parse().expect("SIFT_KILLS is a number"));
    let mut log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    log.stop().await;
    let told = Arc::new(Told::new(log.trust()));
    let unanswered = Unanswered::default();
    let mut resent = 0;
    for round in 0..kills {
        let process = LogProcess::start(log.dir()).unwrap();
        let again = std::mem::take(&mut *unanswered.lock().unwrap());
        resent += again.len();
        let writers: Vec<_> = (0..8_u64)
            .map(|number| {
                let (http, writer) = (process.http.clone(), Arc::clone(&writer));
                let (told, unanswered) = (Arc::clone(&told), Arc::clone(&unanswered));
                let again = again.clone();
                tokio::spawn(async move {
                    // Everybody sends what had no answer: each entry gets one index, whether its first sending was
                    // written or not. `told` compares them.
                    for request in again {
                        match told.send(&http, &request).await {
                            Sent::Answered(results) => {
                                assert!(results.iter().all(Result::is_ok), "{results:?}")
                            }
                            Sent::Refused(problem) => panic!("{problem:?}"),
                            Sent::Silent => {
                                unanswered.lock().unwrap().insert(request);
                            }
                        }
                    }
                    // Half of them send single records, the others bundles; every one is sent twice at the same time.
                    loop {
                        let entries = writer.entries(&writer.run(2));
                        let size = if number % 2 == 0 { 1 } else { entries.len() };
                        for request in entries.chunks(size) {
                            let (one, two) =
                                tokio::join!(told.send(&http, request), told.send(&http, request));
                            for sent in [one, two] {
                                match sent {
                                    Sent::Answered(results) => {
                                        assert!(results.iter().all(Result::is_ok), "{results:?}");
                                    }
                                    Sent::Refused(problem) => panic!("{problem:?}"),
                                    // The kill. No answer means that nothing was promised.
                                    Sent::Silent => {
                                        unanswered.lock().unwrap().insert(request.to_vec());
                                        return;
                                    }
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(60 + 47 * (round % 8))).await;
        process.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        // Reopened, everything that was told holds, and the whole log verifies from nothing.
        let process = LogProcess::start(log.dir()).unwrap();
        told.check(&process.http).await;
        process.kill();
    }
    let (acknowledged, heads) = told.counts();
    println!(
        "{kills} kills, {acknowledged} acknowledged entries, {heads} heads, {resent} requests sent again: all there, \
         one index each, all consistent"
    );
    assert!(acknowledged > 100 && resent > 0, "the log was under load");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_answers_what_it_took() {
    let mut log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (http, writer, trust) = (log.http.clone(), Arc::clone(&writer), log.trust());
            tokio::spawn(async move {
                let mut told = Vec::new();
                loop {
                    for entry in writer.entries(&writer.run(1)) {
                        match http.add(&entry).await {
                            Ok(answer) if answer.status == 200 => {
                                let receipt = Receipt::parse(&answer.body).unwrap();
                                told.push(receipt.verify(leaf_hash(&entry), &trust).unwrap());
                            }
                            // Not writing, or not listening any more: a clear end.
                            _ => return told,
                        }
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    log.stop().await;
    let mut told = Vec::new();
    for task in tasks {
        told.extend(task.await.unwrap());
    }
    log.restart().await.unwrap();
    let (_, entries) = check_log(&log.http, &log.trust()).await;
    assert!(!told.is_empty());
    for verified in told {
        assert_eq!(leaf_hash(&entries[verified.index().get() as usize]), verified.leaf());
    }
}
