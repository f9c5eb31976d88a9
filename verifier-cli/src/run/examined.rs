//! What a pack says of its run's decisions, once it was examined. Whether it may be believed, the report says.

use std::collections::BTreeSet;
use std::time::Duration;

use sift_rules::history::{Decided, Event, Happened};
use sift_spec::types::{LeafIndex, RunId, Seq};

use super::entries::RunEntry;
use super::payload::Payloads;

/// The records of a run along one whole chain, with the payloads that are given and match.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) run: RunId,
    pub(super) records: Vec<RunEntry>,
    pub(super) payloads: Payloads,
    /// Calls that were not decided again.
    pub(crate) undecided: BTreeSet<Seq>,
    /// How long deciding took, with the inputs derived.
    pub(crate) deciding: Duration,
}

impl Examined {
    /// What happened, in the order of the chain, and where each record stands.
    pub(crate) fn history(&self) -> impl Iterator<Item = (LeafIndex, Happened)> {
        let content = |commitment: &_| self.payloads.content(commitment).map(<[u8]>::to_vec);
        self.records
            .iter()
            .filter_map(move |entry| Some((entry.index, Happened::of(&entry.record, content)?)))
    }

    /// Each recorded decision, with the name of the tool, model or agent.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = (LeafIndex, Seq, String, Decided)> {
        self.records.iter().filter_map(|entry| match Happened::of(&entry.record, |_| None)?.event {
            Event::Call(call) => Some((entry.index, entry.record.seq, call.name, call.decided?)),
            _ => None,
        })
    }
}
