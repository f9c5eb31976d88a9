//! Ways to falsify an honest log, each as small as it can be, with the one finding that it must give.

use std::fs;
use std::path::Path;

use sift_spec::entry::Entry;
use sift_spec::proof::TreeHead;
use sift_spec::record::{Body, Record};
use sift_spec::types::Hash;
use sift_verify::Code;

use super::kernel::{beat, honest};
use super::{Draft, Scenario, Sealed, checkpoint, log_key, tiles};
use crate::common;

/// What is changed, and where on the way from what kernels mean to the files of a log.
pub enum Change {
    /// Before records are chained and signed; tiles, root and checkpoint follow.
    Draft(fn(&mut Scenario)),
    /// Entries that an operator and kernels never made so; tiles, root and checkpoint follow.
    Entries(fn(&mut Sealed)),
    /// Files of an honest log.
    Files(fn(&Sealed, &Path)),
}

impl Change {
    /// Writes the honest log with this change.
    pub fn write(&self, dir: &Path) {
        let mut scenario = honest();
        scenario.other_entries.clear(); // a run that goes on would be one thing more to say
        if let Self::Draft(change) = self {
            change(&mut scenario);
        }
        let mut sealed = scenario.seal();
        if let Self::Entries(change) = self {
            change(&mut sealed);
        }
        tiles::write(&sealed, dir);
        if let Self::Files(change) = self {
            change(&sealed, dir);
        }
    }
}

/// Each mutation and the one finding that it must give.
pub const MUTATIONS: &[(&str, Code, Change)] = &[
    (
        "the checkpoint is unsigned by the log",
        Code::CheckpointInvalid,
        Change::Files(|sealed, dir| {
            let key = common::key(common::LOG, sift_spec::note::KeyType::Ed25519, 77);
            tiles::put(dir, "checkpoint", checkpoint(sealed.head(), &key).as_bytes());
        }),
    ),
    (
        "the root is another",
        Code::RootDiffers,
        Change::Files(|sealed, dir| {
            let head = TreeHead { root: Hash::from_bytes([9; 32]), ..sealed.head() };
            tiles::put(dir, "checkpoint", checkpoint(head, &log_key()).as_bytes());
        }),
    ),
    (
        "a hash tile is another",
        Code::TileDiffers,
        Change::Files(|sealed, dir| {
            let mut leaves = sealed.leaves();
            leaves[3] = Hash::from_bytes([9; 32]);
            tiles::write_hashes(&leaves, dir);
        }),
    ),
    (
        "a bundle ends within an entry",
        Code::BundleMalformed,
        Change::Files(|sealed, dir| {
            let path = dir.join(format!("tile/entries/000.p/{}", sealed.entries.len()));
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
    ),
    (
        "an entry is no record",
        Code::RecordMalformed,
        Change::Entries(|sealed| {
            sealed.entries.push(b"hello".to_vec());
        }),
    ),
    ("a record's signature is spoilt", Code::SignatureInvalid, Change::Draft(|s| s.drafts[16].spoilt = true)),
    (
        "an operator's signature is spoilt",
        Code::SignatureInvalid,
        Change::Entries(|sealed| {
            common::spoil_signature(sealed.entries.last_mut().unwrap());
        }),
    ),
    (
        "a key is granted twice",
        Code::OperatorInvalid,
        Change::Draft(|s| {
            s.operator_after.push(s.operator_before[0].clone());
        }),
    ),
    (
        "a record is signed by a stranger",
        Code::KeyNotGranted,
        Change::Draft(|s| s.drafts[16].stranger = true),
    ),
    ("a record is missing", Code::ChainGap, Change::Entries(|sealed| drop(sealed.entries.remove(3 + 12)))),
    (
        "an operator's record is missing",
        Code::ChainGap,
        Change::Entries(|sealed| drop(sealed.entries.remove(1))),
    ),
    (
        "two records claim one seq",
        Code::ChainFork,
        Change::Draft(|s| {
            let mut second = Draft::new(beat(5), s.drafts[16].time);
            second.seq = Some(5);
            s.drafts.push(second);
        }),
    ),
    (
        "a run is opened twice",
        Code::ChainFork,
        Change::Entries(|sealed| {
            let again = sealed.entries[3].clone();
            sealed.entries.push(again);
        }),
    ),
    (
        "a record names another predecessor",
        Code::PrevDiffers,
        Change::Draft(|s| {
            s.drafts[12].prev = Some(Hash::from_bytes([9; 32]));
        }),
    ),
    (
        "time goes back",
        Code::TimeBackwards,
        Change::Draft(|s| {
            s.drafts[12].time = common::millis(common::START_MS);
        }),
    ),
    (
        "a record is by another agent",
        Code::RunMismatch,
        Change::Draft(|s| {
            s.drafts[12].agent = "airline/other".parse().unwrap();
        }),
    ),
    (
        "a run is for another log",
        Code::RunMismatch,
        Change::Entries(|sealed| {
            let mut record = open_of(&honest());
            let Body::Open(open) = &mut record.body else { panic!() };
            open.log = "other.example".parse().unwrap();
            sealed.entries.push(Entry::sign(&record, &common::kernel_key()).unwrap().into_bytes());
        }),
    ),
    (
        "a record follows the close",
        Code::AfterClose,
        Change::Draft(|s| {
            let time = s.drafts[16].time;
            s.drafts.push(Draft::new(beat(17), time));
        }),
    ),
    (
        "the bundle is published late",
        Code::PolicyNotPublished,
        Change::Draft(|s| {
            s.other_entries.clear();
            let publish = s.operator_before.pop().unwrap();
            s.operator_after.push(publish);
        }),
    ),
];

/// The open record of the honest run, under another identifier.
pub fn open_of(scenario: &Scenario) -> Record {
    let Draft { body, time, agent, .. } = scenario.drafts[0].clone();
    Record { agent, body, prev: None, run: common::run_id(200), seq: common::seq(0), time }
}
