//! What a verification can find wrong, and what it can leave unchecked: two closed lists of stable codes.
//!
//! Programs branch on the codes, people read the meanings; both are part of the interface and never change.

use std::fmt;

use serde::Serialize;
use sift_spec::types::{Hash, LeafIndex, RunId, Seq};

macro_rules! codes {
    ($(#[$outer:meta])* $Type:ident { $($Name:ident = $code:literal, $meaning:literal;)* }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $Type {
            $(#[doc = $meaning] #[serde(rename = $code)] $Name,)*
        }

        impl $Type {
            /// All codes, in the order of the numbered steps that give them.
            pub const ALL: &'static [Self] = &[$(Self::$Name),*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$Name => $code,)* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$Name => $meaning,)* }
            }
        }

        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.code())
            }
        }
    };
}

codes! {
    /// What is wrong with evidence.
    Code {
        PackMalformed = "pack-malformed", "The file is not an evidence pack in its one encoding: it is cut, changed or something else.";
        ReceiptMalformed = "receipt-malformed", "The receipt is not a C2SP tlog-proof in its one encoding.";
        CheckpointInvalid = "checkpoint-invalid", "The checkpoint is malformed, or no log of the trust file signed it.";
        NotWitnessed = "not-witnessed", "The log signed the checkpoint, but too few of the trust file's witnesses vouch for it.";
        NotIncluded = "not-included", "The entries are not what the log committed to under this checkpoint: at least one was changed, moved or added.";
        HeadsInconsistent = "heads-inconsistent", "The log signed two heads of which neither extends the other: it showed two histories.";
        ConsistencyUnproven = "consistency-unproven", "The proof does not show that one head extends the other: the proof is wrong, or the heads are inconsistent.";
        HeadOlder = "head-older", "The log was served with a smaller head than before; both are of one history, as far as is known.";
        HeadStale = "head-stale", "The log was not seen to grow, nor to be cosigned, for longer than is allowed.";
        BundleMalformed = "bundle-malformed", "An entry bundle of the log is not the entries that its place in the tree needs.";
        TileDiffers = "tile-differs", "A served tile is not the one that the log's entries, or the root that it signed, give: whoever served it is at fault.";
        RootDiffers = "root-differs", "The entries that the log serves do not give the root that its checkpoint signs.";
        RecordMalformed = "record-malformed", "An entry is not a record in its one encoding, or is larger than any entry.";
        EntryStray = "entry-stray", "The pack holds an entry that belongs neither to the run nor to the operator.";
        SignatureInvalid = "signature-invalid", "The named key did not sign this: it was changed after signing, or is forged.";
        OperatorInvalid = "operator-invalid", "An operator's entry contradicts the operator's earlier ones; an honest log refuses it.";
        KeyNotGranted = "key-not-granted", "At this place in the log, the operator's entries do not let this key sign this.";
        ChainGap = "chain-gap", "A record is missing between two others of its chain.";
        ChainFork = "chain-fork", "Two records claim the same place in one chain: its signer told two stories.";
        PrevDiffers = "prev-differs", "A record does not name the leaf hash of the record before it: one of the two was replaced.";
        TimeBackwards = "time-backwards", "A record is older than the record before it.";
        RunMismatch = "run-mismatch", "A record does not belong to this log, run, agent or key name, or opens the run again.";
        AfterClose = "after-close", "A record follows the close of its run.";
        TailMissing = "tail-missing", "The run has no close: its end was dropped, or it still runs.";
        PayloadDiffers = "payload-differs", "A payload is not what a record of the run commits to.";
        PayloadUnknown = "payload-unknown", "The pack holds a payload or a policy bundle that nothing in it commits to.";
        PolicyNotPublished = "policy-not-published", "The operator had not published the run's policy bundle when the run opened.";
        BundleDiffers = "bundle-differs", "The bundle in the pack is not the one that the run names and the operator published, or is not a policy.";
        LimitsDiffer = "limits-differ", "The limits that the run's open record states are not those of its policy bundle.";
        RequestDiffers = "request-differs", "What a model was asked is not what the record of the call says it was asked.";
        ProposalDiffers = "proposal-differs", "A call names a model call that did not propose it.";
        InputDiffers = "input-differs", "The policy was asked about something else than what the records and payloads say happened.";
        DecisionDiffers = "decision-differs", "The policy does not say, about the recorded input, what the record says it said.";
        ApprovalInvalid = "approval-invalid", "An approval does not answer the held call it is recorded for, or its approver may not give it.";
        ApprovalMissing = "approval-missing", "A held call ran without a valid approval, in time and before it.";
        ReservationDiffers = "reservation-differs", "What was held for a call is not its worst case: the bound of its input, or its price in the bundle.";
        BudgetExceeded = "budget-exceeded", "A call was let through although the run's sums, added again, pass a limit, or all that a sum can hold.";
        RefusalDiffers = "refusal-differs", "The budget refused a call for a reason that the run's sums, added again, do not give.";
        CostDiffers = "cost-differs", "What a call was settled with is not what its usage, outcome and the bundle's prices give.";
        Overspent = "overspent", "A call was billed more than was held for it.";
        OutcomeMissing = "outcome-missing", "A call was let through and no record says what became of it.";
        OutcomeUnexpected = "outcome-unexpected", "An outcome answers no call that was let through, one that has an outcome already, or as a model would for a call that asks none.";
        HaltIgnored = "halt-ignored", "A call was let through, or approved and run, after the run was halted.";
        DelegationInvalid = "delegation-invalid", "A delegation is not one of the run that it opened, or the close that settles a delegated call is not one of its run.";
        CloseDiffers = "close-differs", "The close record does not state what the records before it add up to.";
        CopiesDiffer = "copies-differ", "Two copies of one thing do not agree on an entry, and not both are proven: one of them was changed.";
    }
}

codes! {
    /// What could not be checked, so that nothing is passed over in silence.
    Gap {
        NotReached = "not-reached", "Later steps were not done because an earlier one failed.";
        ContentUnread = "content-unread", "The entry is none of Sift's: only its place in the log was checked.";
        GrantUnchecked = "grant-unchecked", "Whether the signing key counts needs the operator's entries; check the run's pack or the log.";
        NoOperator = "no-operator", "The trust file names no operator, so nobody's authority was checked.";
        RevocationUnproven = "revocation-unproven", "The pack does not prove that no key was revoked before it signed; the whole log does.";
        RunOpen = "run-open", "The run has no close: it still runs, or its end was dropped.";
        OutcomePending = "outcome-pending", "A call has no outcome yet.";
        PayloadWithheld = "payload-withheld", "A payload is not in the pack; only its commitment is known.";
        PayloadErased = "payload-erased", "A payload was erased, as an entry of the operator says.";
        BundleMissing = "bundle-missing", "The policy bundle is not in the pack: decisions, prices and where the limits come from were not checked.";
        EngineDiffers = "engine-differs", "The run names another policy engine or version than the one that re-derived its decisions.";
        DecisionUnchecked = "decision-unchecked", "The payloads that decisions rest on are withheld, so they were not re-derived in full.";
        ProposalUnchecked = "proposal-unchecked", "That a model's answer proposed the call is the kernel's word: the answer is withheld, or not in a form that is read here.";
        ShownUnchecked = "shown-unchecked", "What an approver was shown is known only as a hash that the approver signed.";
        BoundUnchecked = "bound-unchecked", "That a model's input is at most its stated bound is the kernel's word: the method is not one that is made again here.";
        SumUnchecked = "sum-unchecked", "Limits over an agent, a kernel or nested runs need the other runs' records.";
        CancelledUnproven = "cancelled-unproven", "That a call was not dispatched is the kernel's word: nothing in the run kept it from being dispatched.";
        DelegatorUnproven = "delegator-unproven", "That a kernel's key counted for what it delegated, or closed, needs the operator's entries that grant it.";
        ParentUnchecked = "parent-unchecked", "That another run started this one needs the other run's records.";
        SemanticsUnchecked = "semantics-unchecked", "Decisions, budgets, approvals and payloads are checked per run, from its pack.";
        OnlyInOne = "only-in-one", "One of two copies holds this and the other does not, so there is nothing to compare it with.";
        HeadsUncompared = "heads-uncompared", "That one of two heads extends the other takes a proof, or the log to make one from.";
    }
}

impl Gap {
    /// Whether no evidence of this kind could close the gap, so that strictness does not ask for it.
    #[must_use]
    pub const fn is_out_of_scope(self) -> bool {
        matches!(self, Self::SemanticsUnchecked | Self::ShownUnchecked)
    }
}

/// Whether a finding rejects the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The evidence is rejected.
    Rejects,
    /// The evidence stands; what it proves deserves attention.
    Warns,
}

/// What a finding or gap concerns; what does not apply is absent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Concern {
    /// Index of an entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<LeafIndex>,
    /// A run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// A record of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Digest of a payload object or policy bundle, in hexadecimal as in the pack's file names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of a resource below the log's prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The first byte that is wrong, in the file or the entry that is concerned, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl Concern {
    /// The evidence as a whole.
    #[must_use]
    pub fn whole() -> Self {
        Self::default()
    }

    /// One entry of the log.
    #[must_use]
    pub fn entry(index: LeafIndex) -> Self {
        Self { index: Some(index), ..Self::default() }
    }

    /// One record of a run, at its index.
    #[must_use]
    pub fn record(index: LeafIndex, run: RunId, seq: Seq) -> Self {
        Self { index: Some(index), run: Some(run), seq: Some(seq), ..Self::default() }
    }

    /// A run.
    #[must_use]
    pub fn run(run: RunId) -> Self {
        Self { run: Some(run), ..Self::default() }
    }

    /// A payload object or policy bundle.
    #[must_use]
    pub fn object(digest: &Hash) -> Self {
        Self { object: Some(digest.hex()), ..Self::default() }
    }

    /// The same, at this byte of it, where that is known.
    #[must_use]
    pub fn at(self, offset: Option<usize>) -> Self {
        Self { offset: offset.map(|offset| offset as u64), ..self }
    }

    /// A resource of the log.
    #[must_use]
    pub fn path(path: impl fmt::Display) -> Self {
        Self { path: Some(path.to_string()), ..Self::default() }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.index.map(|index| format!("index {index}")),
            self.run.map(|run| format!("run {run}")),
            self.seq.map(|seq| format!("seq {seq}")),
            self.object.as_ref().map(|digest| format!("object {digest}")),
            self.path.clone(),
            self.offset.map(|offset| format!("byte {offset}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

/// Something that is wrong with the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub code: Code,
    /// Whether it rejects the evidence.
    pub severity: Severity,
    /// What it concerns.
    #[serde(flatten)]
    pub concern: Concern,
    /// What exactly was found.
    pub detail: String,
}

impl Finding {
    /// A finding that rejects the evidence.
    #[must_use]
    pub fn rejects(code: Code, concern: Concern, detail: impl fmt::Display) -> Self {
        Self { code, severity: Severity::Rejects, concern, detail: detail.to_string() }
    }
}

/// Something that was not checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unchecked {
    /// Why not.
    pub code: Gap,
    /// What it concerns.
    #[serde(flatten)]
    pub concern: Concern,
    /// What exactly was not checked.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words_and_meanings_are_sentences() {
        let codes: Vec<(&str, &str)> = Code::ALL
            .iter()
            .map(|code| (code.code(), code.meaning()))
            .chain(Gap::ALL.iter().map(|gap| (gap.code(), gap.meaning())))
            .collect();
        for (position, (code, meaning)) in codes.iter().enumerate() {
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
            assert!(
                meaning.ends_with('.') && meaning.starts_with(|c: char| c.is_ascii_uppercase()),
                "{code}"
            );
            assert!(codes.iter().take(position).all(|(other, _)| other != code), "{code} twice");
        }
        assert_eq!(serde_json::to_string(&Code::ChainGap).unwrap(), "\"chain-gap\"");
    }
}
