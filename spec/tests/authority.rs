//! Authority and chains: which key counts at which index, and what a record owes to the one before it.
#![allow(clippy::unwrap_used)]

mod common;

use common::honest::{
    Honest, LOG, agent, approver_key, at_ms, kernel_key, log_key, operator_key, p, seq, sign_operator,
    stranger_key, witness_key,
};
use common::index;
use sift_spec::chain::{ChainError, OperatorHead, RunHead};
use sift_spec::entry::Content;
use sift_spec::keys::{AuthorityError, GrantError, KeyRing};
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::record::{
    Beat, Body, Erase, Grant, KeyChange, KeyRole, OperatorBody, OperatorRecord, Policy, Record, Revoke,
};
use sift_spec::types::{AgentName, Hash, KeyName, UnixMillis, Word};

fn grant(key: &SignerKey, role: KeyRole, agents: &[&str]) -> OperatorBody {
    let agents = agents.iter().map(|scope| p(scope)).collect();
    OperatorBody::Key(KeyChange::Grant(Grant { agents, role, vkey: p(&key.verifier().to_string()) }))
}

fn revoke(key: &SignerKey) -> OperatorBody {
    let vkey = p(&key.verifier().to_string());
    OperatorBody::Key(KeyChange::Revoke(Revoke { reason: p("test"), vkey }))
}

fn ring() -> KeyRing {
    KeyRing::new(p(LOG), operator_key().verifier().clone())
}

#[test]
fn a_key_counts_between_grant_and_revocation() {
    let key = kernel_key();
    let (name, id) = (key.verifier().name().clone(), key.verifier().id());
    let mut ring = ring();
    let at = |ring: &KeyRing, at: u64| ring.kernel(&name, id, &agent(), index(at)).cloned();
    let not_granted = || Err(AuthorityError::NotGranted { name: name.clone(), id });
    assert_eq!(at(&ring, 5), not_granted());
    ring.apply(index(5), &grant(&key, KeyRole::Kernel, &["airline/*"])).unwrap();
    assert_eq!(at(&ring, 0), not_granted());
    assert_eq!(at(&ring, 5), not_granted(), "not for the entry that grants it");
    assert_eq!(at(&ring, 6).as_ref(), Ok(key.verifier()));
    ring.apply(index(9), &revoke(&key)).unwrap();
    assert!(at(&ring, 8).is_ok());
    assert!(at(&ring, 9).is_ok(), "index 9 is the revocation itself");
    assert_eq!(at(&ring, 10), Err(AuthorityError::Revoked { name: name.clone(), at: index(9) }));
    // Never again: not the same grant, not another role or name for the same public key.
    let known = Err(GrantError::Known(index(5)));
    assert_eq!(ring.apply(index(10), &grant(&key, KeyRole::Kernel, &["*"])), known);
    let renamed = SignerKey::from_seed(p("another.example/name"), KeyType::Ed25519, &[3; 32]).unwrap();
    assert_eq!(ring.apply(index(10), &grant(&renamed, KeyRole::Approver(p("x")), &["*"])), known);
    assert_eq!(ring.apply(index(10), &revoke(&key)), Err(GrantError::NotInForce));
    // Rotation: another key under the same name.
    let rotated = SignerKey::from_seed(name.clone(), KeyType::Ed25519, &[33; 32]).unwrap();
    ring.apply(index(11), &grant(&rotated, KeyRole::Kernel, &["airline/*"])).unwrap();
    let rotated_id = rotated.verifier().id();
    assert!(ring.kernel(&name, rotated_id, &agent(), index(12)).is_ok());
    assert!(at(&ring, 12).is_err());
    assert_eq!(ring.iter().count(), 2);
    assert_eq!(ring.get(&name, id).unwrap().revoked, Some(index(9)));
}

#[test]
fn roles_and_scopes_are_exact() {
    let (kernel, approver) = (kernel_key(), approver_key());
    let mut ring = ring();
    ring.apply(index(0), &grant(&kernel, KeyRole::Kernel, &["airline/gpt-4o", "bank/*"])).unwrap();
    ring.apply(index(1), &grant(&approver, KeyRole::Approver(p("supervisor")), &["*"])).unwrap();
    let by = |key: &SignerKey, agent: &str| {
        ring.kernel(key.verifier().name(), key.verifier().id(), &p::<AgentName>(agent), index(9)).is_ok()
    };
    for (agent, counts) in [
        ("airline/gpt-4o", true),
        ("airline/gpt-4", false),
        ("airline/gpt-4o/x", false),
        ("airline", false),
        ("bank/a", true),
        ("bank/a/b", true),
        ("bank", false),
        ("bankrupt/a", false),
        ("Bank/a", false),
    ] {
        assert_eq!(by(&kernel, agent), counts, "{agent}");
        assert!(!by(&approver, agent), "an approver signs no records");
    }
    let approves = |key: &SignerKey, role: &str| {
        let role: Word = p(role);
        ring.approver(key.verifier().name(), key.verifier().id(), &role, &agent(), index(9))
    };
    assert!(approves(&approver, "supervisor").is_ok());
    assert!(matches!(approves(&approver, "auditor"), Err(AuthorityError::Role { .. })));
    assert!(matches!(approves(&kernel, "supervisor"), Err(AuthorityError::Role { .. })));
    assert!(matches!(approves(&stranger_key(), "supervisor"), Err(AuthorityError::NotGranted { .. })));
    // The id of another key under the right name.
    assert!(ring.kernel(kernel.verifier().name(), approver.verifier().id(), &agent(), index(9)).is_err());
}

#[test]
fn grants_that_are_refused_change_nothing() {
    let mut ring = ring();
    let before = ring.clone();
    let named = |name: &str, seed: u8| SignerKey::from_seed(p(name), KeyType::Ed25519, &[seed; 32]).unwrap();
    let kernel = || KeyRole::Kernel;
    for (what, body) in [
        ("the log's name", grant(&log_key(), kernel(), &["*"])),
        ("the log's name, another key", grant(&named(LOG, 70), kernel(), &["*"])),
        ("the operator's name", grant(&named("operator.example/root", 71), kernel(), &["*"])),
        ("the operator's key", grant(&named("harmless.example", 2), kernel(), &["*"])),
        ("a cosigner's key", grant(&witness_key(1), kernel(), &["*"])),
        ("a revocation of nothing", revoke(&kernel_key())),
        (
            "no vkey",
            OperatorBody::Key(KeyChange::Grant(Grant { agents: vec![p("*")], role: kernel(), vkey: p("x") })),
        ),
    ] {
        assert!(ring.apply(index(3), &body).is_err(), "{what}");
        assert_eq!(ring, before, "{what}");
    }
}

#[test]
fn bundles_are_published_once_and_objects_erased() {
    let mut ring = ring();
    let bundle = Hash::from_bytes([7; 32]);
    let policy = OperatorBody::Policy(Policy { bundle, name: p("x"), size: 1 });
    assert_eq!(ring.published(&bundle), None);
    ring.apply(index(4), &policy).unwrap();
    assert_eq!(ring.published(&bundle), Some(index(4)));
    assert_eq!(ring.apply(index(5), &policy), Err(GrantError::Published(index(4))));
    let erase = OperatorBody::Erase(Erase { digest: bundle, reason: p("") });
    assert!(!ring.is_erased(&bundle));
    ring.apply(index(6), &erase).unwrap();
    ring.apply(index(7), &erase).unwrap();
    assert!(ring.is_erased(&bundle));
}

/// The head after the first `count` records of the example run.
fn head(log: &Honest, count: usize) -> RunHead {
    let open = log.record(0);
    let mut head = RunHead::open(open.record().unwrap(), open.signer(), open.leaf(), &p(LOG)).unwrap();
    for seq in 1..count {
        let entry = log.record(seq);
        head.extend(entry.record().unwrap(), entry.signer(), entry.leaf()).unwrap();
    }
    head
}

#[test]
fn a_run_is_a_chain() {
    let log = Honest::new();
    let signer: KeyName = kernel_key().verifier().name().clone();
    let whole = head(&log, 11);
    assert!(whole.is_closed());
    assert_eq!((whole.seq(), whole.leaf()), (seq(10), log.record(10).leaf()));
    assert_eq!((whole.agent(), whole.signer()), (&agent(), &signer));

    let base = head(&log, 8);
    let beat = log.record(8).record().unwrap().clone();
    let leaf = log.record(8).leaf();
    let attempt = |record: &Record, signer: &KeyName| {
        let mut head = base.clone();
        let verdict = head.extend(record, signer, leaf);
        assert_eq!(verdict.is_err(), head == base, "a refusal changes nothing");
        verdict
    };
    let with = |change: &dyn Fn(&mut Record)| {
        let mut record = beat.clone();
        change(&mut record);
        attempt(&record, &signer)
    };
    assert_eq!(attempt(&beat, &signer), Ok(()));
    assert_eq!(with(&|r| r.time = base.time()), Ok(()), "the same millisecond");
    let gap = |got| Err(ChainError::Gap { expected: seq(8), got });
    assert_eq!(with(&|r| r.seq = seq(9)), gap(seq(9)));
    assert_eq!(with(&|r| r.seq = seq(7)), gap(seq(7)));
    assert_eq!(with(&|r| r.seq = seq(0)), gap(seq(0)));
    let prev = Err(ChainError::Prev { seq: seq(7), expected: base.leaf() });
    assert_eq!(with(&|r| r.prev = Some(log.record(6).leaf())), prev);
    assert_eq!(with(&|r| r.prev = None), prev);
    let early = at_ms(1000 + 250 * 7 - 1);
    assert_eq!(with(&|r| r.time = early), Err(ChainError::Time { last: base.time(), got: early }));
    assert_eq!(with(&|r| r.agent = p("airline/other")), Err(ChainError::Agent(agent())));
    assert_eq!(attempt(&beat, &p("someone.else")), Err(ChainError::Signer(signer.clone())));
    let open = log.record(0).record().unwrap().body.clone();
    assert_eq!(with(&|r| r.body = open.clone()), Err(ChainError::Open));
    let mut after = whole.clone();
    let late = Record { seq: seq(11), prev: Some(whole.leaf()), time: whole.time(), ..beat.clone() };
    assert_eq!(after.extend(&late, &signer, leaf), Err(ChainError::Closed));

    let first = log.record(0).record().unwrap();
    let start = |record: &Record, log: &str| RunHead::open(record, &signer, leaf, &p(log));
    assert!(start(first, LOG).is_ok());
    assert_eq!(start(first, "other.example"), Err(ChainError::Log(p(LOG))));
    let beat_first =
        Record { seq: seq(0), prev: None, body: Body::Beat(Beat { records: 0 }), ..beat.clone() };
    assert_eq!(start(&beat_first, LOG), Err(ChainError::Open));
    assert_eq!(start(&beat, LOG), Err(ChainError::Gap { expected: seq(0), got: seq(8) }));
}

#[test]
fn the_operators_entries_are_a_chain() {
    let log = Honest::new();
    let entries: Vec<_> = [0, 1, 2, 14, 15].into_iter().map(|at| log.entries[at].clone()).collect();
    let record = |at: usize| -> OperatorRecord {
        match entries[at].content() {
            Content::Operator(record) => record.clone(),
            Content::Run(_) => unreachable!(),
        }
    };
    let mut head = OperatorHead::default();
    assert_eq!((head.next_seq(), head.leaf()), (seq(0), None));
    for (at, entry) in entries.iter().enumerate() {
        let before = head.clone();
        let name: KeyName = p(LOG);
        let mut refused = |record: &OperatorRecord, log: &KeyName| {
            let verdict = head.extend(record, entry.leaf(), log);
            assert_eq!(head, before);
            verdict.unwrap_err()
        };
        assert_eq!(refused(&record(at), &p("other.example")), ChainError::Log(name.clone()));
        let mut skipped = record(at);
        skipped.seq = seq(at as u64 + 1);
        let gap = ChainError::Gap { expected: seq(at as u64), got: seq(at as u64 + 1) };
        assert_eq!(refused(&skipped, &name), gap);
        if at > 0 {
            let mut other = record(at);
            other.prev = Some(Hash::from_bytes([1; 32]));
            assert!(matches!(refused(&other, &name), ChainError::Prev { .. }));
            let mut early = record(at);
            early.time = UnixMillis::ZERO;
            assert!(matches!(refused(&early, &name), ChainError::Time { .. }));
        }
        head.extend(&record(at), entry.leaf(), &name).unwrap();
        assert_eq!((head.next_seq(), head.leaf()), (seq(at as u64 + 1), Some(entry.leaf())));
    }
    // A record that starts the chain anew.
    let again = sign_operator(revoke(&kernel_key()), 0, None);
    let Content::Operator(again_record) = again.content() else { unreachable!() };
    assert!(head.extend(again_record, again.leaf(), &p(LOG)).is_err());
}
