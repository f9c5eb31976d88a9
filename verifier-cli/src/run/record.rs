//! The records of a run: who signed them, and that they are one chain.

use std::collections::BTreeMap;

use sift_spec::chain::RunHead;
use sift_spec::note::{BatchItem, VerifierKey, verify_batch};
use sift_spec::record::{Body, Effect, Halt, Intent, Kind, Open, Outcome};
use sift_spec::types::{KeyName, RunId, Seq, UnixMillis};

use super::Options;
use super::authority::Authority;
use super::entries::RunEntry;
use crate::chain;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Records, each signed by a key that counts at its index for its agent.
#[derive(Debug)]
pub(super) struct VerifiedSignatures {
    records: u64,
    signers: Vec<KeyName>,
    _assertion: (),
}

impl Proven for VerifiedSignatures {
    fn claim(&self) -> Claim {
        let signers: Vec<&str> = self.signers.iter().map(KeyName::as_str).collect();
        let detail = format!("{} signed by {}", Many(self.records, "record"), signers.join(", "));
        Claim { what: "signatures", count: self.records, detail }
    }
}

/// Checks grants and signatures of all records.
pub(super) fn verify_signatures(
    records: &[RunEntry],
    authority: &Authority,
    report: &mut Report,
) -> Option<VerifiedSignatures> {
    let mark = report.mark();
    let mut granted: Vec<(&RunEntry, &VerifierKey)> = Vec::with_capacity(records.len());
    let mut signers: Vec<KeyName> = Vec::new();
    for record in records {
        let (name, id) = (record.entry.signer(), record.entry.key_id());
        match authority.ring.kernel(name, id, &record.record.agent, record.index) {
            Ok(key) => granted.push((record, key)),
            Err(error) => report.reject(Code::KeyNotGranted, record.concern(), error),
        }
        if !signers.contains(name) {
            signers.push(name.clone());
        }
    }
    let items: Vec<BatchItem<'_>> =
        granted.iter().map(|(record, key)| record.entry.batch_item(key)).collect();
    let mut entropy = [0; 32];
    let valid: Vec<bool> = match getrandom::fill(&mut entropy) {
        Ok(()) => verify_batch(&items, &entropy),
        // Without entropy no batch is safe; one by one gives the same answer, only slower.
        Err(_) => items.iter().map(|item| item.key.verify(item.message, item.signature)).collect(),
    };
    for ((record, key), valid) in granted.iter().zip(valid) {
        if !valid {
            let detail = format!("the signature of {} does not verify", key.name());
            report.reject(Code::SignatureInvalid, record.concern(), detail);
        }
    }
    let records = records.len() as u64;
    report.clean_since(mark).then_some(VerifiedSignatures { records, signers, _assertion: () })
}

/// A run's records along one whole chain.
pub(super) struct Story<'a> {
    pub(super) run: RunId,
    pub(super) log: KeyName,
    pub(super) records: &'a [RunEntry],
    /// The record of `open`.
    pub(super) first: &'a RunEntry,
    pub(super) open: &'a Open,
    /// Intents by seq.
    pub(super) intents: BTreeMap<Seq, (&'a RunEntry, &'a Intent)>,
    /// The first outcome of each intent, by the intent's seq.
    pub(super) outcomes: BTreeMap<Seq, (&'a RunEntry, &'a Outcome)>,
    /// The first halt.
    pub(super) halt: Option<(Seq, &'a Halt)>,
    pub(super) closed: bool,
}

/// A chain from `open` to its last record.
#[derive(Debug)]
pub(super) struct VerifiedChain {
    records: u64,
    agent: String,
    from: UnixMillis,
    until: UnixMillis,
    closed: bool,
    _assertion: (),
}

impl Proven for VerifiedChain {
    fn claim(&self) -> Claim {
        let seconds = self.until.get().saturating_sub(self.from.get()) / 1000;
        let end = if self.closed { "its close" } else { "its last record" };
        let records = Many(self.records, "record");
        let detail = format!(
            "{records} of agent {} from open to {end}, {seconds} s by the kernel's clock",
            self.agent
        );
        Claim { what: "chain", count: self.records, detail }
    }
}

/// Checks that the records are one chain with an end; `None` for the story when they are not one chain.
pub(super) fn verify_chain<'a>(
    run: RunId,
    records: &'a [RunEntry],
    log: &KeyName,
    options: &Options,
    report: &mut Report,
) -> (Option<Story<'a>>, Option<VerifiedChain>) {
    let mark = report.mark();
    let Some(first) = records.first() else {
        report.reject(Code::ChainGap, Concern::run(run), "the pack holds no record of the run");
        return (None, None);
    };
    let mut head: Option<RunHead> = None;
    for record in records {
        let (signer, last) = (record.entry.signer(), head.as_ref().map(RunHead::seq));
        let followed = match &mut head {
            Some(head) => head.extend(&record.record, signer, record.leaf),
            None => RunHead::open(&record.record, signer, record.leaf, log).map(|opened| head = Some(opened)),
        };
        if let Err(error) = followed {
            report.reject(chain::code_of(&error, record.record.seq, last), record.concern(), error);
            return (None, None);
        }
    }
    let (Some(head), Body::Open(open)) = (head, &first.record.body) else { return (None, None) };
    let mut story = Story {
        run,
        log: log.clone(),
        records,
        first,
        open,
        intents: BTreeMap::new(),
        outcomes: BTreeMap::new(),
        halt: None,
        closed: head.is_closed(),
    };
    story.index();
    let concern = Concern::run(run);
    let after = format!("the last record is the {} at seq {}", story.last_kind(), head.seq());
    match (story.closed, options.allow_open) {
        (true, _) => {}
        (false, true) => report.leave(Gap::RunOpen, concern, after),
        (false, false) => report.reject(Code::TailMissing, concern, after),
    }
    let verified = report.clean_since(mark).then(|| VerifiedChain {
        records: records.len() as u64,
        agent: head.agent().to_string(),
        from: first.record.time,
        until: head.time(),
        closed: story.closed,
        _assertion: (),
    });
    (Some(story), verified)
}

impl<'a> Story<'a> {
    fn index(&mut self) {
        for record in self.records {
            let seq = record.record.seq;
            match &record.record.body {
                Body::Intent(intent) => {
                    self.intents.insert(seq, (record, intent));
                }
                Body::Outcome(outcome) => {
                    self.outcomes.entry(outcome.intent).or_insert((record, outcome));
                }
                Body::Halt(halt) => {
                    self.halt.get_or_insert((seq, halt));
                }
                Body::Approval(_) | Body::Beat(_) | Body::Close(_) | Body::Open(_) => {}
            }
        }
    }

    /// The intent that a record at `seq` may refer to: an earlier one.
    pub(super) fn intent_before(&self, intent: Seq, seq: Seq) -> Option<(&'a RunEntry, &'a Intent)> {
        self.intents.get(&intent).filter(|_| intent < seq).copied()
    }

    /// Nesting depth of the run.
    pub(super) fn depth(&self) -> u32 {
        self.open.parent.map_or(0, |parent| parent.depth)
    }

    fn last_kind(&self) -> Kind {
        self.records.last().map_or(Kind::Open, |record| record.record.body.kind())
    }

    /// Describes the run in numbers.
    pub(super) fn count(&self, report: &mut Report) {
        let effects =
            |effect| self.intents.values().filter(|(_, intent)| intent.effect() == effect).count() as u64;
        report.count("records", self.records.len() as u64);
        report.count("calls_allowed", effects(Effect::Allow));
        report.count("calls_denied", effects(Effect::Deny));
        report.count("calls_held", effects(Effect::Hold));
        report.count("outcomes", self.outcomes.len() as u64);
    }
}
