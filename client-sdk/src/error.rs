//! Errors: one enum for each operation. Each says whose fault it is and what to do next.

use std::path::PathBuf;

use sift_rules::{CompileError, LedgerError};
use sift_spec::payload::PayloadError;
use sift_spec::record::{DelegationError, HaltCause, Needed, RecordError};
use sift_spec::types::{AgentName, Hash, KeyName, LeafIndex, RunId, Seq, UnixMillis, ValueError};

use crate::approval::ApprovalError;
use crate::config::ConfigError;
use crate::store::StoreError;

/// Why the kernel, or one run, does not go on. Nothing new is dispatched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A limit or switch tripped. The `halt` record, where one could be written, says the same.
    #[error("halted ({}): {detail}", cause_name(*.cause))]
    Halted {
        /// Which limit or switch.
        cause: HaltCause,
        /// The same in words, with what to do.
        detail: String,
    },
    /// The run has its `close` record.
    #[error("the run is closed; open another")]
    Closed,
    /// The kernel was closed, or its writer is gone.
    #[error("the kernel is closed; open it again")]
    Gone,
}

impl Stop {
    /// Whether calls that are under way are cut: somebody pulled the switch, the time is over, or a call was billed
    /// more than was held for it. Other halts say nothing against a call that has started; its outcome is worth having.
    pub(crate) const fn cuts_calls(&self) -> bool {
        matches!(
            self,
            Self::Halted { cause: HaltCause::Operator | HaltCause::WallClock | HaltCause::Overspend, .. }
        )
    }

    /// Whether a limit or switch tripped.
    pub(crate) const fn is_halt(&self) -> bool {
        matches!(self, Self::Halted { .. })
    }
}

/// The name of a cause in records.
#[must_use]
pub const fn cause_name(cause: HaltCause) -> &'static str {
    match cause {
        HaltCause::Clock => "clock",
        HaltCause::LogFork => "log_fork",
        HaltCause::LogBehind => "log_behind",
        HaltCause::LogRefused => "log_refused",
        HaltCause::Operator => "operator",
        HaltCause::Overspend => "overspend",
        HaltCause::Policy => "policy",
        HaltCause::Spool => "spool",
        HaltCause::WallClock => "wall_clock",
    }
}

/// Why a kernel does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bundle is not one the kernel can decide by. There is no default policy.
    #[error(
        "policy bundle: {0}; its author corrects it, and sift-kernel policy check says all that is wrong"
    )]
    Bundle(#[from] CompileError),
    /// The trust file lists no log of that origin.
    #[error("the trust file lists no log; add a line: log <vkey>")]
    NoLog,
    /// The trust file lists logs of several origins and a kernel writes to one.
    #[error(
        "the trust file has {0} log lines of several origins, and a kernel writes to one log: keep one origin"
    )]
    ManyLogs(usize),
    /// The store is damaged, unreadable, or in use by another process.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store belongs to another kernel key name.
    #[error(
        "{dir} holds the records of the key {stored}, not of {given}; use a directory of its own for each"
    )]
    OtherKey {
        /// The directory.
        dir: PathBuf,
        /// Key name in the store.
        stored: String,
        /// Key name given.
        given: String,
    },
    /// The store belongs to another log.
    #[error(
        "{dir} holds the records for the log {stored}, not for {given}; use a directory of its own for each"
    )]
    OtherLog {
        /// The directory.
        dir: PathBuf,
        /// Origin in the store.
        stored: String,
        /// Origin of the trust file.
        given: String,
    },
    /// The clock shows a time before the last record.
    #[error(
        "the clock is {behind_ms} ms behind the last record in the store; set the clock, then start again"
    )]
    Clock {
        /// How far behind.
        behind_ms: u64,
    },
    /// The log was caught with two histories. Both heads are in the store.
    #[error(
        "the log showed two histories; evidence is in {dir}/fork-*.checkpoint. Do not go on with this log"
    )]
    Fork {
        /// The directory.
        dir: PathBuf,
    },
    /// The operator has revoked this kernel's key: the log takes nothing that it signs.
    #[error(
        "the operator revoked this kernel's key {key} at index {at} of the log; ask the operator why, and start again with a \
         new key of that name once it is granted"
    )]
    Revoked {
        /// Name of the key.
        key: KeyName,
        /// Index of the revocation.
        at: LeafIndex,
    },
    /// The operator's records in the store are not signed by the operator that the trust file names now.
    #[error(
        "{dir} holds records of the operator of which one does not hold under trust.policy: at index {at}, {why}; correct \
         the line #sift:operator, or use a directory of its own"
    )]
    OtherOperator {
        /// The directory.
        dir: PathBuf,
        /// Index of the record.
        at: LeafIndex,
        /// What does not fit.
        why: String,
    },
    /// The records in the store contradict one another.
    #[error(
        "the store contradicts itself at record {position}: {why}; keep a copy and restore from a backup"
    )]
    Contradiction {
        /// Position of the record in the store.
        position: u64,
        /// What does not fit.
        why: String,
    },
    /// The HTTP client could not be set up: a certificate or token file of the configuration.
    #[error("the HTTP client cannot be set up: {0}; correct [connect] of kernel.toml")]
    Http(String),
    /// The kernel could not close the runs that a dead process left open.
    #[error(
        "runs left open by an earlier process cannot be closed: {0}; nothing was lost, mend that and start again"
    )]
    Recovery(String),
    /// A directory or thread could not be made.
    #[error("{what}: {error}; that is this machine's, mend it and start again")]
    System {
        /// What was attempted.
        what: String,
        /// What the operating system said.
        error: std::io::Error,
    },
}

/// Why a bundle that was given is not in force. The one before decides on, and nothing halts.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Its folder cannot be read, or holds no bundle.
    #[error("the policy bundle cannot be read: {0}")]
    Folder(#[from] ConfigError),
    /// It is not one the kernel can decide by. Its author is at fault.
    #[error("the policy bundle does not compile: {0}")]
    Compile(#[from] CompileError),
    /// Its bytes cannot be kept, and no run may name a bundle that is nowhere.
    #[error("the policy bundle cannot be kept: {0}; the bundle before decides on")]
    Store(#[from] StoreError),
    /// The operator has not published it in the log, which refuses runs under it. It waits, and the log is asked again.
    #[error(
        "the operator has not published the policy bundle {}; it is in force as soon as that is done: sift-server \
         operator publish",
        bundle.hex()
    )]
    NotPublished {
        /// Its digest.
        bundle: Hash,
    },
    /// The log could not be asked whether it is published. It waits, and the log is asked again.
    #[error("whether the policy bundle {} is published is not known: {why}; the log is asked again", bundle.hex())]
    Unasked {
        /// Its digest.
        bundle: Hash,
        /// What happened.
        why: String,
    },
    /// The log says that it is published and does not prove it. It waits, and the log is asked again.
    #[error("the log does not prove that the policy bundle {} is published: {why}; it is asked again", bundle.hex())]
    Unproven {
        /// Its digest.
        bundle: Hash,
        /// What does not fit.
        why: String,
    },
    /// The policy engine gave up on it.
    #[error(
        "the policy engine gave up on the policy bundle: {why}; the bundle before decides on, report this one"
    )]
    Crashed {
        /// What happened.
        why: String,
    },
}

impl BundleError {
    /// Whether the bundle may still come into force by itself.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self, Self::NotPublished { .. } | Self::Unasked { .. } | Self::Unproven { .. })
    }
}

/// Why a run did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenRunError {
    /// The kernel does not go on.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The parent is closed, or the run would be nested too deeply.
    #[error(
        "the budget does not let the run open: {0}; the parent must be open, and the nesting within its limits"
    )]
    Ledger(#[from] LedgerError),
    /// No permitted call that is under way starts this run, or it has opened it before.
    #[error("no call that is under way may start run {run}: it has ended, or has opened the run already")]
    NotPermitted {
        /// The run.
        run: RunId,
    },
    /// The delegation is not one that this kernel may use.
    #[error("the delegation cannot be used: {0}")]
    Delegation(#[from] DelegationRefused),
    /// No record can state the labels that were given.
    #[error("no open record can hold it: {0}; give shorter labels, or fewer")]
    Record(#[from] RecordError),
    /// Both a call of this kernel and a delegation are said to start the run.
    #[error("a run has one parent, a call of this kernel or a delegation by another: give one of them")]
    TwoParents,
    /// The agent is not the one whose start was permitted.
    #[error("the permitted sub-agent is {permitted}, not {given}: open its run, or propose the other one")]
    OtherAgent {
        /// Agent of the permitted call.
        permitted: String,
        /// Agent given.
        given: String,
    },
    /// The operating system gives no randomness for an identifier.
    #[error("the operating system gives no randomness, and nothing goes on without: {0}; try again")]
    Random(String),
}

/// Why a delegation does not open a run here. Nothing was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegationRefused {
    /// Not a signed delegation.
    #[error(transparent)]
    Malformed(#[from] DelegationError),
    /// Its key is not listed for the agent that delegates.
    #[error(
        "{key} is not listed as a kernel that may delegate for the agent {agent}; add it to kernel.toml if it is"
    )]
    Unknown {
        /// Name in the signature line.
        key: String,
        /// Agent of the run above.
        agent: AgentName,
    },
    /// The listed key did not sign it.
    #[error("the signature of {0} does not verify: the delegation was changed, or is forged")]
    Forged(KeyName),
    /// The operator has revoked the key that signed it.
    #[error(
        "the operator revoked the key of {key} at index {at} of the log, and what it signs does not count; the kernel above \
         needs a new key, listed in kernel.toml, and delegates once more"
    )]
    Revoked {
        /// Name of the key.
        key: KeyName,
        /// Where.
        at: LeafIndex,
    },
    /// It is for something else.
    #[error("it is for {what} {theirs}, not {ours}")]
    About {
        /// What it is for.
        what: &'static str,
        /// What it names.
        theirs: String,
        /// What it should name.
        ours: String,
    },
    /// Its deadline has passed.
    #[error("its deadline was {}; the kernel above delegates once more by another call", .0.utc())]
    Expired(UnixMillis),
    /// Bundle and delegation together have more limits than a record states.
    #[error("the bundle's limits and the delegation's are more than 64; remove some from budget.toml")]
    Limits,
}

/// Why a permitted call was not delegated. Nothing was signed, and its hold stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegateError {
    /// The run or the kernel does not go on.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The call does not delegate, or did before.
    #[error("this call starts no sub-agent at another kernel, or was delegated before: that is done once")]
    NotPermitted,
    /// The text has no encoding.
    #[error("no delegation can state it: {0}")]
    Record(#[from] RecordError),
}

/// Why a run was not resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The kernel, or the run, does not go on.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// What an earlier process knew of it cannot be folded from the records, so it was closed as abandoned.
    #[error("run {run} cannot be resumed and was closed: {why}")]
    Cannot {
        /// The run.
        run: RunId,
        /// What is missing.
        why: String,
    },
    /// No run of an earlier process, resumed already, or nobody came within the grace time.
    #[error(
        "run {0} does not wait to be resumed: it is closed, was resumed, or resume_seconds in kernel.toml is too short"
    )]
    NotWaiting(RunId),
}

/// Why a proposal cannot be recorded. The caller is at fault; nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A name or identifier is out of bounds.
    #[error("{0}")]
    Value(ValueError),
    /// A payload is larger than an object may be.
    #[error("a payload cannot be kept: {0}; send it in parts")]
    Payload(#[from] PayloadError),
    /// No record can state what was given.
    #[error("no record can hold it: {0}; shorten it")]
    Record(#[from] RecordError),
    /// The operating system gives no randomness for salts.
    #[error("the operating system gives no randomness, and nothing goes on without: {0}; try again")]
    Random(String),
}

/// Why a proposal got no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The proposal cannot be recorded.
    #[error("the caller's proposal is none, and nothing happened: {0}")]
    Call(#[from] CallError),
    /// The run or the kernel does not go on.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The request for an approval could not be written; the call is cancelled.
    #[error(
        "the request for an approval cannot be written, so the call is cancelled: {0}; mend the folder approvals, then propose again"
    )]
    Request(std::io::Error),
}

/// Why a permitted call was not dispatched, or its outcome not recorded.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The run was halted before the call started. It did not act.
    #[error("not dispatched: {0}")]
    NotDispatched(Stop),
    /// The approval's deadline passed before the call started. It did not act.
    #[error("not dispatched: the deadline of its approval was {}; propose it again", .0.utc())]
    Late(UnixMillis),
    /// The operator revoked the key of somebody who approved it, before the call started. It did not act.
    #[error(
        "not dispatched: {key} approved it, and the operator revoked that key at index {at} of the log; propose it again for \
         others to approve"
    )]
    Revoked {
        /// The approver's.
        key: KeyName,
        /// Index of the revocation.
        at: LeafIndex,
    },
    /// The run was halted while the call was under way, and the call was given up. It may have acted: its outcome is
    /// recorded as unknown, and its hold is settled in full.
    #[error("dispatched, then given up: {0}; it may have acted, so look before it is done again")]
    Cut(Stop),
    /// The call may have acted and its outcome is not recorded; it counts as unknown.
    #[error(
        "dispatched, and may have acted, but its outcome is not recorded: {0}; the next start of the kernel records it as unknown"
    )]
    NotRecorded(Stop),
    /// The result cannot be a payload. The call acted; its outcome is recorded as unknown.
    #[error("dispatched, and acted, but its result cannot be kept and its outcome is unknown: {0}")]
    Result(#[from] CallError),
}

/// Why a held call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The run or the kernel does not go on.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The statement given is not an answer to this call; the call still waits.
    #[error("not an answer to this call, which still waits: {0}")]
    Statement(#[from] ApprovalError),
    /// The statement counts and is recorded; the call waits for these approvals as well.
    #[error("the answer counts; the call waits for more: {}", crate::approval::list(.0))]
    More(Vec<Needed>),
}

/// Why a run was not closed, halted or given a beat.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run or the kernel does not go on.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// Runs below a delegated one are not closed; what they use counts in its close.
    #[error(
        "runs below run {run} are not closed yet; close them first, as what they use counts in its close"
    )]
    RunsBelow {
        /// The run.
        run: RunId,
    },
    /// Calls are under way; their outcome must be recorded first.
    #[error("{} calls of run {run} have no outcome yet, the first at seq {first}: finish or drop them first", .count)]
    CallsOutstanding {
        /// The run.
        run: RunId,
        /// How many.
        count: usize,
        /// The first of them.
        first: Seq,
    },
}

/// Why a pack of evidence was not made.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log did not answer.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// What the log answered is not a pack, or proves nothing, or is not what the kernel signed.
    #[error("the log's evidence is wrong: {0}; the log is at fault, keep this kernel's store")]
    Wrong(String),
    /// Some of the run's records are not in the log yet.
    #[error("{missing} of the run's {records} records are not in the log yet; upload them first")]
    NotLogged {
        /// How many are missing.
        missing: u64,
        /// How many the kernel has.
        records: u64,
    },
    /// The bundle that the run names is not in the store.
    #[error("the bundle {0} is not in the store, which keeps all that decided: restore it from a backup")]
    NoBundle(Hash),
}
