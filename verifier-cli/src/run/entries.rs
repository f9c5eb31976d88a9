//! The entries of a pack: proven to be in the tree, parsed, and told apart.

use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::proof::verify_multi_inclusion;
use sift_spec::record::{OperatorRecord, Record};
use sift_spec::trust::VerifiedCheckpoint;
use sift_spec::types::{Hash, LeafIndex};

use crate::finding::{Code, Concern};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Entries that stand at their indices of a tree whose checkpoint is believed.
#[derive(Debug)]
pub(super) struct VerifiedEntries {
    entries: u64,
    size: u64,
    _assertion: (),
}

impl Proven for VerifiedEntries {
    fn claim(&self) -> Claim {
        let detail = format!("{} at their indices of the tree of {}", Many(self.entries, "entry"), self.size);
        Claim { what: "inclusion", count: self.entries, detail }
    }
}

/// Checks all entries by the pack's one proof. Which of several entries is wrong, such a proof cannot tell.
pub(super) fn verify_inclusion(
    pack: &Pack,
    checkpoint: &Checkpoint,
    believed: Option<&VerifiedCheckpoint>,
    report: &mut Report,
) -> Option<VerifiedEntries> {
    let leaves: Vec<(LeafIndex, Hash)> =
        pack.entries.iter().map(|(index, entry)| (*index, leaf_hash(entry))).collect();
    if let Err(error) = verify_multi_inclusion(&leaves, &checkpoint.head, &pack.proof) {
        report.reject(Code::NotIncluded, Concern::whole(), error);
        return None;
    }
    believed?;
    Some(VerifiedEntries { entries: leaves.len() as u64, size: checkpoint.head.size.get(), _assertion: () })
}

/// One entry of the run.
#[derive(Debug)]
pub(super) struct RunEntry {
    pub(super) index: LeafIndex,
    pub(super) leaf: Hash,
    pub(super) entry: Entry,
    pub(super) record: Record,
}

impl RunEntry {
    /// What a finding about this record concerns.
    pub(super) fn concern(&self) -> Concern {
        Concern::record(self.index, self.record.run, self.record.seq)
    }
}

/// One entry of the operator.
#[derive(Debug)]
pub(super) struct OperatorEntry {
    pub(super) index: LeafIndex,
    pub(super) leaf: Hash,
    pub(super) entry: Entry,
    pub(super) record: OperatorRecord,
}

/// The entries of a pack in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) operator: Vec<OperatorEntry>,
    pub(super) run: Vec<RunEntry>,
    /// Whether the pack holds every entry of the log up to the run's last record, so that nothing before it can be missing.
    pub(super) gapless: bool,
}

impl Entries {
    pub(super) fn read(pack: &Pack, report: &mut Report) -> Self {
        let mut entries = Self::default();
        for (index, bytes) in &pack.entries {
            let (index, leaf) = (*index, leaf_hash(bytes));
            let entry = match Entry::parse(bytes.clone()) {
                Ok(entry) => entry,
                Err(error) => {
                    let concern = Concern::entry(index).at(error.offset());
                    report.reject(Code::RecordMalformed, concern, error);
                    continue;
                }
            };
            match entry.content() {
                Content::Operator(record) => {
                    let record = record.clone();
                    entries.operator.push(OperatorEntry { index, leaf, entry, record });
                }
                Content::Run(record) if record.run == pack.run => {
                    let record = record.clone();
                    entries.run.push(RunEntry { index, leaf, entry, record });
                }
                Content::Run(record) => {
                    let concern = Concern::record(index, record.run, record.seq);
                    report.reject(Code::EntryStray, concern, format!("the pack is about run {}", pack.run));
                }
            }
        }
        let until = entries.run.last().map(|record| record.index);
        let given = |end| pack.entries.range(..=end).count() as u64;
        entries.gapless = until.is_some_and(|end| given(end) == end.get() + 1);
        entries
    }
}
