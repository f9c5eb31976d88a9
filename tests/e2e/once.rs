//! One index for one record: sent by many at once, in one round or in several, and again after a restart.

use std::collections::BTreeSet;
use std::sync::Arc;

use sift_spec::api::ProblemKind;
use sift_spec::types::LeafIndex;
use sift_tests::{Sent, TestLog, Told};

/// Callers at once.
const CALLERS: usize = 256;

/// Sends one request by all callers at once. Gives the indices that they were told.
async fn by_all(log: &TestLog, told: &Arc<Told>, entries: &[Vec<u8>]) -> Vec<Vec<LeafIndex>> {
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (http, told, entries) = (log.http.clone(), Arc::clone(told), entries.to_vec());
            tokio::spawn(async move {
                match told.send(&http, &entries).await {
                    Sent::Answered(results) => {
                        results.into_iter().map(|result| result.expect("admitted")).collect::<Vec<_>>()
                    }
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn by_256_callers_and_after_a_restart() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let told = Arc::new(Told::new(log.trust()));
    let single = writer.entries(&writer.run(0)).into_iter().take(1).collect::<Vec<_>>();
    let bundle = writer.entries(&writer.run(20));
    // The same record several times in one request, too.
    let repeated = [bundle.clone(), bundle.clone()].concat();
    for entries in [&single, &bundle, &repeated] {
        let size = told.look(&log.http).await.unwrap().size.get();
        let answers = by_all(&log, &told, entries).await;
        let distinct: BTreeSet<_> = answers.into_iter().collect();
        assert_eq!(distinct.len(), 1, "all callers are told the same");
        let grown = told.look(&log.http).await.unwrap().size.get() - size;
        let new = if std::ptr::eq(entries, &repeated) { 0 } else { entries.len() as u64 };
        assert_eq!(grown, new, "the tree grows by each record once");
    }
    let before = by_all(&log, &told, &bundle).await.swap_remove(0);
    log.stop().await;
    log.restart().await.unwrap();
    assert_eq!(by_all(&log, &told, &bundle).await.swap_remove(0), before, "the same after a restart");
    let head = told.check(&log.http).await;
    println!("{CALLERS} callers, {} entries: {before:?}", head.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_256_different_records_for_one_place_one_is_admitted() {
    let log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    let told = Arc::new(Told::new(log.trust()));
    let open = writer.run(0).swap_remove(0);
    let callers: Vec<_> = (0..CALLERS as u64)
        .map(|n| {
            let (http, told) = (log.http.clone(), Arc::clone(&told));
            let mut other = open.clone();
            other.time = sift_spec::types::UnixMillis::new(other.time.get() + n).unwrap();
            let entry = writer.sign(&other).into_bytes();
            tokio::spawn(async move { told.send(&http, &[entry]).await })
        })
        .collect();
    let (mut admitted, mut named) = (BTreeSet::new(), BTreeSet::new());
    for caller in callers {
        match caller.await.unwrap() {
            Sent::Answered(results) => admitted.extend(results.into_iter().map(Result::unwrap)),
            Sent::Refused(problem) => {
                assert_eq!(problem.kind, ProblemKind::Equivocation, "{problem:?}");
                named.extend(problem.index);
            }
            Sent::Silent => panic!("no answer"),
        }
    }
    assert_eq!((admitted.len(), &named), (1, &admitted), "one is admitted, and the others name it");
    assert_eq!(told.check(&log.http).await.size.get(), 3);
}
