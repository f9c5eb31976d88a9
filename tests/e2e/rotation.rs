//! A log changes its key: what was proven before stays proven, and nobody else's key gets in.

use std::path::{Path, PathBuf};

use sift_server::rotation::next_key;
use sift_spec::checkpoint::Checkpoint;
use sift_spec::hash::leaf_hash;
use sift_spec::note::{NOTE_BYTES_MAX, Note, VerifierKey};
use sift_spec::proof::{Proof, TreeHead, verify_consistency};
use sift_spec::receipt::Receipt;
use sift_spec::trust::TrustPolicy;
use sift_tests::{TestLog, check_log, new_key};

/// A trust file with these log keys.
fn trust(log: &TestLog, keys: &[&VerifierKey]) -> TrustPolicy {
    TrustPolicy::of_keys(keys.iter().map(|key| (*key).clone()).collect(), Some(log.operator_key().clone()))
}

async fn note(log: &TestLog) -> String {
    log.http.get("/checkpoint").await.unwrap().text()
}

fn head(note: &str) -> TreeHead {
    Checkpoint::parse(Note::parse(note.as_bytes(), NOTE_BYTES_MAX).unwrap().text).unwrap().head
}

/// Keys of a configuration: the one of today, and others.
async fn restart_with(log: &mut TestLog, today: &Path, also: &[&PathBuf]) -> Result<(), String> {
    log.config_mut().log_key = today.to_owned();
    log.config_mut().log_keys_also = also.iter().map(|path| (*path).clone()).collect();
    log.restart().await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_key_to_the_next() {
    let mut log = TestLog::start().await;
    let old_file = log.config_mut().log_key.clone();
    let new_file = log.dir().join("log-2.key");
    let old = log.key().clone();
    let new = next_key(log.config_mut(), &new_file).unwrap();
    assert_eq!((old.name(), old == new), (new.name(), false));
    assert!(next_key(log.config_mut(), &new_file).is_err(), "a key is never overwritten");
    let (old_trust, new_trust) = (trust(&log, &[&old]), trust(&log, &[&new]));
    let both_trust = trust(&log, &[&old, &new]);
    log.set_trust(both_trust.clone());

    // Before.
    let writer = log.writer("test/kernel").await;
    let mut records = writer.entries(&writer.run(4)).into_iter();
    let mut receipts = Vec::new();
    for _ in 0..3 {
        let entry = records.next().unwrap();
        let receipt = Receipt::parse(&log.http.add(&entry).await.unwrap().body).unwrap();
        receipts.push((entry, receipt));
    }
    let before = note(&log).await;
    assert!(new_trust.verify(before.as_bytes()).is_err());
    log.stop().await;

    // The new key alone signed nothing yet: that is another key, and the configuration says so.
    let refused = restart_with(&mut log, &new_file, &[]).await.unwrap_err();
    println!("{refused}");
    assert!(refused.contains("the store is that of"), "{refused}");

    // During: both sign, from the start on, and one run goes on over it.
    restart_with(&mut log, &new_file, &[&old_file]).await.unwrap();
    let during = note(&log).await;
    assert_eq!(head(&during), head(&before), "the same checkpoint");
    for trust in [&old_trust, &new_trust, &both_trust] {
        trust.verify(during.as_bytes()).unwrap();
    }
    let entry = records.next().unwrap();
    let receipt = Receipt::parse(&log.http.add(&entry).await.unwrap().body).unwrap();
    for trust in [&old_trust, &new_trust, &both_trust] {
        receipt.verify(leaf_hash(&entry), trust).unwrap();
    }
    receipts.push((entry, receipt));
    check_log(&log.http, &both_trust).await;
    let during = note(&log).await;
    log.stop().await;

    // The change can be taken back, and be made again.
    restart_with(&mut log, &old_file, &[]).await.unwrap();
    log.stop().await;
    restart_with(&mut log, &new_file, &[&old_file]).await.unwrap();
    log.stop().await;

    // After: the old key signs nothing any more.
    restart_with(&mut log, &new_file, &[]).await.unwrap();
    let entry = records.next().unwrap();
    let receipt = Receipt::parse(&log.http.add(&entry).await.unwrap().body).unwrap();
    receipt.verify(leaf_hash(&entry), &new_trust).unwrap();
    assert!(receipt.verify(leaf_hash(&entry), &old_trust).is_err());
    check_log(&log.http, &new_trust).await;
    // Old receipts still verify where the old key is listed, and the tree is one.
    for (entry, receipt) in &receipts {
        receipt.verify(leaf_hash(entry), &both_trust).unwrap();
        receipt.verify(leaf_hash(entry), &old_trust).unwrap();
    }
    let after = note(&log).await;
    for earlier in [&before, &during] {
        let (old, new) = (head(earlier), head(&after));
        let path = format!("/v1/proof/consistency?old={}&new={}", old.size, new.size);
        let proof = log.http.get(&path).await.unwrap().body;
        let proof: sift_spec::api::ConsistencyAnswer = serde_json::from_slice(&proof).unwrap();
        verify_consistency(&old, &new, &Proof(proof.hashes)).unwrap();
    }
    // An entry of before has a receipt of after.
    let later = log.http.get("/v1/records/0.tlog-proof").await.unwrap().body;
    let first = log.http.get("/v1/records/0").await.unwrap().body;
    Receipt::parse(&later).unwrap().verify(leaf_hash(&first), &new_trust).unwrap();
    log.stop().await;

    // What others saw of before is still compared, and so is the high-water mark.
    let seen = log.dir().join("seen");
    std::fs::write(&seen, &before).unwrap();
    log.config_mut().seen = vec![seen.clone()];
    log.restart().await.unwrap();
    log.stop().await;
    let fork = TreeHead { root: sift_spec::hash::EMPTY_ROOT, ..head(&before) };
    let old_key = sift_server::key_file::read_key(&old_file).unwrap();
    let fork = Checkpoint::new(old.name().clone(), fork).unwrap().sign(&old_key);
    std::fs::write(&seen, fork).unwrap();
    let refused = log.restart().await.unwrap_err().to_string();
    assert!(refused.contains("would show two histories"), "{refused}");
    log.config_mut().seen.clear();

    // The old key alone is another log's key now.
    let refused = restart_with(&mut log, &old_file, &[]).await.unwrap_err();
    assert!(refused.contains("is not believed") || refused.contains("the store is that of"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_refused() {
    let mut log = TestLog::start().await;
    log.writer("test/kernel").await;
    log.stop().await;
    let today = log.config_mut().log_key.clone();
    let write = |name: &str, key: &sift_spec::note::SignerKey| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = log.dir().join(name);
        std::fs::write(&path, key.to_secret_text().as_str()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let stranger = write("stranger.key", &new_key(log.key().name().as_str()));
    let second = write("second.key", &new_key(log.key().name().as_str()));
    let other = write("other.key", &new_key("other.example/log"));
    for (key, also, why) in [
        (&stranger, &[][..], "the store is that of"),
        (&stranger, &[&second][..], "the store is that of"),
        (&other, &[][..], "the store is that of"),
        (&today, &[&other][..], "all its keys have one name"),
        (&today, &[&today][..], "listed twice"),
        (&today, &[&stranger; 8][..], "at most 8 keys"),
    ] {
        let refused = restart_with(&mut log, key, also).await.expect_err(why);
        println!("{refused}");
        assert!(refused.contains(why), "{refused}");
    }
    // Nothing of that left a trace.
    restart_with(&mut log, &today, &[]).await.unwrap();
    let note = note(&log).await;
    assert_eq!(Note::parse(note.as_bytes(), NOTE_BYTES_MAX).unwrap().signatures.len(), 1);
    check_log(&log.http, &log.trust()).await;
}
