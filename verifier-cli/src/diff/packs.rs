//! Two packs of one run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::record::Record;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, Seq};

use super::{Diff, of_one_log};
use crate::checkpoint;
use crate::consistency::{self, Basis};
use crate::error::CannotCheck;
use crate::finding::{Code, Concern, Finding, Gap};
use crate::report::{Claim, Proven, Report, Verb};
use crate::run::{self, Options};
use crate::source::Source;
use crate::text::Many;

/// What keeps it from being proven who signed a record; where no record is named, any of them.
const UNSIGNED: [Code; 3] = [Code::SignatureInvalid, Code::KeyNotGranted, Code::OperatorInvalid];

/// Entries that two packs hold at the same indices.
#[derive(Debug)]
struct SameEntries {
    records: u64,
    operator: u64,
    _assertion: (),
}

impl Proven for SameEntries {
    fn claim(&self) -> Claim {
        let (records, operator) = (Many(self.records, "record"), Many(self.operator, "entry"));
        let detail =
            format!("{records} of the run and {operator} of the operator are the same, at the same indices");
        Claim { what: "entries", count: self.records + self.operator, detail }
    }
}

/// One of the packs.
struct Side {
    name: String,
    report: Report,
    pack: Pack,
    checkpoint: Option<Checkpoint>,
    /// Records of the run, by seq.
    records: BTreeMap<Seq, Placed>,
}

/// A record where it stands.
struct Placed {
    index: LeafIndex,
    entry: Entry,
}

/// Compares two packs of one run, each verified on its own first. With a log, their heads are compared too.
///
/// # Errors
/// When they are of two runs or logs, or the log's tiles cannot be read.
pub fn compare_packs(
    [first, second]: [(&str, &[u8]); 2],
    log: Option<&dyn Source>,
    trust: &TrustPolicy,
    options: &Options,
) -> Result<Diff, CannotCheck> {
    let mut report = Report::new(Verb::Diff, format!("{} and {}", first.0, second.0));
    // 1. Each is verified on its own.
    let verify = |(name, bytes): (&str, &[u8])| run::verify(bytes, trust, options).about(name);
    let sides = [verify(first), verify(second)];
    let (Ok(a), Ok(b)) = (Pack::read(first.1), Pack::read(second.1)) else {
        report.leave(Gap::NotReached, Concern::whole(), "what is no pack cannot be compared");
        return Ok(Diff { sides, report });
    };
    // 2. They are of one run and one log.
    if a.run != b.run {
        return Err(CannotCheck::TwoRuns(a.run, b.run));
    }
    let [report_a, report_b] = sides;
    let (a, b) = (Side::new(first.0, report_a, a), Side::new(second.0, report_b, b));
    if let (Some(first), Some(second)) = (&a.checkpoint, &b.checkpoint) {
        of_one_log(first, second)?;
    }
    // 3. Heads of one size are one head; of two sizes, a proof says which extends the other.
    compare_heads(&a, &b, log, trust, &mut report)?;
    // 4. At one index stands one entry.
    compare_indices(&a, &b, &mut report);
    // 5. At one place of the chain stands one record, and it stands at one index.
    compare_records(&a, &b, &mut report);
    // 6. What one holds and the other does not.
    for (one, other) in [(&a, &b), (&b, &a)] {
        only_in(one, other, &mut report);
    }
    Ok(Diff { sides: [a.report, b.report], report })
}

impl Side {
    fn new(name: &str, report: Report, pack: Pack) -> Self {
        let mut records = BTreeMap::new();
        for (index, bytes) in &pack.entries {
            if let Ok(entry) = Entry::parse(bytes.clone())
                && let Content::Run(record) = entry.content()
                && record.run == pack.run
            {
                records.entry(record.seq).or_insert(Placed { index: *index, entry });
            }
        }
        let checkpoint = checkpoint::claimed(&pack.checkpoint, None);
        Self { name: name.to_owned(), report, pack, checkpoint, records }
    }

    /// Whether its entries are proven to stand where they do in a tree that the log signed.
    fn is_included(&self) -> bool {
        self.report.verified().iter().any(|claim| claim.what == "inclusion")
    }

    /// Whether the key that the record names counted, and signed it.
    fn is_signed(&self, seq: Seq) -> bool {
        let about = |concern: &Concern| concern.seq.is_none_or(|of| of == seq);
        let spoils = |found: &Finding| UNSIGNED.contains(&found.code) && about(&found.concern);
        self.report.findings_unlisted() == 0 && !self.report.findings().iter().any(spoils)
    }
}

fn compare_heads(
    a: &Side,
    b: &Side,
    log: Option<&dyn Source>,
    trust: &TrustPolicy,
    report: &mut Report,
) -> Result<(), CannotCheck> {
    let (Some(first), Some(second)) = (&a.checkpoint, &b.checkpoint) else {
        report.leave(Gap::NotReached, Concern::whole(), "without two checkpoints no heads are compared");
        return Ok(());
    };
    let basis = log.map_or(Basis::None, Basis::Log);
    let notes = [&a.pack.checkpoint, &b.pack.checkpoint].map(String::as_bytes);
    match consistency::compare(notes[0], notes[1], basis, trust, report) {
        Err(CannotCheck::NoProof(..)) => {
            let (first, second) = (first.head.size, second.head.size);
            let detail = format!("{} has the tree of {first} entries, {} that of {second}", a.name, b.name);
            report.leave(Gap::HeadsUncompared, Concern::whole(), detail);
            Ok(())
        }
        compared => compared,
    }
}

fn compare_indices(a: &Side, b: &Side, report: &mut Report) {
    let differing = |(index, entry): (&LeafIndex, &Vec<u8>)| {
        let other = b.pack.entries.get(index).filter(|other| *other != entry)?;
        Some((*index, leaf_hash(entry), leaf_hash(other)))
    };
    let mut differ = a.pack.entries.iter().filter_map(differing);
    let Some((index, in_a, in_b)) = differ.next() else { return };
    let more = differ.count() as u64;
    let others = match more {
        0 => String::new(),
        more => format!("; later ones that differ: {more}"),
    };
    let detail = format!("{} has the leaf {in_a} there, {} has {in_b}{others}", a.name, b.name);
    match (a.is_included() && b.is_included(), &a.checkpoint) {
        (true, Some(checkpoint)) => {
            let detail = format!("{} signed both trees: {detail}. Keep both packs", checkpoint.origin);
            report.reject(Code::HeadsInconsistent, Concern::entry(index), detail);
        }
        _ => report.reject(Code::CopiesDiffer, Concern::entry(index), detail),
    }
}

fn compare_records(a: &Side, b: &Side, report: &mut Report) {
    let mark = report.mark();
    let mut records = 0;
    for (seq, one) in &a.records {
        let Some(other) = b.records.get(seq) else { continue };
        let concern = || Concern::record(one.index, a.pack.run, *seq);
        let same = one.entry.bytes() == other.entry.bytes();
        let placed = |side: &Side, placed: &Placed| {
            format!("{} has the leaf {} at index {}", side.name, placed.entry.leaf(), placed.index)
        };
        let detail = format!("{}, {}", placed(a, one), placed(b, other));
        match (same, one.index == other.index) {
            (true, true) => records += 1,
            (true, false) if a.is_included() && b.is_included() => {
                let detail = format!(
                    "the log took in one record twice, or showed two histories: {detail}. Keep both packs"
                );
                report.reject(Code::HeadsInconsistent, concern(), detail);
            }
            (true, false) => report.reject(Code::CopiesDiffer, concern(), detail),
            (false, _) if a.is_signed(*seq) && b.is_signed(*seq) => {
                let [by, and_by] = [one, other].map(|placed| placed.entry.signer());
                if by == and_by {
                    let detail = format!("{by} signed both: {detail}. Keep both packs");
                    report.reject(Code::ChainFork, concern(), detail);
                } else if a.is_included() && b.is_included() {
                    // Neither copy was changed: the log let a second kernel open the run.
                    let detail = format!(
                        "the run was opened by two kernels, {by} signed one, {and_by} the other: {detail}. Keep both packs"
                    );
                    report.reject(Code::RunMismatch, concern(), detail);
                } else {
                    report.reject(Code::CopiesDiffer, concern(), detail);
                }
            }
            (false, _) => report.reject(Code::CopiesDiffer, concern(), detail),
        }
    }
    let shared =
        a.pack.entries.iter().filter(|(index, entry)| b.pack.entries.get(index) == Some(entry)).count();
    let operator = (shared as u64).saturating_sub(records);
    if report.clean_since(mark) && a.is_included() && b.is_included() {
        report.claim(&SameEntries { records, operator, _assertion: () });
    }
}

/// What `one` holds and `other` does not.
fn only_in(one: &Side, other: &Side, report: &mut Report) {
    let run = one.pack.run;
    let mut leave = |concern, what: &dyn Display| {
        report.leave(Gap::OnlyInOne, concern, format!("{what}: only in {}", one.name));
    };
    let records: Vec<Seq> =
        one.records.keys().filter(|seq| !other.records.contains_key(seq)).copied().collect();
    if let (Some(first), Some(last)) = (records.first(), records.last()) {
        let what = format!("{}, from seq {first} to {last}", Many(records.len() as u64, "record"));
        leave(Concern::run(run), &what);
    }
    let of_run: BTreeSet<LeafIndex> = one.records.values().map(|placed| placed.index).collect();
    for index in one.pack.entries.keys().filter(|index| !of_run.contains(index)) {
        if !other.pack.entries.contains_key(index) {
            leave(Concern::entry(*index), &"an entry that is none of the run's");
        }
    }
    for digest in one.pack.bundles.keys().filter(|digest| !other.pack.bundles.contains_key(digest)) {
        leave(Concern::object(digest), &"a policy bundle");
    }
    let given =
        |digest: &Hash| one.pack.objects.contains_key(digest) && !other.pack.objects.contains_key(digest);
    let mut told = BTreeSet::new();
    for (seq, placed) in &one.records {
        let commitments = placed.entry.record().map(Record::commitments).unwrap_or_default();
        for commitment in commitments.into_iter().filter(|commitment| given(&commitment.digest)) {
            if told.insert(commitment.digest) {
                let concern = Concern::record(placed.index, run, *seq);
                let concern = Concern { object: Some(commitment.digest.hex()), ..concern };
                leave(concern, &format!("the payload {}", commitment.name));
            }
        }
    }
    for digest in one.pack.objects.keys().filter(|digest| given(digest) && !told.contains(*digest)) {
        leave(Concern::object(digest), &"an object that no record commits to");
    }
}
