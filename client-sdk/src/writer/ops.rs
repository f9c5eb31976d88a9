//! What the writer can be asked to do, and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sift_rules::ResultRead;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::payload::{Commitment, Object};
use sift_spec::record::{
    CLOSE_BYTES_MAX, CloseReason, Effect, HaltCause, HoldProgress, ModelAnswer, Parent, Refusal, Status,
};
use sift_spec::types::{AgentName, RunId, Seq, Text, Word};
use tokio::sync::oneshot;

use super::{Learnt, Logged};
use crate::approval::Waiting;
use crate::call::{Prepared, Report};
use crate::delegation::Delegated;
use crate::error::{DelegateError, OpenRunError, ProposeError, ResumeError, RunError, Stop, WaitError};
use crate::shared::{Decided, OpenCall, RunShared};
use crate::store::Fork;

/// Something for the writer to do. What has a `reply` is answered after the commit, but for [`Finish`].
pub(crate) enum Op {
    Open(OpenRun),
    Propose(Box<Propose>),
    Finish(Finish),
    Answer {
        run: RunId,
        intent: Seq,
        note: String,
        reply: oneshot::Sender<Result<HoldProgress, WaitError>>,
    },
    /// Signs the delegation of a permitted call.
    Delegate {
        run: RunId,
        intent: Seq,
        reply: oneshot::Sender<Result<String, DelegateError>>,
    },
    Halt {
        /// One run, or all.
        run: Option<RunId>,
        cause: HaltCause,
        detail: String,
        reply: Option<oneshot::Sender<()>>,
    },
    /// Gives a run of an earlier process to somebody who goes on with it.
    Resume {
        run: RunId,
        reply: oneshot::Sender<Result<Arc<RunShared>, ResumeError>>,
    },
    /// Looks at the clock: one that went back halts the kernel, and runs that have lasted too long are halted.
    Tick,
    /// Records a beat for every run without a record in the last `silent_ms`.
    Beat {
        silent_ms: u64,
    },
    Close(Close),
    Logged(Logged),
    Refused {
        run: RunId,
        position: u64,
        why: String,
    },
    /// Keeps a head that the log signed, until it is proven to extend the last one.
    Shown {
        shown: String,
        reply: oneshot::Sender<()>,
    },
    Fork(Fork),
    /// Keeps records of the operator that the log has proven, and does what follows from them.
    Learnt(Learnt),
    /// Answered when every record before is on the disk.
    Sync {
        reply: oneshot::Sender<()>,
    },
    Stop,
}

/// Open a run.
pub(crate) struct OpenRun {
    pub(crate) agent: AgentName,
    pub(crate) labels: BTreeMap<Word, Text<256>>,
    pub(crate) parent: Option<Parent>,
    /// By which another kernel starts the run; `parent` is then a run of that kernel.
    pub(crate) delegation: Option<Delegated>,
    pub(crate) run: RunId,
    pub(crate) build: Text<256>,
    pub(crate) reply: oneshot::Sender<Result<Arc<RunShared>, OpenRunError>>,
}

/// Record a proposal with its decision, and hold its worst case.
pub(crate) struct Propose {
    pub(crate) run: Arc<RunShared>,
    pub(crate) prepared: Prepared,
    pub(crate) decided: Decided,
    /// When it was sent.
    pub(crate) sent: Instant,
    pub(crate) reply: oneshot::Sender<Result<Recorded, ProposeError>>,
}

/// An intent that is on disk.
pub(crate) struct Recorded {
    pub(crate) seq: Seq,
    pub(crate) effect: Effect,
    pub(crate) rules: Vec<Text<128>>,
    pub(crate) reasons: Vec<Text<512>>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) reserved: Amounts,
    /// The call, unless it was denied.
    pub(crate) open: Option<OpenCall>,
    /// What approvers are asked, if the call is held.
    pub(crate) waiting: Option<Waiting>,
}

/// Record an outcome, and settle the hold.
pub(crate) struct Finish {
    pub(crate) run: RunId,
    pub(crate) intent: Seq,
    pub(crate) status: Status,
    pub(crate) error: Option<Text<512>>,
    pub(crate) model: Option<ModelAnswer>,
    pub(crate) result: Option<(Object, Commitment)>,
    /// The result, read by the rules of the run's bundle.
    pub(crate) read: Option<ResultRead>,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// What is said to be the close of a sub-agent's run at another kernel.
    pub(crate) close: Option<Text<CLOSE_BYTES_MAX>>,
    pub(crate) reply: Option<oneshot::Sender<Result<Finished, Stop>>>,
}

/// An outcome that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) seq: Seq,
    pub(crate) settled: Amounts,
    /// The first meter of which more was billed than held.
    pub(crate) over: Option<Meter>,
}

impl Finish {
    pub(crate) fn new(
        run: RunId,
        intent: Seq,
        report: &Report,
        result: Option<(Object, Commitment)>,
        reply: Option<oneshot::Sender<Result<Finished, Stop>>>,
    ) -> Self {
        let Report { status, error, model, close, .. } = report.clone();
        let (read, sent) = (None, Instant::now());
        Self { run, intent, status, error, model, result, read, sent, close, reply }
    }
}

/// Close a run.
pub(crate) struct Close {
    pub(crate) run: RunId,
    pub(crate) reason: CloseReason,
    pub(crate) reply: oneshot::Sender<Result<Amounts, RunError>>,
}
