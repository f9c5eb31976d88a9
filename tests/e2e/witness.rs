//! Witnesses: what is published, what is only committed, and what a hostile witness can do.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use sift_server::LogError;
use sift_server::witness::WitnessConfig;
use sift_spec::api::{BatchAnswer, MEDIA_BYTES, MEDIA_NOTE, ProblemKind, Publish};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::hash::leaf_hash;
use sift_spec::note::{NOTE_BYTES_MAX, Note};
use sift_spec::proof::{Proof, TreeHead, verify_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::tile::push_entry;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::Hash;
use sift_tests::{Http, LogProcess, Manner, TestLog, Witness, Writer, check_log};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log whose checkpoints these witnesses cosign.
struct Scene {
    log: TestLog,
    witnesses: Vec<Witness>,
    writer: Writer,
}

impl Scene {
    /// A running log with `count` witnesses, of which `quorum` make a quorum.
    async fn new(count: usize, quorum: usize, publish: Publish) -> Self {
        let mut log = TestLog::start().await;
        log.stop().await;
        let mut witnesses = Vec::new();
        for n in 0..count {
            witnesses.push(Witness::start(&format!("witness.example/w{n}"), &[log.key().clone()]).await);
        }
        configure(&mut log, &witnesses, quorum, publish);
        log.restart().await.unwrap();
        let writer = log.writer("test/kernel").await;
        Self { log, witnesses, writer }
    }

    /// Entries of a new run.
    fn entries(&self, calls: u64) -> Vec<Vec<u8>> {
        self.writer.entries(&self.writer.run(calls))
    }

    async fn checkpoint(&self) -> String {
        self.log.http.get("/checkpoint").await.unwrap().text()
    }
}

/// Writes trust file and configuration of a log with these witnesses.
fn configure(log: &mut TestLog, witnesses: &[Witness], quorum: usize, publish: Publish) {
    let mut text = format!("log {}\n#sift:operator {}\n", log.key(), log.operator_key());
    let names: Vec<String> = (0..witnesses.len()).map(|n| format!("w{n}")).collect();
    for (witness, name) in witnesses.iter().zip(&names) {
        text.push_str(&witness.line(name));
    }
    writeln!(text, "group enough {quorum} {}\nquorum enough", names.join(" ")).unwrap();
    let path = log.dir().join("witnessed.policy");
    std::fs::write(&path, &text).unwrap();
    let mut section = WitnessConfig::new(path);
    (section.publish, section.interval_ms) = (publish, 0);
    log.config_mut().witnesses = Some(section);
    log.set_trust(TrustPolicy::parse(&text).unwrap());
}

/// Posts one entry and waits for witnesses.
async fn add_witnessed(http: &Http, entry: &[u8]) -> sift_tests::Raw {
    http.post("/v1/records?wait=witnessed", MEDIA_NOTE, entry.to_vec()).await.unwrap()
}

/// Waits until the published checkpoint is as it should be, and gives it.
async fn until(http: &Http, what: &str, is: impl Fn(&str) -> bool) -> String {
    let asked = async {
        loop {
            let note = http.get("/checkpoint").await.unwrap().text();
            if is(&note) {
                return note;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn head(note: &str) -> TreeHead {
    Checkpoint::parse(Note::parse(note.as_bytes(), NOTE_BYTES_MAX).unwrap().text).unwrap().head
}

fn lines(note: &str) -> usize {
    Note::parse(note.as_bytes(), NOTE_BYTES_MAX).unwrap().signatures.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_publishes() {
    let scene = Scene::new(3, 2, Publish::Quorum).await;
    let trust = scene.log.trust();
    for entry in scene.entries(3) {
        let answer = add_witnessed(&scene.log.http, &entry).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let receipt = Receipt::parse(&answer.body).unwrap();
        let proven = receipt.verify(leaf_hash(&entry), &trust).unwrap();
        assert!(proven.checkpoint().witnesses().len() >= 2);
        // What was answered is published.
        let path = format!("/v1/records/{}.tlog-proof", proven.index());
        let later = Receipt::parse(&scene.log.http.get(&path).await.unwrap().body).unwrap();
        later.verify(leaf_hash(&entry), &trust).unwrap();
    }
    // A batch.
    let entries = scene.entries(20);
    let mut bundle = Vec::new();
    entries.iter().for_each(|entry| assert!(push_entry(&mut bundle, entry)));
    let answer = scene.log.http.post("/v1/records?wait=witnessed", MEDIA_BYTES, bundle).await.unwrap();
    let answer: BatchAnswer = serde_json::from_slice(&answer.body).unwrap();
    let believed = trust.verify(answer.checkpoint.as_bytes()).unwrap();
    let leaves: Vec<_> = answer
        .results
        .iter()
        .zip(&entries)
        .map(|(result, entry)| match result {
            sift_spec::api::BatchResult::Index(index) => (*index, leaf_hash(entry)),
            sift_spec::api::BatchResult::Problem(problem) => panic!("{problem:?}"),
        })
        .collect();
    verify_multi_inclusion(&leaves, &believed.checkpoint().head, &Proof(answer.proof)).unwrap();
    // The third witness is not waited for, and is in the note all the same.
    let note = until(&scene.log.http, "all three in the note", |note| lines(note) == 4).await;
    assert_eq!(trust.verify(note.as_bytes()).unwrap().witnesses().len(), 3);
    check_log(&scene.log.http, &trust).await;
    // Many at once wait for few rounds.
    let before = scene.witnesses[0].seen().cosigned;
    let many = (0..256).map(|_| {
        let (http, entry) = (scene.log.http.clone(), scene.entries(0).remove(0));
        tokio::spawn(async move { add_witnessed(&http, &entry).await.status })
    });
    for answer in many.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), 200);
    }
    let rounds = scene.witnesses[0].seen().cosigned - before;
    println!("256 callers, {rounds} rounds");
    assert!(rounds <= 256, "one round each at most");
    check_log(&scene.log.http, &trust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_quorum_nothing_new_is_published_and_all_is_written() {
    let mut scene = Scene::new(2, 2, Publish::Quorum).await;
    let trust = scene.log.trust();
    let mut run = scene.entries(4);
    assert_eq!(add_witnessed(&scene.log.http, &run.remove(0)).await.status, 200);
    let before = until(&scene.log.http, "both", |note| lines(note) == 3).await;
    let size = head(&before).size;

    scene.witnesses[1].stop().await;
    scene.log.config_mut().witnesses.as_mut().unwrap().wait_seconds = 1;
    scene.log.stop().await;
    scene.log.restart().await.unwrap();
    // Who does not ask for witnesses is answered under the log's own signature.
    let plain = TrustPolicy::of_log(scene.log.key().clone(), None);
    let entry = run.remove(0);
    let answer = scene.log.http.add(&entry).await.unwrap();
    let receipt = Receipt::parse(&answer.body).unwrap();
    let index = receipt.verify(leaf_hash(&entry), &plain).unwrap().index();
    assert!(receipt.verify(leaf_hash(&entry), &trust).is_err(), "nobody cosigned that");
    // Who does is told that it is in the log, where, and that it is not cosigned: as often as asked.
    for _ in 0..2 {
        let problem = add_witnessed(&scene.log.http, &entry).await.problem();
        assert_eq!((problem.kind, problem.index), (ProblemKind::NotWitnessed, Some(index)), "{problem:?}");
        assert!(problem.detail.contains("in the log and durable"), "{}", problem.detail);
    }
    let mut bundle = Vec::new();
    run.iter().for_each(|entry| assert!(push_entry(&mut bundle, entry)));
    let batch = scene.log.http.post("/v1/records?wait=witnessed", MEDIA_BYTES, bundle.clone()).await.unwrap();
    let problem = batch.problem();
    let last = index.get() + run.len() as u64;
    assert_eq!(problem.index.map(|index| index.get()), Some(last), "{problem:?}");
    // Readers are told nothing of it.
    assert_eq!(head(&scene.checkpoint().await), head(&before), "the published checkpoint stands");
    for path in [format!("/v1/records/{index}"), format!("/v1/records/{index}.tlog-proof")] {
        let problem = scene.log.http.get(&path).await.unwrap().problem();
        assert_eq!(problem.kind, ProblemKind::NotFound);
        assert!(problem.detail.contains("not published yet"), "{}", problem.detail);
    }
    let tile = format!("/tile/entries/000.p/{}", index.get() + 1);
    assert_eq!(scene.log.http.get(&tile).await.unwrap().status, 404);
    // But a writer may ask how the tree that it was shown fits what it saw before.
    let shown = head(&receipt.checkpoint);
    let path = format!("/v1/proof/consistency?old={size}&new={}", shown.size);
    assert_eq!(scene.log.http.get(&path).await.unwrap().status, 200);

    // A restart changes nothing of that, and never goes back.
    scene.log.stop().await;
    scene.log.restart().await.unwrap();
    assert_eq!(head(&scene.checkpoint().await), head(&before), "after a restart");
    check_log(&scene.log.http, &trust).await;

    // The witness is back: everything is published, and the same bytes have the same places.
    scene.witnesses[1].restart().await;
    until(&scene.log.http, "the rest", |note| head(note).size.get() > last).await;
    let again = Receipt::parse(&add_witnessed(&scene.log.http, &entry).await.body).unwrap();
    assert_eq!(again.verify(leaf_hash(&entry), &trust).unwrap().index(), index);
    let batch = scene.log.http.post("/v1/records?wait=witnessed", MEDIA_BYTES, bundle).await.unwrap();
    assert_eq!(batch.status, 200);
    check_log(&scene.log.http, &trust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_manner_of_a_witness_holds_up_the_others_or_gets_into_the_note() {
    let scene = Scene::new(3, 2, Publish::Quorum).await;
    let trust = scene.log.trust();
    for manner in [
        Manner::StatesNonsense,
        Manner::States(0),
        Manner::States(1),
        Manner::Status(500),
        Manner::Status(403),
        Manner::Status(301),
        Manner::Hangs,
        Manner::Breaks,
        Manner::Megabyte,
        Manner::ForgesOnly,
        Manner::Others,
        Manner::Thousand,
        Manner::TimeZero,
        Manner::AnotherCheckpoint,
    ] {
        scene.witnesses[2].set(manner);
        for entry in scene.entries(0) {
            let answer = add_witnessed(&scene.log.http, &entry).await;
            assert_eq!(answer.status, 200, "{manner:?}: {}", answer.text());
            let receipt = Receipt::parse(&answer.body).unwrap();
            receipt.verify(leaf_hash(&entry), &trust).unwrap_or_else(|error| panic!("{manner:?}: {error}"));
        }
        let note = scene.checkpoint().await;
        // Every line is one of the log's or of a witness's that verifies: nothing else got in.
        let believed = trust.verify(note.as_bytes()).unwrap_or_else(|error| panic!("{manner:?}: {error}"));
        assert_eq!(lines(&note), 1 + believed.witnesses().len(), "{manner:?}: {note}");
        let third = scene.witnesses[2].key().name().as_str();
        assert!(!note.contains(third) || manner == Manner::Hangs, "{manner:?}: {note}");
        println!(
            "{manner:?}: size {}, {} cosigned",
            believed.checkpoint().head.size,
            believed.witnesses().len()
        );
    }
    // A good line among forged ones is found.
    scene.witnesses[2].set(Manner::Forges);
    let note = until(&scene.log.http, "the good line", |note| lines(note) == 4).await;
    assert_eq!(trust.verify(note.as_bytes()).unwrap().witnesses().len(), 3);
    check_log(&scene.log.http, &trust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_has_seen_more_stops_the_log() {
    let mut scene = Scene::new(3, 2, Publish::Quorum).await;
    scene.witnesses[2].set(Manner::States(1_000_000));
    scene.log.http.add(&scene.entries(0)[0]).await.unwrap();
    let stopped = scene.log.stopped().await;
    println!("{stopped}");
    assert!(matches!(stopped, LogError::Witness(_)), "{stopped}");
    assert!(stopped.to_string().contains("has cosigned a tree of 1000000 entries"), "{stopped}");
    // It does not start either, until the witness says otherwise.
    let refused = scene.log.restart().await.unwrap_err().to_string();
    assert!(refused.contains("has cosigned a tree of 1000000 entries"), "{refused}");
    scene.witnesses[2].set(Manner::Honest);
    scene.log.restart().await.unwrap();
    check_log(&scene.log.http, &scene.log.trust()).await;

    // A tree that is not ours, of our size and of a smaller one.
    let note = until(&scene.log.http, "all", |note| lines(note) == 4).await;
    scene.log.stop().await;
    let ours = head(&note);
    let smaller = sift_spec::types::TreeSize::new(ours.size.get() - 1).unwrap();
    for size in [ours.size, smaller] {
        let root = Hash::from_bytes([7; 32]);
        scene.witnesses[2].remember(TreeHead { size, root });
        let refused = scene.log.restart().await.unwrap_err().to_string();
        println!("{refused}");
        assert!(refused.contains("does not extend"), "{refused}");
    }
    scene.witnesses[2].remember(ours);
    scene.log.restart().await.unwrap();
    // While it runs, too.
    let root = Hash::from_bytes([7; 32]);
    scene.witnesses[2].remember(TreeHead { root, ..ours });
    scene.log.http.add(&scene.entries(0)[0]).await.unwrap();
    let stopped = scene.log.stopped().await.to_string();
    assert!(stopped.contains("does not extend"), "{stopped}");
}

/// Adds the section of the configuration, for a log in a process of its own.
fn write_section(log: &TestLog, more: &str) {
    use std::io::Write as _;
    let mut file = std::fs::File::options().append(true).open(log.dir().join("sift-server.toml")).unwrap();
    writeln!(file, "\n[witnesses]\npolicy = \"witnessed.policy\"\n{more}").unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_to_start_when_the_store_is_behind_a_witness() {
    let mut scene = Scene::new(2, 1, Publish::Quorum).await;
    scene.log.stop().await;
    write_section(&scene.log, "interval_ms = 0");
    let old = scene.log.dir().join("old");
    copy(scene.log.data(), &old);
    let process = LogProcess::start(scene.log.dir()).unwrap();
    for entry in scene.entries(2) {
        assert_eq!(add_witnessed(&process.http, &entry).await.status, 200);
    }
    process.kill();
    // An old copy comes back, and nothing beside it remembers better.
    let data = scene.log.data().to_owned();
    let whole = scene.log.dir().join("whole");
    std::fs::rename(&data, &whole).unwrap();
    copy(&old, &data);
    std::fs::remove_file(scene.log.dir().join("data.head")).unwrap();
    let refused = LogProcess::start(scene.log.dir()).err().expect("a log that is behind must not start");
    println!("{refused}");
    assert!(refused.contains("has cosigned a tree of 8 entries and this store holds 2"), "{refused}");
    // With the whole store it does.
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&whole, &data).unwrap();
    let process = LogProcess::start(scene.log.dir()).unwrap();
    check_log(&process.http, &scene.log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_does_not_answer_at_the_start() {
    let mut scene = Scene::new(2, 1, Publish::Quorum).await;
    scene.log.stop().await;
    scene.witnesses[0].stop().await;
    scene.log.restart().await.unwrap();
    assert_eq!(add_witnessed(&scene.log.http, &scene.entries(0)[0]).await.status, 200);
    scene.log.stop().await;
    scene.log.config_mut().witnesses.as_mut().unwrap().require_at_start = true;
    let refused = scene.log.restart().await.unwrap_err().to_string();
    assert!(refused.contains("witness w0 did not cosign, and require_at_start is set"), "{refused}");
    scene.witnesses[0].restart().await;
    scene.log.restart().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn published_as_soon_as_signed() {
    let mut scene = Scene::new(2, 2, Publish::Signed).await;
    let trust = scene.log.trust();
    scene.witnesses[1].stop().await;
    let entry = scene.entries(0).remove(0);
    assert_eq!(scene.log.http.add(&entry).await.unwrap().status, 200);
    // Whoever was answered finds it published, whatever the witnesses do.
    let size = head(&scene.checkpoint().await).size;
    assert_eq!(size.get(), 3);
    assert_eq!(scene.log.http.get("/v1/records/2.tlog-proof").await.unwrap().status, 200);
    scene.witnesses[1].restart().await;
    let answer = add_witnessed(&scene.log.http, &entry).await;
    Receipt::parse(&answer.body).unwrap().verify(leaf_hash(&entry), &trust).unwrap();
    let note = until(&scene.log.http, "cosignatures are added", |note| lines(note) == 3).await;
    assert_eq!(head(&note).size, size, "to the same checkpoint");
    check_log(&scene.log.http, &trust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn witnesses_that_come_and_go_take_nothing_back() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    // Without witnesses, waiting for them is waiting for nothing.
    let entry = writer.entries(&writer.run(0)).remove(0);
    assert_eq!(add_witnessed(&log.http, &entry).await.status, 200);
    let answer = log.http.post("/v1/records?wait=tomorrow", MEDIA_NOTE, entry.clone()).await.unwrap();
    assert_eq!(answer.problem().kind, ProblemKind::MalformedRequest);
    let before = log.http.get("/checkpoint").await.unwrap().text();
    log.stop().await;
    // They are configured and cannot be reached: what stood still stands, and is nothing for those who ask for them.
    let mut witness = Witness::start("witness.example/w0", &[log.key().clone()]).await;
    witness.stop().await;
    configure(&mut log, std::slice::from_ref(&witness), 1, Publish::Quorum);
    log.config_mut().witnesses.as_mut().unwrap().wait_seconds = 1;
    log.restart().await.unwrap();
    assert_eq!(log.http.get("/checkpoint").await.unwrap().text(), before);
    assert_eq!(add_witnessed(&log.http, &entry).await.problem().kind, ProblemKind::NotWitnessed);
    log.http.add(&writer.entries(&writer.run(0))[0]).await.unwrap();
    assert_eq!(log.http.get("/checkpoint").await.unwrap().text(), before, "not published");
    log.stop().await;
    // They are given up: all is published; and if they are configured again, it stays so.
    let section = log.config_mut().witnesses.take();
    log.restart().await.unwrap();
    let all = log.http.get("/checkpoint").await.unwrap().text();
    assert!(head(&all).size > head(&before).size);
    log.stop().await;
    log.config_mut().witnesses = section;
    log.restart().await.unwrap();
    assert_eq!(log.http.get("/checkpoint").await.unwrap().text(), all);
    witness.restart().await;
    until(&log.http, "cosigned at last", |note| lines(note) == 2).await;
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_work_is_refused() {
    let mut scene = Scene::new(1, 1, Publish::Quorum).await;
    scene.log.stop().await;
    let path = scene.log.dir().join("witnessed.policy");
    let vkey = scene.witnesses[0].key().to_string();
    let other = sift_tests::new_key("other.example/log");
    for (text, why) in [
        (String::new(), "no \"quorum\" line"),
        (format!("witness a {vkey} http://127.0.0.1:1\nquorum none\n"), "asks for no witness"),
        (format!("witness a {vkey}\nquorum a\n"), "an http or https address must end the line"),
        (format!("witness a {vkey} ftp://x\nquorum a\n"), "an http or https address must end the line"),
        (
            format!("log {}\nwitness a {vkey} http://127.0.0.1:1\nquorum a\n", other.verifier()),
            "those of other logs",
        ),
    ] {
        std::fs::write(&path, &text).unwrap();
        let refused = scene.log.restart().await.unwrap_err().to_string();
        assert!(refused.contains(why), "{text}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_with_a_quorum_in_its_trust_file() {
    use sift_client::{CloseReason, Kernel, Mode, OpenRun, SystemClock};
    let mut scene = Scene::new(2, 2, Publish::Quorum).await;
    let (dir, trust) = (tempfile::tempdir().unwrap(), scene.log.trust());
    let key = sift_tests::new_key("test/quorum");
    let operator = scene.log.operator();
    operator.grant(key.verifier(), sift_spec::record::KeyRole::Kernel, "test/*").await;
    operator.publish(&sift_tests::bundle()).await.unwrap();
    let mut config = sift_tests::config(dir.path(), scene.log.http.url(), trust.clone());
    config.mode = Mode::Log;
    let kernel = Kernel::open(config, key, SystemClock).await.unwrap();
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    let permit = sift_tests::tool(&run, "act", "one").await;
    // In mode `log` the permit is there, so the intent is cosigned.
    let note = scene.checkpoint().await;
    assert_eq!(trust.verify(note.as_bytes()).unwrap().witnesses().len(), 2);
    permit.dispatch(|| async { sift_tests::done() }).await.unwrap();
    // A witness goes, and the kernel waits for it: no permit, and nothing lost.
    scene.witnesses[0].stop().await;
    let proposed = tokio::spawn(async move {
        let permit = sift_tests::tool(&run, "act", "two").await;
        permit.dispatch(|| async { sift_tests::done() }).await.unwrap();
        run.close(CloseReason::Done).await.unwrap();
    });
    let size = head(&scene.checkpoint().await).size;
    // The intent is in the log, as the operator's endpoint of the tree's size shows, and is not published.
    let written = async {
        loop {
            let path = format!("/v1/proof/consistency?old={size}&new={}", size.get() + 1);
            if scene.log.http.get(&path).await.unwrap().status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("the intent is written");
    assert_eq!(head(&scene.checkpoint().await).size, size);
    assert!(!proposed.is_finished(), "a call without a cosigned intent");
    scene.witnesses[0].restart().await;
    tokio::time::timeout(PATIENCE, proposed).await.expect("the permit comes").unwrap();
    assert!(kernel.drain(PATIENCE).await);
    kernel.close().await;
    check_log(&scene.log.http, &trust).await;
}
