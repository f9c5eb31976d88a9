//! SIGKILL, at any time: nothing acknowledged is lost, no index is given twice, no two heads disagree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sift_spec::api::ConsistencyAnswer;
use sift_spec::hash::leaf_hash;
use sift_spec::proof::{Proof, TreeHead, verify_consistency};
use sift_spec::receipt::Receipt;
use sift_spec::types::{Hash, LeafIndex};
use sift_tests::{LogProcess, TestLog, check_log};

/// What writers were told before the log was killed.
#[derive(Default)]
struct Told {
    indices: BTreeMap<LeafIndex, Hash>,
    heads: Vec<TreeHead>,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_again_and_again() {
    let mut log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    log.stop().await;
    let trust = log.trust();
    let told = Arc::new(Mutex::new(Told::default()));
    for round in 0..8_u64 {
        let process = LogProcess::start(log.dir()).unwrap();
        let http = process.http.clone();
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let (http, writer, trust, told) =
                    (http.clone(), Arc::clone(&writer), trust.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    loop {
                        for entry in writer.entries(&writer.run(2)) {
                            // An error is the kill. No answer means that nothing was promised.
                            let Ok(answer) = http.add(&entry).await else { return };
                            let receipt = Receipt::parse(&answer.body).unwrap();
                            let verified = receipt.verify(leaf_hash(&entry), &trust).unwrap();
                            let mut told = told.lock().unwrap();
                            assert_eq!(
                                told.indices.insert(verified.index(), verified.leaf()),
                                None,
                                "an index twice"
                            );
                            told.heads.push(verified.checkpoint().checkpoint().head);
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(60 + 47 * round)).await;
        process.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        // Reopened, everything that was told holds, and the whole log verifies from nothing.
        let process = LogProcess::start(log.dir()).unwrap();
        let (checkpoint, entries) = check_log(&process.http, &trust).await;
        let told = {
            let told = told.lock().unwrap();
            for (index, leaf) in &told.indices {
                assert_eq!(leaf_hash(&entries[index.get() as usize]), *leaf, "entry {index}");
            }
            let mut heads = told.heads.clone();
            heads.sort_by_key(|head| head.size);
            heads.dedup();
            assert!(heads.windows(2).all(|pair| pair[0].size < pair[1].size), "two heads of one size");
            heads
        };
        for old in told {
            let path = format!("/v1/proof/consistency?old={}&new={}", old.size, checkpoint.head.size);
            let proof: ConsistencyAnswer =
                serde_json::from_slice(&process.http.get(&path).await.unwrap().body).unwrap();
            verify_consistency(&old, &checkpoint.head, &Proof(proof.hashes)).unwrap();
        }
        process.kill();
    }
    let told = told.lock().unwrap();
    println!(
        "8 kills, {} acknowledged records, {} heads: all there, all consistent",
        told.indices.len(),
        told.heads.len()
    );
    assert!(told.indices.len() > 100, "the log was under load");
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
