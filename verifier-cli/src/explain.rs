//! What a code means beyond its sentence: what could cause it without anybody's guilt, and what somebody would need who
//! wanted evidence of which this is true and nothing says so.

use serde::Serialize;

use crate::finding::{Code, Gap};

/// A code, explained. The order of the fields is that of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The stable code.
    pub code: &'static str,
    /// Whether it is something wrong, or something unchecked.
    pub kind: Kind,
    /// What it means.
    pub meaning: &'static str,
    /// For something wrong: what could cause it though nobody cheats. For something unchecked: why it could not be checked.
    pub innocent: &'static str,
    /// For something wrong: what it would take to bring it about and have it pass here. For something unchecked: what
    /// would check it.
    pub takes: &'static str,
}

/// What a code is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something is wrong with the evidence.
    Finding,
    /// Something could not be checked.
    Unchecked,
}

/// The explanation of a code.
#[must_use]
pub fn explain(code: &str) -> Option<Explanation> {
    all().find(|explanation| explanation.code == code)
}

/// All explanations: what can be wrong, then what can be left unchecked, each in the order of the checks.
pub fn all() -> impl Iterator<Item = Explanation> {
    let findings = Code::ALL.iter().map(|code| {
        let (innocent, takes) = of_code(*code);
        Explanation { code: code.code(), kind: Kind::Finding, meaning: code.meaning(), innocent, takes }
    });
    let gaps = Gap::ALL.iter().map(|gap| {
        let (innocent, takes) = of_gap(*gap);
        Explanation { code: gap.code(), kind: Kind::Unchecked, meaning: gap.meaning(), innocent, takes }
    });
    findings.chain(gaps)
}

const KERNEL_KEY: &str = "The kernel's key. Then the record says so for good, and is in the log where everybody can hold it against its signer.";
const LOG_KEY: &str =
    "The log's key, and that nobody compares heads: witnesses, kernels and `sift-verify consistency` do.";
const HASH: &str = "A second preimage of SHA-256, which nobody knows how to find.";
const SIGNATURE: &str = "The signer's key, or a forged Ed25519 signature.";
const COPY: &str = "A transfer or disk that changed bytes. Get the file again, from where it was made.";
const KERNEL_FAULT: &str = "A fault in the kernel's program, or a kernel of another version. An honest kernel of this version does not make it.";
const FROM_LOG: &str = "A pack made from a damaged store. Have it collected again; the records in the log are the ones that count.";

/// Innocent causes, and what cheating would take.
const fn of_code(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::PackMalformed => (COPY, "Nothing is gained: a pack that cannot be read proves nothing."),
        Code::ReceiptMalformed => (COPY, "Nothing is gained: a receipt that cannot be read proves nothing."),
        Code::CheckpointInvalid => (
            "A trust file of another log, or from before the log got a new key; or a transfer that changed bytes.",
            "The log's key, which whoever runs the log has.",
        ),
        Code::NotWitnessed => (
            "Witnesses that were down when the head was signed, or a receipt from before they were asked. Ask the log for the same proof under a later head.",
            "The keys of as many witnesses as the trust file asks for, and the log's.",
        ),
        Code::NotIncluded => {
            ("Entry and receipt that do not belong together, or a transfer that changed bytes.", HASH)
        }
        Code::HeadsInconsistent => (
            "A log that was set back to an old copy and went on from there. That is a fault of its operator, and the log is not the one it was.",
            LOG_KEY,
        ),
        Code::HeadOlder => (
            "A cache or a second machine that is behind, for as long as it is; or a log that was set back to an older copy and has not gone on yet.",
            "Nothing but to serve an old head. What the log signs next must extend the largest head that was seen, or that is `heads-inconsistent`.",
        ),
        Code::HeadStale => (
            "A log that nobody writes to, whose head nobody cosigns again; a network or a clock that is wrong.",
            "The keys of witnesses, who would have to say that they saw this head just now.",
        ),
        Code::ConsistencyUnproven => (
            "A proof for two other sizes, or one that a transfer changed. Let this program make it: --log.",
            LOG_KEY,
        ),
        Code::BundleMalformed => (COPY, HASH),
        Code::TileDiffers => (
            "A mirror that was copied while it grew, or a damaged disk at whoever served it. Read the log from somebody else.",
            HASH,
        ),
        Code::RootDiffers => (
            "A mirror whose checkpoint is of another time than its tiles. Copy it again, the checkpoint first.",
            LOG_KEY,
        ),
        Code::RecordMalformed => (
            "An entry of a later version of the format than this program reads.",
            "The kernel's key, and a log that admits what it must refuse.",
        ),
        Code::EntryStray => {
            (FROM_LOG, "Nothing is gained: what belongs to another run proves nothing about this one.")
        }
        Code::SignatureInvalid => (COPY, SIGNATURE),
        Code::OperatorInvalid => (
            "A fault in the log's program: it admits operator entries only when they follow from the earlier ones.",
            "The operator's key and the log's.",
        ),
        Code::KeyNotGranted => (
            "A trust file with another operator. A key counts from the entry after its grant, for the agents that the grant names.",
            "The operator's key: a grant is an entry that everybody sees.",
        ),
        Code::ChainGap => (
            FROM_LOG,
            "The kernel's key, and signing the whole rest of the run again: the log then has two chains.",
        ),
        Code::ChainFork => (
            "A kernel whose store was put back from an old copy, so that it signed the same place twice.",
            KERNEL_KEY,
        ),
        Code::PrevDiffers => (FROM_LOG, KERNEL_KEY),
        Code::TimeBackwards => {
            ("A fault in the kernel's program: a clock that goes back halts it.", KERNEL_KEY)
        }
        Code::RunMismatch => (FROM_LOG, KERNEL_KEY),
        Code::AfterClose => (KERNEL_FAULT, KERNEL_KEY),
        Code::TailMissing => (
            "A run that still goes on when the pack was made; check it with --open. Or one whose kernel died and was not started again.",
            "Whoever collects the pack can leave the end out. The log has it: ask the log for the run's later records.",
        ),
        Code::PayloadDiffers => (COPY, HASH),
        Code::PayloadUnknown => (FROM_LOG, "Nothing is gained: what no record commits to proves nothing."),
        Code::PolicyNotPublished => (
            "A trust file with another operator.",
            "A log that admits an open record which it must refuse, and the kernel's key.",
        ),
        Code::BundleDiffers => (COPY, HASH),
        Code::LimitsDiffer => (KERNEL_FAULT, KERNEL_KEY),
        Code::RequestDiffers => (KERNEL_FAULT, KERNEL_KEY),
        Code::ProposalDiffers => (
            "An agent that named the wrong model call as the one that proposed this: what an agent says is recorded as it said it.",
            KERNEL_KEY,
        ),
        Code::InputDiffers => (KERNEL_FAULT, KERNEL_KEY),
        Code::DecisionDiffers => (
            "An engine of another version than the run names; then engine-differs is said too. Check with the version that decided.",
            KERNEL_KEY,
        ),
        Code::ApprovalInvalid => (
            "An approver whose key was revoked between the answer and its record in the log: the kernel may not have known.",
            "The approver's key.",
        ),
        Code::ApprovalMissing => (KERNEL_FAULT, KERNEL_KEY),
        Code::ReservationDiffers => (KERNEL_FAULT, KERNEL_KEY),
        Code::BudgetExceeded => (KERNEL_FAULT, KERNEL_KEY),
        Code::RefusalDiffers => (
            "A limit over several runs refused it: then the sums of this run alone do not show it, and sum-unchecked is said instead. Else a fault in the kernel's program.",
            KERNEL_KEY,
        ),
        Code::CostDiffers => (KERNEL_FAULT, KERNEL_KEY),
        Code::Overspent => (
            "A provider that billed more than the worst case that its prices and limits allow: prices.toml is out of date, or the provider did not keep max_tokens. The kernel halted the run.",
            "Nothing: it is said here because it is recorded.",
        ),
        Code::OutcomeMissing => (
            "A kernel that died and was not started again: its next start records the outcome as unknown.",
            KERNEL_KEY,
        ),
        Code::OutcomeUnexpected => (KERNEL_FAULT, KERNEL_KEY),
        Code::HaltIgnored => (KERNEL_FAULT, KERNEL_KEY),
        Code::DelegationInvalid => {
            ("Packs of two runs that do not belong together.", "The keys of both kernels.")
        }
        Code::CloseDiffers => (KERNEL_FAULT, KERNEL_KEY),
        Code::CopiesDiffer => (
            "A damaged copy. Which of the two it is, its own findings say; get it again, from where it was made.",
            "A change that its own copy still verifies with: then it is chain-fork or heads-inconsistent, and somebody signed both.",
        ),
    }
}

/// Why it could not be checked, and what would check it.
const fn of_gap(gap: Gap) -> (&'static str, &'static str) {
    match gap {
        Gap::NotReached => (
            "An earlier step failed, and what follows rests on it.",
            "Mend what was found first, and check again.",
        ),
        Gap::ContentUnread => {
            ("Logs of this kind hold entries of other makers too.", "The program that made the entry.")
        }
        Gap::GrantUnchecked => (
            "A receipt shows one entry, and whether its key counts is said by others.",
            "`sift-verify run` on the run's pack, or `sift-verify log` on the log.",
        ),
        Gap::NoOperator => (
            "The trust file has no line #sift:operator.",
            "The operator's public key, from the operator, in the trust file.",
        ),
        Gap::RevocationUnproven => (
            "A pack holds the operator's entries that its maker put in; that there are no others only the whole log shows.",
            "`sift-verify log` on a copy of the log up to the pack's checkpoint.",
        ),
        Gap::RunOpen => {
            ("The pack was made while the run went on.", "A pack that is made after the run's close.")
        }
        Gap::OutcomePending => {
            ("The pack was made while the call was under way.", "A pack that is made after the run's close.")
        }
        Gap::PayloadWithheld => (
            "Payloads hold prompts, results and persons' data; a pack may go without them.",
            "The payload object, from the kernel's store or the log's payload store: its hash must be the recorded one.",
        ),
        Gap::PayloadErased => (
            "Somebody had a right to have it erased; the operator says so in the log.",
            "Nothing any more. The commitment still shows what a copy would have to be.",
        ),
        Gap::BundleMissing => (
            "The pack was made without policy bundles.",
            "The bundle with the recorded digest: the log serves it, or its publisher has it.",
        ),
        Gap::EngineDiffers => (
            "The run was decided by another version of the engine than this program has.",
            "The release of this program that has that version.",
        ),
        Gap::DecisionUnchecked => (
            "A decision rests on arguments and results that are withheld.",
            "The payload objects of the run.",
        ),
        Gap::ProposalUnchecked => (
            "The model's answer is withheld, or in a form that is not read here.",
            "The payload object of the model's answer, if it is in the form of an OpenAI chat completion.",
        ),
        Gap::ShownUnchecked => (
            "What a person saw on a screen leaves no bytes but its hash.",
            "The approver's own copy of what was shown, whose hash must be the signed one.",
        ),
        Gap::BoundUnchecked => (
            "Counting tokens as the provider does needs the provider's tokenizer.",
            "The tokenizer that the record names, on the request's payload object.",
        ),
        Gap::SumUnchecked => (
            "A limit over several runs is about records that this pack does not have.",
            "The packs of all runs of that agent or kernel in the window.",
        ),
        Gap::CancelledUnproven => {
            ("That something did not happen leaves no trace.", "The tool's own records.")
        }
        Gap::DelegatorUnproven => (
            "The operator's entries that grant the other kernel are not in this pack.",
            "`sift-verify log` on the log that has both.",
        ),
        Gap::ParentUnchecked => {
            ("The run above this one has a pack of its own.", "The pack of the run above, checked too.")
        }
        Gap::SemanticsUnchecked => (
            "The whole log is checked for what every entry must be; payloads are not in it.",
            "`sift-verify run` on the packs of the runs that matter.",
        ),
        Gap::OnlyInOne => (
            "One copy was made earlier than the other, or with less in it: payloads may be withheld.",
            "The same from whoever made the other copy.",
        ),
        Gap::HeadsUncompared => (
            "A pack holds one head, and no proof about others.",
            "`sift-verify diff` with --log, or `sift-verify consistency` on the two checkpoints.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_sentences() {
        let all: Vec<Explanation> = all().collect();
        assert_eq!(all.len(), Code::ALL.len() + Gap::ALL.len());
        for explanation in all {
            for text in [explanation.meaning, explanation.innocent, explanation.takes] {
                assert!(text.ends_with('.') && text.len() > 15, "{}: {text}", explanation.code);
            }
            assert_eq!(explain(explanation.code), Some(explanation));
        }
        assert_eq!(explain("no-such-code"), None);
    }
}
