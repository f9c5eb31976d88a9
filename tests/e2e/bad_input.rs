//! What the log refuses, with which problem, and that nothing is lost by it.

use sift_spec::api::{BatchResult, ProblemKind};
use sift_spec::entry::Entry;
use sift_spec::note::SignerKey;
use sift_spec::receipt::Receipt;
use sift_spec::record::{
    Body, Close, CloseReason, Grant, KeyChange, KeyRole, OperatorBody, OperatorRecord, Record,
};
use sift_spec::types::{Hash, RunId, Seq, UnixMillis};
use sift_tests::{Operator, TestLog, Writer, check_log, new_key, now};

/// A log with a run of which `open` and the first intent are admitted.
struct Scene {
    log: TestLog,
    operator: Operator,
    writer: Writer,
    records: Vec<Record>,
}

impl Scene {
    async fn new() -> Self {
        let log = TestLog::start().await;
        let writer = log.writer("test/kernel").await;
        let records = writer.run(2);
        log.http.add_all(&writer.entries(&records[..2])).await.unwrap();
        let operator = log.operator();
        Self { log, operator, writer, records }
    }

    async fn size(&self) -> u64 {
        let note = self.log.http.get("/checkpoint").await.unwrap().body;
        self.log.trust().verify(&note).unwrap().checkpoint().head.size.get()
    }

    /// Offers bytes that must be refused so, alone and in a bundle, and that the log is as it was.
    async fn refuses(&self, what: &str, entry: &[u8], kind: ProblemKind) {
        let before = self.size().await;
        let alone = self.log.http.add(entry).await.unwrap().problem();
        assert_eq!(alone.kind, kind, "{what}: {alone:?}");
        assert!(!alone.detail.is_empty(), "{what}");
        if entry.len() <= 65_535 {
            let bundle = self.log.http.add_all(&[entry.to_vec()]).await.unwrap();
            let [BatchResult::Problem(bundled)] = bundle.results.as_slice() else {
                panic!("{what}: {bundle:?}")
            };
            assert_eq!(bundled.kind, kind, "{what}");
        }
        assert_eq!(self.size().await, before, "{what}: nothing may be added");
    }

    /// The next honest record is admitted all the same.
    async fn goes_on(self) {
        let rest = self.writer.entries(&self.records[2..]);
        for result in self.log.http.add_all(&rest).await.unwrap().results {
            assert!(matches!(result, BatchResult::Index(_)), "{result:?}");
        }
        check_log(&self.log.http, &self.log.trust()).await;
    }
}

/// Signs a text that is no record, as an entry that only its content condemns.
fn signed(key: &SignerKey, text: &str) -> Vec<u8> {
    key.sign_note(text).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_entry() {
    let scene = Scene::new().await;
    let honest = scene.writer.sign(&scene.records[2]).into_bytes();
    let text = scene.records[2].text().unwrap();
    let key = &scene.writer.key;
    let other = new_key("test/other");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("not UTF-8", [&honest[..40], &[0xff], &honest[41..]].concat()),
        ("a control character", [&honest[..40], &[0x07], &honest[41..]].concat()),
        ("truncated within the text", honest[..200].to_vec()),
        ("truncated within the signature", honest[..honest.len() - 9].to_vec()),
        ("without the last line feed", honest[..honest.len() - 1].to_vec()),
        ("extended by a byte", [&honest[..], b"x"].concat()),
        ("extended by a line feed", [&honest[..], b"\n"].concat()),
        ("two signatures", [&honest[..], other.sign_text(&text).as_bytes()].concat()),
        ("duplicate keys", signed(key, &text.replacen("{\"agent\"", "{\"agent\":\"x\",\"agent\"", 1))),
        ("an unknown field", signed(key, &text.replacen("\"kind\"", "\"kine\":1,\"kind\"", 1))),
        ("white space", signed(key, &text.replacen("\":", "\": ", 1))),
        (
            "a float",
            signed(key, &text.replacen(&format!("\"time\":{}", scene.records[2].time), "\"time\":1.0", 1)),
        ),
        ("another order", signed(key, "sift/record@v1\n{\"run\":\"x\",\"agent\":\"y\"}\n")),
        ("no JSON", signed(key, "sift/record@v1\nhello\n")),
        ("a third line", signed(key, &format!("{text}more\n"))),
        ("another kind of note", signed(key, &text.replacen("record@v1", "record@v2", 1))),
        ("a checkpoint", scene.log.http.get("/checkpoint").await.unwrap().body),
        (
            "deep JSON",
            signed(key, &format!("sift/record@v1\n{}{}\n", "[".repeat(20_000), "]".repeat(20_000))),
        ),
    ];
    for (what, entry) in cases {
        scene.refuses(what, &entry, ProblemKind::MalformedRecord).await;
    }
    // Longer than an entry may be: refused before it is read.
    scene.refuses("oversized", &vec![b'a'; 65_536], ProblemKind::TooLarge).await;
    let answer =
        scene.log.http.post("/v1/records", "application/octet-stream", vec![0; 9 << 20]).await.unwrap();
    assert_eq!(answer.problem().kind, ProblemKind::TooLarge);
    let answer = scene.log.http.post("/v1/records", "application/json", honest.clone()).await.unwrap();
    assert_eq!(answer.problem().kind, ProblemKind::UnsupportedMedia);
    // A bundle that is cut, and one of too many.
    let answer = scene.log.http.post("/v1/records", "application/octet-stream", vec![0, 9, 1]).await.unwrap();
    assert_eq!(answer.problem().kind, ProblemKind::MalformedRequest);
    let answer =
        scene.log.http.post("/v1/records", "application/octet-stream", vec![0; 2 * 1025]).await.unwrap();
    assert_eq!(answer.problem().kind, ProblemKind::MalformedRequest);
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_sign() {
    let scene = Scene::new().await;
    let next = &scene.records[2];
    // A flipped signature.
    let mut entry = scene.writer.sign(next).into_bytes();
    let position = entry.len() - 20;
    entry[position] = if entry[position] == b'A' { b'B' } else { b'A' };
    scene.refuses("a wrong signature", &entry, ProblemKind::SignatureInvalid).await;
    // A stranger, and a stranger with the kernel's name.
    for name in ["test/stranger", "test/kernel"] {
        let stranger = Entry::sign(next, &new_key(name)).unwrap();
        scene.refuses("an unknown key", stranger.bytes(), ProblemKind::KeyNotGranted).await;
    }
    // A key for other agents, and one for approvals.
    for (role, agents) in
        [(KeyRole::Kernel, "airline/*"), (KeyRole::Approver("supervisor".parse().unwrap()), "*")]
    {
        let key = new_key(&format!("test/{agents}").replace(['*', '/'], "-"));
        scene.operator.grant(key.verifier(), role, agents).await;
        let writer = Writer::new(key, &scene.writer.log);
        let open = writer.sign(&writer.run(0)[0]);
        scene.refuses("a key for something else", open.bytes(), ProblemKind::KeyNotGranted).await;
    }
    // The operator's key signs no records of runs, and nobody else the operator's.
    let entry = Entry::sign(next, scene.operator.key()).unwrap();
    scene.refuses("the operator as a kernel", entry.bytes(), ProblemKind::KeyNotGranted).await;
    let vkey = new_key("test/new").verifier().to_string().parse().unwrap();
    let grant = Grant { agents: vec!["*".parse().unwrap()], role: KeyRole::Kernel, vkey };
    let seq = Seq::ZERO;
    let log = scene.writer.log.parse().unwrap();
    let body = OperatorBody::Key(KeyChange::Grant(grant));
    let record = OperatorRecord { body, log, prev: None, seq, time: now() };
    let entry = Entry::sign_operator(&record, &scene.writer.key).unwrap();
    scene.refuses("a kernel as the operator", entry.bytes(), ProblemKind::KeyNotGranted).await;
    // Another key with the same name, granted for the same agents, may go on with the run: keys rotate.
    let rotated = new_key("test/kernel");
    scene.operator.grant(rotated.verifier(), KeyRole::Kernel, "*").await;
    // A key of another name may not.
    let squatter = scene.log.writer("test/squatter").await;
    scene.refuses("another's run", squatter.sign(next).bytes(), ProblemKind::ChainBroken).await;
    // A revoked key may not, even though it opened the run; what it logged keeps its index.
    scene.operator.revoke(scene.writer.key.verifier()).await;
    scene.refuses("a revoked key", scene.writer.sign(next).bytes(), ProblemKind::KeyNotGranted).await;
    let logged = scene.writer.sign(&scene.records[1]);
    let answer = scene.log.http.add(logged.bytes()).await.unwrap();
    assert_eq!(Receipt::parse(&answer.body).unwrap().index.get(), 3, "{}", answer.text());
    let Scene { log, records, .. } = scene;
    let mut prev = logged.leaf();
    let writer = Writer::new(rotated, sift_tests_origin());
    for record in &records[2..] {
        let entry = writer.sign(&Record { prev: Some(prev), ..record.clone() });
        assert_eq!(log.http.add(entry.bytes()).await.unwrap().status, 200);
        prev = entry.leaf();
    }
    check_log(&log.http, &log.trust()).await;
}

fn sift_tests_origin() -> &'static str {
    "test.sift.example/log"
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_follow() {
    let scene = Scene::new().await;
    let next = scene.records[2].clone();
    let refused = [
        ("a gap", Record { seq: Seq::new(3).unwrap(), ..next.clone() }),
        ("a wrong prev", Record { prev: Some(Hash::from_bytes([7; 32])), ..next.clone() }),
        ("a time that goes back", Record { time: UnixMillis::new(1).unwrap(), ..next.clone() }),
        ("another agent", Record { agent: "test/other".parse().unwrap(), ..next.clone() }),
        ("a second open", Record { body: scene.records[0].body.clone(), ..next.clone() }),
    ];
    for (what, record) in refused {
        scene.refuses(what, scene.writer.sign(&record).bytes(), ProblemKind::ChainBroken).await;
    }
    // A gap says what was expected, and so does a wrong prev.
    let gap = scene.writer.sign(&Record { seq: Seq::new(9).unwrap(), ..next.clone() });
    let problem = scene.log.http.add(gap.bytes()).await.unwrap().problem();
    assert_eq!(problem.expected_seq, Some(next.seq));
    let wrong = scene.writer.sign(&Record { prev: Some(Hash::from_bytes([7; 32])), ..next.clone() });
    let problem = scene.log.http.add(wrong.bytes()).await.unwrap().problem();
    assert_eq!(problem.expected_prev, next.prev);
    // A run of another log, a run without open, a run under a policy that nobody published.
    let elsewhere = Writer::new(new_key("test/elsewhere"), "other.example/log");
    scene.operator.enrol(&elsewhere).await;
    let open = elsewhere.sign(&elsewhere.run(0)[0]);
    scene.refuses("another log's run", open.bytes(), ProblemKind::WrongLog).await;
    let fresh = scene.writer.run(1);
    let census = [(sift_spec::record::Kind::Open, 1)].into();
    let close = Close {
        below: sift_spec::meter::Amounts::ZERO,
        census,
        reason: CloseReason::Done,
        settled: sift_spec::meter::Amounts::ZERO,
    };
    let headless = Record {
        body: Body::Close(close.into()),
        seq: Seq::new(1).unwrap(),
        prev: fresh[1].prev,
        ..fresh[0].clone()
    };
    scene.refuses("a run without open", scene.writer.sign(&headless).bytes(), ProblemKind::ChainBroken).await;
    let Body::Open(mut open) = fresh[0].body.clone() else { panic!("an open") };
    open.policy = Hash::from_bytes([9; 32]);
    let unpublished = Record { body: Body::Open(open), ..fresh[0].clone() };
    let entry = scene.writer.sign(&unpublished);
    scene.refuses("an unpublished policy", entry.bytes(), ProblemKind::PolicyNotPublished).await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_close_there_is_nothing() {
    let scene = Scene::new().await;
    let records = scene.writer.run(0);
    scene.log.http.add_all(&scene.writer.entries(&records)).await.unwrap();
    let last = scene.writer.sign(&records[1]);
    let beat = Body::Beat(sift_spec::record::Beat { records: 2 });
    let more =
        Record { body: beat, seq: Seq::new(2).unwrap(), prev: Some(last.leaf()), ..records[1].clone() };
    scene.refuses("a record after close", scene.writer.sign(&more).bytes(), ProblemKind::ChainBroken).await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equivocation_is_refused_and_kept() {
    let mut scene = Scene::new().await;
    let first = &scene.records[1];
    let other = Record { time: UnixMillis::new(first.time.get() + 1).unwrap(), ..first.clone() };
    let other = scene.writer.sign(&other);
    scene.refuses("two records for one place", other.bytes(), ProblemKind::Equivocation).await;
    let problem = scene.log.http.add(other.bytes()).await.unwrap().problem();
    assert_eq!(problem.index.map(|index| index.get()), Some(3));
    // Kept across a restart, byte for byte.
    scene.log.stop().await;
    assert_eq!(stored_equivocation(&scene.log, first.run, first.seq), Some(other.bytes().to_vec()));
    scene.log.restart().await.unwrap();
    scene.refuses("the same after a restart", other.bytes(), ProblemKind::Equivocation).await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_can_make_evidence_of_equivocation() {
    let mut scene = Scene::new().await;
    let first = scene.records[1].clone();
    let later = Record { time: UnixMillis::new(first.time.get() + 1).unwrap(), ..first.clone() };
    // An approver, another kernel, and a kernel for other agents: each is granted, none owns the run.
    let approver = new_key("test/approver");
    let role = KeyRole::Approver("supervisor".parse().unwrap());
    scene.operator.grant(approver.verifier(), role, "*").await;
    let elsewhere = new_key("test/elsewhere");
    scene.operator.grant(elsewhere.verifier(), KeyRole::Kernel, "airline/*").await;
    for key in [&approver, &elsewhere] {
        let other = Entry::sign(&later, key).unwrap();
        scene.refuses("another's place", other.bytes(), ProblemKind::KeyNotGranted).await;
    }
    let squatter = scene.log.writer("test/squatter").await;
    scene.refuses("another's place", squatter.sign(&later).bytes(), ProblemKind::ChainBroken).await;
    // The place for evidence is free for the real thing, and one is kept: the first.
    let real = scene.writer.sign(&later);
    let second =
        scene.writer.sign(&Record { time: UnixMillis::new(first.time.get() + 2).unwrap(), ..first.clone() });
    let bundle = [real.bytes().to_vec(), second.bytes().to_vec()];
    let answer = scene.log.http.add_all(&bundle).await.unwrap();
    assert!(answer.results.iter().all(|result| matches!(result, BatchResult::Problem(_))));
    scene.log.stop().await;
    assert_eq!(stored_equivocation(&scene.log, first.run, first.seq), Some(real.bytes().to_vec()));
    scene.log.restart().await.unwrap();
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_signs_nothing_for_another_log() {
    let (one, two) = (Scene::new().await, TestLog::start().await);
    // A log that says that it is the first one's, but serves the second's chain: an operator who believes the first.
    let key = new_key("test/new");
    let grant = Grant {
        agents: vec!["*".parse().unwrap()],
        role: KeyRole::Kernel,
        vkey: key.verifier().to_string().parse().unwrap(),
    };
    let trust = one.log.trust();
    let last = one.log.dir().join("elsewhere.last");
    let operator = sift_server::operator::Operator {
        key: one.operator.key(),
        trust: &trust,
        last,
        connect: Default::default(),
    };
    let body = OperatorBody::Key(KeyChange::Grant(grant));
    two.operator().grant(new_key("test/other").verifier(), KeyRole::Kernel, "*").await;
    let error = operator.submit(two.http.url(), body.clone(), now()).await.unwrap_err().to_string();
    assert!(error.contains("signature"), "{error}");
    // The true log is signed for, and what was sent is remembered: a log that hides it gets nothing.
    operator.submit(one.log.http.url(), body, now()).await.unwrap();
    std::fs::write(&operator.last, format!("900 {}\n", Hash::from_bytes([3; 32]))).unwrap();
    let erase =
        sift_spec::record::Erase { digest: Hash::from_bytes([1; 32]), reason: "test".parse().unwrap() };
    let error = operator.submit(one.log.http.url(), OperatorBody::Erase(erase), now()).await.unwrap_err();
    assert!(error.to_string().contains("does not show it"), "{error}");
    one.goes_on().await;
}

fn stored_equivocation(log: &TestLog, run: RunId, seq: Seq) -> Option<Vec<u8>> {
    let options = rocksdb::Options::default();
    let columns = rocksdb::DB::list_cf(&options, log.data()).unwrap();
    let db = rocksdb::DB::open_cf_for_read_only(&options, log.data(), columns, false).unwrap();
    let key = [&run.as_bytes()[..], &seq.get().to_be_bytes()].concat();
    db.get_cf(db.cf_handle("equivocations").unwrap(), key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_cannot_contradict_itself() {
    let scene = Scene::new().await;
    let key = new_key("test/second");
    scene.operator.grant(key.verifier(), KeyRole::Kernel, "*").await;
    let vkey = |key: &SignerKey| key.verifier().to_string().parse().unwrap();
    let grant = |vkey| Grant { agents: vec!["*".parse().unwrap()], role: KeyRole::Kernel, vkey };
    let origin_key = new_key(sift_tests_origin());
    let refused = [
        ("a key granted twice", KeyChange::Grant(grant(vkey(&key)))),
        ("a key with the log's name", KeyChange::Grant(grant(vkey(&origin_key)))),
        ("no key at all", KeyChange::Grant(grant("nonsense".parse().unwrap()))),
        ("an unknown key revoked", {
            let reason = "test".parse().unwrap();
            KeyChange::Revoke(sift_spec::record::Revoke { reason, vkey: vkey(&new_key("test/nobody")) })
        }),
    ];
    for (what, change) in refused {
        let error = scene.operator.send(OperatorBody::Key(change)).await.unwrap_err();
        assert!(error.to_string().contains("grant-refused"), "{what}: {error}");
    }
    scene.operator.revoke(key.verifier()).await;
    let again =
        scene.operator.send(OperatorBody::Key(KeyChange::Grant(grant(vkey(&key))))).await.unwrap_err();
    assert!(again.to_string().contains("grant-refused"), "a revoked key granted again: {again}");
    scene.goes_on().await;
}
