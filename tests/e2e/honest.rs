//! What an honest writer and an honest reader see.

use sift_spec::api::{BatchResult, ConsistencyAnswer, InclusionAnswer, RunAnswer, RunsAnswer};
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::proof::{Proof, TreeHead, verify_consistency, verify_inclusion, verify_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::tree::MemoryTree;
use sift_spec::types::{LeafIndex, TreeSize};
use sift_tests::{TestLog, check_log};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_a_proof_that_verifies() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    for entry in writer.entries(&writer.run(3)) {
        let answer = log.http.add(&entry).await.unwrap();
        assert_eq!(
            (answer.status, answer.media.as_str()),
            (200, "text/plain; charset=utf-8"),
            "{}",
            answer.text()
        );
        let receipt = Receipt::parse(&answer.body).unwrap();
        let verified = receipt.verify(leaf_hash(&entry), &log.trust()).unwrap();
        // The same bytes again: the same index, with a fresh proof.
        let again = Receipt::parse(&log.http.add(&entry).await.unwrap().body).unwrap();
        assert_eq!(again.verify(leaf_hash(&entry), &log.trust()).unwrap().index(), verified.index());
        // And the log serves both again.
        let index = verified.index();
        assert_eq!(log.http.get(&format!("/v1/records/{index}")).await.unwrap().body, entry);
        let later = log.http.get(&format!("/v1/records/{index}.tlog-proof")).await.unwrap();
        Receipt::parse(&later.body).unwrap().verify(leaf_hash(&entry), &log.trust()).unwrap();
    }
    let (checkpoint, entries) = check_log(&log.http, &log.trust()).await;
    assert_eq!((checkpoint.head.size.get(), entries.len()), (2 + 8, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_answered_with_one_proof() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let mut entries = writer.entries(&writer.run(120));
    entries.extend(writer.entries(&writer.run(100)));
    // A duplicate within the bundle has the index of the first.
    entries.push(entries[7].clone());
    let answer = log.http.add_all(&entries).await.unwrap();
    let indices: Vec<LeafIndex> = answer
        .results
        .iter()
        .map(|result| match result {
            BatchResult::Index(index) => *index,
            BatchResult::Problem(problem) => panic!("{problem:?}"),
        })
        .collect();
    assert_eq!(indices[entries.len() - 1], indices[7]);
    let head = log.trust().verify(answer.checkpoint.as_bytes()).unwrap().checkpoint().head;
    let mut leaves: Vec<_> =
        indices.iter().copied().zip(entries.iter().map(|entry| leaf_hash(entry))).collect();
    leaves.sort();
    leaves.dedup();
    verify_multi_inclusion(&leaves, &head, &Proof(answer.proof)).unwrap();
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_between_all_sizes() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let mut heads = vec![];
    for calls in [0, 1, 5, 130, 2] {
        log.http.add_all(&writer.entries(&writer.run(calls))).await.unwrap();
        let note = log.http.get("/checkpoint").await.unwrap().body;
        heads.push(log.trust().verify(&note).unwrap().checkpoint().head);
    }
    let (_, entries) = check_log(&log.http, &log.trust()).await;
    let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
    for (position, old) in heads.iter().enumerate() {
        assert_eq!(tree.root(old.size), Some(old.root));
        for new in &heads[position..] {
            let path = format!("/v1/proof/consistency?old={}&new={}", old.size, new.size);
            let answer: ConsistencyAnswer =
                serde_json::from_slice(&log.http.get(&path).await.unwrap().body).unwrap();
            verify_consistency(old, new, &Proof(answer.hashes)).unwrap();
        }
    }
    // Inclusion in any past tree, not only in those that had a checkpoint.
    for size in [1_u64, 2, 9, 200, 256, 257, 288] {
        let size = TreeSize::new(size).unwrap();
        let head = TreeHead { size, root: tree.root(size).unwrap() };
        for index in [0, size.get() / 2, size.get() - 1] {
            let path = format!("/v1/proof/inclusion?index={index}&size={size}");
            let answer: InclusionAnswer =
                serde_json::from_slice(&log.http.get(&path).await.unwrap().body).unwrap();
            let leaf = leaf_hash(&entries[index as usize]);
            verify_inclusion(&leaf, answer.index, &head, &Proof(answer.hashes)).unwrap();
        }
    }
    assert_eq!(log.http.get("/v1/proof/inclusion?index=0&size=100000").await.unwrap().status, 404);
    assert_eq!(log.http.get("/v1/proof/inclusion?index=9&size=9").await.unwrap().status, 404);
    assert_eq!(log.http.get("/v1/proof/consistency?old=9&new=8").await.unwrap().status, 400);
    assert_eq!(log.http.get("/v1/proof/inclusion?index=-1").await.unwrap().problem().status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_are_served_as_their_specification_says() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.http.add_all(&writer.entries(&writer.run(140))).await.unwrap();
    // 284 entries: one full tile and bundle, partial ones of 28, and one hash at level 1.
    for (path, status, bytes) in [
        ("/tile/0/000", 200, Some(8192)),
        ("/tile/0/000.p/255", 200, Some(255 * 32)),
        ("/tile/0/001.p/28", 200, Some(28 * 32)),
        ("/tile/0/001.p/1", 200, Some(32)),
        ("/tile/1/000.p/1", 200, Some(32)),
        ("/tile/entries/000", 200, None),
        ("/tile/entries/001.p/28", 200, None),
        ("/tile/0/001", 404, None),
        ("/tile/0/001.p/29", 404, None),
        ("/tile/0/002.p/1", 404, None),
        ("/tile/1/000.p/2", 404, None),
        ("/tile/2/000.p/1", 404, None),
        ("/tile/0/000.p/256", 404, None),
        ("/tile/0/000.p/0", 404, None),
        ("/tile/0/0", 404, None),
        ("/tile/0/00000000000000000000000", 404, None),
        ("/tile/0/x999/x999/x999/x999/x999/x999/999", 404, None),
    ] {
        let answer = log.http.get(path).await.unwrap();
        assert_eq!(answer.status, status, "{path}");
        if let Some(bytes) = bytes {
            assert_eq!(
                (answer.media.as_str(), answer.body.len()),
                ("application/octet-stream", bytes),
                "{path}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_their_evidence() {
    let log = TestLog::start().await;
    let (one, two) = (log.writer("test/kernel/1").await, log.writer("test/kernel/2").await);
    let mut expected = Vec::new();
    for (writer, calls) in [(&one, 2), (&two, 0), (&one, 130)] {
        let records = writer.run(calls);
        log.http.add_all(&writer.entries(&records)).await.unwrap();
        expected.push((records[0].run, records.len() as u64));
    }
    let mut after = String::new();
    let mut listed = Vec::new();
    loop {
        let page = log.http.get(&format!("/v1/runs?limit=2{after}")).await.unwrap();
        let page: RunsAnswer = serde_json::from_slice(&page.body).unwrap();
        listed.extend(page.runs.iter().map(|run| (run.run, run.records)));
        assert!(page.runs.iter().all(|run| run.closed));
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    expected.sort();
    assert_eq!(listed, expected);
    for (run, records) in expected {
        let answer = log.http.get(&format!("/v1/runs/{run}")).await.unwrap();
        let answer: RunAnswer = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.indices.len() as u64, records);
        let pack =
            Pack::read(&log.http.get(&format!("/v1/runs/{run}/evidence")).await.unwrap().body).unwrap();
        // Its own records, and the operator's chain: two grants and the policy.
        assert_eq!((pack.run, pack.entries.len() as u64), (run, records + 3));
        let head = log.trust().verify(pack.checkpoint.as_bytes()).unwrap().checkpoint().head;
        let leaves: Vec<_> = pack.entries.iter().map(|(index, entry)| (*index, leaf_hash(entry))).collect();
        verify_multi_inclusion(&leaves, &head, &pack.proof).unwrap();
    }
    assert_eq!(log.http.get("/v1/runs/0195c7e0-0000-7000-8000-000000000000").await.unwrap().status, 404);
    assert_eq!(log.http.get("/v1/runs/none").await.unwrap().status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_get_distinct_indices() {
    let log = TestLog::start().await;
    let writer = std::sync::Arc::new(log.writer("test/kernel").await);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (http, writer, trust) = (log.http.clone(), std::sync::Arc::clone(&writer), log.trust());
            tokio::spawn(async move {
                let mut indices = Vec::new();
                for entry in writer.entries(&writer.run(2)) {
                    let receipt = Receipt::parse(&http.add(&entry).await.unwrap().body).unwrap();
                    indices.push(receipt.verify(leaf_hash(&entry), &trust).unwrap().index());
                }
                indices
            })
        })
        .collect();
    let mut indices = Vec::new();
    for task in tasks {
        indices.extend(task.await.unwrap());
    }
    indices.sort();
    assert_eq!(indices.len(), 64 * 6);
    indices.dedup();
    assert_eq!(indices.len(), 64 * 6);
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_place_offered_by_many_at_once_is_given_once() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let open = writer.run(0).remove(0);
    // 256 different records for seq 0 of one run, and the first of them many times over.
    let entries: Vec<Vec<u8>> = (0..256_u64)
        .map(|n| {
            let time = sift_spec::types::UnixMillis::new(open.time.get() + n / 2).unwrap();
            writer.sign(&sift_spec::record::Record { time, ..open.clone() }).into_bytes()
        })
        .collect();
    let tasks: Vec<_> = entries
        .into_iter()
        .map(|entry| {
            let http = log.http.clone();
            tokio::spawn(async move { (http.add(&entry).await.unwrap(), entry) })
        })
        .collect();
    let mut admitted = std::collections::BTreeSet::new();
    for task in tasks {
        let (answer, entry) = task.await.unwrap();
        match answer.status {
            200 => drop(admitted.insert((Receipt::parse(&answer.body).unwrap().index, entry))),
            _ => assert_eq!(answer.problem().kind, sift_spec::api::ProblemKind::Equivocation),
        }
    }
    assert_eq!(admitted.len(), 1, "one entry, at one index");
    check_log(&log.http, &log.trust()).await;
}
