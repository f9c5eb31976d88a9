//! What requests do: calls from their proposal to their outcome, runs from open to close.

use sift_spec::record::{Call, CloseReason};
use sift_spec::types::RunId;
use tokio::sync::oneshot;

use super::connection::{Connection, Slot, Todo};
use super::token;
use super::wire::{self, Answer, Bytes, Ended, Failed, Fault};
use crate::call::{Proposal, Report};
use crate::error::{DelegateError, DispatchError, OpenRunError, ProposeError, RunError, Stop, WaitError};
use crate::held::{Answered, Held};
use crate::kernel::OpenRun;
use crate::permit::{InFlight, Permit};
use crate::run::{Denial, Run, Verdict};

/// A request that waits for the disk, the log or an approver. What it needs of the connection it has.
pub(super) enum Later {
    Open(wire::Open),
    Propose { run: Run, proposal: Box<Proposal>, start: bool },
    Wait { held: Box<Held>, handle: String, cancelled: oneshot::Receiver<()>, start: bool },
    Delegate { call: Box<InFlight>, handle: String, child: Option<String> },
    Finish { call: Box<InFlight>, report: Report },
    GiveUp(Box<Held>),
    Cancel(Box<Permit>),
    Halt { run: Run, detail: String },
    Watch { run: Run, closed: oneshot::Receiver<()> },
    Close { run: Run, reason: CloseReason },
}

impl Connection {
    /// Takes a held call out to wait for its answer.
    pub(super) fn begin_wait(&self, wait: wire::Wait) -> Result<Later, Failed> {
        let wire::Wait { handle, start } = wait;
        let (cancel, cancelled) = oneshot::channel();
        let mut state = self.open();
        match state.calls.remove(&handle) {
            Some(Slot::Held(held)) => {
                state.calls.insert(handle.clone(), Slot::Waiting(cancel));
                Ok(Later::Wait { held, handle, cancelled, start })
            }
            Some(other) => {
                let failed = wrong_state("is not held, or is waited for already", &other);
                state.calls.insert(handle, other);
                Err(failed)
            }
            None => Err(no_such_handle()),
        }
    }

    /// Starts a permitted call.
    pub(super) fn start(&self, handle: &str) -> Result<Answer, Failed> {
        let permit = {
            let mut state = self.open();
            match state.calls.remove(handle) {
                Some(Slot::Permitted(permit)) => permit,
                Some(other) => {
                    let failed = wrong_state("is not waiting to be started", &other);
                    state.calls.insert(handle.to_owned(), other);
                    return Err(failed);
                }
                None => return Err(no_such_handle()),
            }
        };
        let child = self.keep_started(handle, *permit)?;
        Ok(Answer::Started(wire::Started {
            permit: wire::Permit::Handle { handle: handle.to_owned() },
            child,
        }))
    }

    /// Starts a call and keeps it under its handle. Returns what opens the sub-agent's run.
    fn keep_started(&self, handle: &str, permit: Permit) -> Result<Option<String>, Failed> {
        let mut call = permit.start().map_err(dispatch)?;
        let child = match call.child() {
            Some(child) => {
                let token = token().map_err(random)?;
                self.server.children().insert(token.clone(), child);
                Some(token)
            }
            None => None,
        };
        self.keep(handle, Slot::Started { call: Box::new(call), child: child.clone() })?;
        Ok(child)
    }

    /// Keeps an open call, unless the client is gone. Then it is dropped, and recorded as what it then is.
    fn keep(&self, handle: &str, slot: Slot) -> Result<(), Failed> {
        let mut state = self.open();
        if state.ended {
            return Err(Failed::new("no_such_handle", Fault::Client, "the connection has ended"));
        }
        state.calls.insert(handle.to_owned(), slot);
        Ok(())
    }

    /// Takes a started call out to have it delegated.
    pub(super) fn begin_delegate(&self, handle: String) -> Result<Later, Failed> {
        let mut state = self.open();
        match state.calls.remove(&handle) {
            Some(Slot::Started { call, child }) => Ok(Later::Delegate { call, handle, child }),
            Some(other) => {
                let failed = wrong_state("was not started", &other);
                state.calls.insert(handle, other);
                Err(failed)
            }
            None => Err(no_such_handle()),
        }
    }

    /// Takes a started call out to record its outcome.
    pub(super) fn begin_finish(&self, finish: wire::Finish) -> Result<Later, Failed> {
        let wire::Finish { handle, status, why, result, media, model, close } = finish;
        // Everything is looked at before the call is taken: a mistake in the report loses nothing.
        let result = result.map(|result| result.payload(media)).transpose()?;
        let why = why.unwrap_or_default();
        let report = match status {
            Ended::Ok => match result {
                Some(result) => Report::ok(result),
                None => return Err(Failed::malformed("the status ok needs a result; it may be empty")),
            },
            Ended::Error => with(Report::error(&why), result),
            Ended::Timeout => with(Report::timeout(&why), result),
            Ended::Unknown => Report::unknown(&why),
        };
        let report = match model {
            Some(wire::Served { served, id, method, usage }) => {
                report.with_model(&served, id.as_deref(), &method, usage)
            }
            None => report,
        };
        let report = close.iter().fold(report, |report, close| report.with_close(close));
        let mut state = self.open();
        match state.calls.remove(&handle) {
            Some(Slot::Started { call, child }) => {
                drop(state);
                if let Some(child) = child {
                    self.server.children().remove(&child);
                }
                Ok(Later::Finish { call, report })
            }
            Some(other) => {
                let failed = wrong_state("was not started", &other);
                state.calls.insert(handle, other);
                Err(failed)
            }
            None => Err(no_such_handle()),
        }
    }

    /// Begins to wait for a halt; one request at a time waits for that of a run.
    pub(super) fn begin_watch(&self, run: Run) -> Result<Later, Failed> {
        let (close, closed) = oneshot::channel();
        let mut state = self.open();
        if state.watched.contains_key(&run.id()) {
            return Err(Failed::new("wrong_state", Fault::Client, "this run is watched already"));
        }
        state.watched.insert(run.id(), close);
        Ok(Later::Watch { run, closed })
    }

    /// Takes out a call that has not started.
    pub(super) fn begin_cancel(&self, handle: &str) -> Result<Todo, Failed> {
        let mut state = self.open();
        match state.calls.remove(handle) {
            Some(Slot::Permitted(permit)) => Ok(Todo::Later(Later::Cancel(permit))),
            Some(Slot::Held(held)) => Ok(Todo::Later(Later::GiveUp(held))),
            // Whoever waits is told, and gives the held call up.
            Some(Slot::Waiting(cancel)) => match cancel.send(()) {
                Ok(()) => Ok(Todo::Done(Answer::Cancelled {})),
                Err(()) => {
                    let why = "this call was answered just now: look at what its \"wait\" got";
                    Err(Failed::new("wrong_state", Fault::Client, why))
                }
            },
            Some(started @ Slot::Started { .. }) => {
                let failed =
                    wrong_state("was started and may have acted; finish it, if need be as unknown", &started);
                state.calls.insert(handle.to_owned(), started);
                Err(failed)
            }
            None => Err(no_such_handle()),
        }
    }

    /// Does what was admitted.
    pub(super) async fn perform(&self, later: Later) -> Result<Answer, Failed> {
        match later {
            Later::Open(open) => {
                let opened = self.open_run(open).await;
                let mut state = self.open();
                state.opening -= 1;
                let run = opened?;
                let id = run.id();
                state.runs.insert(id, run);
                Ok(Answer::Opened { run: id })
            }
            Later::Propose { run, proposal, start } => {
                let verdict = run.propose(*proposal).await;
                let answer =
                    verdict.map_err(propose).and_then(|verdict| self.verdict(run.id(), verdict, start));
                self.open().deciding -= 1;
                answer
            }
            Later::Wait { held, handle, cancelled, start } => {
                self.wait(*held, handle, cancelled, start).await
            }
            Later::Delegate { mut call, handle, child } => {
                let note = call.delegate().await;
                self.keep(&handle, Slot::Started { call, child })?;
                match note {
                    Ok(note) => Ok(Answer::Delegated { note }),
                    Err(DelegateError::Stopped(stop)) => Err(stopped(stop)),
                    Err(error) => Err(Failed::new("wrong_state", Fault::Client, error)),
                }
            }
            Later::Finish { call, report } => finished(call.finish(report).await),
            Later::GiveUp(held) => match held.give_up("the client cancelled it").await {
                Ok(_) => Ok(Answer::Cancelled {}),
                Err(error) => Err(waited(error)),
            },
            Later::Cancel(permit) => match permit.cancel("the client cancelled it").await {
                Ok(_) => Ok(Answer::Cancelled {}),
                Err(error) => Err(dispatch(error)),
            },
            Later::Halt { run, detail } => match run.halt(&detail).await {
                Ok(()) => Ok(Answer::Halted { detail: self.why_stopped(&run) }),
                Err(stop) => Err(stopped(stop)),
            },
            Later::Watch { run, closed } => {
                let mut gone = self.gone.subscribe();
                let stop = tokio::select! {
                    stop = run.halted() => stop,
                    _ = closed => Stop::Closed,
                    _ = gone.wait_for(|gone| *gone) => Stop::Closed,
                };
                self.open().watched.remove(&run.id());
                match stop {
                    Stop::Halted { .. } => Ok(Answer::Halted { detail: stop.to_string() }),
                    stop => Err(stopped(stop)),
                }
            }
            Later::Close { run, reason } => match run.close(reason).await {
                Ok(settled) => {
                    let mut state = self.open();
                    state.runs.remove(&run.id());
                    state.watched.remove(&run.id());
                    drop(state);
                    let close = self.server.kernel.closing(run.id());
                    let close = close.map_err(|error| Failed::new("kernel", Fault::Kernel, error))?;
                    // Of use to a kernel that delegated it, and to nobody else.
                    Ok(Answer::Closed { settled, close: close.filter(|_| run.is_delegated()) })
                }
                Err(RunError::CallsOutstanding { .. }) => {
                    let why = "calls of this run have no outcome yet; finish or cancel them first";
                    Err(Failed::new("outstanding", Fault::Client, why))
                }
                Err(error @ RunError::RunsBelow { .. }) => {
                    Err(Failed::new("outstanding", Fault::Client, error))
                }
                Err(RunError::Stopped(stop)) => Err(stopped(stop)),
            },
        }
    }

    fn why_stopped(&self, run: &Run) -> String {
        run.stopped()
            .or_else(|| self.server.kernel.stopped())
            .map(|stop| stop.to_string())
            .unwrap_or_default()
    }

    async fn open_run(&self, open: wire::Open) -> Result<Run, Failed> {
        let wire::Open { agent, labels, parent, delegation } = open;
        if !self.server.may(&agent) {
            let why =
                format!("this server opens no runs for {agent}; the operator lists its agents (--agents)");
            return Err(Failed::new("agent_refused", Fault::Client, why));
        }
        let parent = match parent {
            Some(token) => {
                let child = self.server.children().remove(&token);
                let why = "\"parent\" opens nothing: it was used, or its call is over";
                Some(child.ok_or_else(|| Failed::new("no_such_handle", Fault::Client, why))?)
            }
            None => None,
        };
        let opened = self.server.kernel.open_run(OpenRun { agent, labels, parent, delegation }).await;
        opened.map_err(|error| match error {
            OpenRunError::Stopped(stop) => stopped(stop),
            OpenRunError::Random(_) => Failed::new("kernel", Fault::Kernel, error),
            error => Failed::new("refused", Fault::Client, error),
        })
    }

    fn verdict(&self, run: RunId, verdict: Verdict, start: bool) -> Result<Answer, Failed> {
        match verdict {
            Verdict::Permitted(permit) => self.permitted(run, permit, token().map_err(random)?, start),
            Verdict::Denied(denial) => Ok(denied(run, &denial)),
            Verdict::Held(held) => {
                let (handle, request) = (token().map_err(random)?, held.request());
                let answer = Answer::Held(Box::new(wire::HeldCall {
                    run,
                    intent: request.intent,
                    handle: handle.clone(),
                    request: request.stem(),
                    approvals: request.hold.approvals.clone(),
                    deadline: request.hold.deadline,
                    rules: request.rules.clone(),
                    reasons: request.reasons.clone(),
                }));
                self.keep(&handle, Slot::Held(Box::new(held)))?;
                Ok(answer)
            }
        }
    }

    fn permitted(&self, run: RunId, permit: Permit, handle: String, start: bool) -> Result<Answer, Failed> {
        let whole = wire::Permitted {
            run,
            intent: permit.intent(),
            handle: handle.clone(),
            bytes: Bytes::of(permit.bytes()),
            reserved: permit.reserved(),
            max_output: match permit.call() {
                Call::Model(model) => Some(model.max_output),
                _ => None,
            },
        };
        if !start {
            self.keep(&handle, Slot::Permitted(Box::new(permit)))?;
            return Ok(Answer::Permitted(whole));
        }
        let child = self.keep_started(&handle, permit)?;
        Ok(Answer::Started(wire::Started { permit: wire::Permit::Whole(whole), child }))
    }

    async fn wait(
        &self,
        held: Held,
        handle: String,
        mut cancelled: oneshot::Receiver<()>,
        start: bool,
    ) -> Result<Answer, Failed> {
        let run = held.request().run;
        let denial = Denial {
            unapproved: Some("nobody waits for an approval any more".to_owned()),
            ..held.policy().clone()
        };
        let mut gone = self.gone.subscribe();
        let answered = tokio::select! {
            answered = held.wait() => Some(answered),
            _ = &mut cancelled => None,
            _ = gone.wait_for(|gone| *gone) => None,
        };
        self.open().calls.remove(&handle);
        match answered {
            // Cancelled in the same moment: whoever cancelled was told so.
            Some(Ok(Answered::Permitted(_))) if cancelled.try_recv().is_ok() => Ok(denied(run, &denial)),
            Some(Ok(Answered::Permitted(permit))) => self.permitted(run, permit, handle, start),
            Some(Ok(Answered::Denied(denial))) => Ok(denied(run, &denial)),
            Some(Err(error)) => Err(waited(error)),
            // Dropping what waited has cancelled it.
            None => Ok(denied(run, &denial)),
        }
    }
}

fn with(report: Report, result: Option<crate::call::Payload>) -> Report {
    match result {
        Some(result) => report.with_result(result),
        None => report,
    }
}

fn denied(run: RunId, denial: &Denial) -> Answer {
    Answer::Denied(wire::Denied {
        run,
        intent: denial.intent,
        reason: denial.to_string(),
        rules: denial.rules.clone(),
        unapproved: denial.unapproved.is_some(),
    })
}

fn finished(done: Result<crate::permit::Done, DispatchError>) -> Result<Answer, Failed> {
    let done = done.map_err(dispatch)?;
    Ok(Answer::Finished(wire::Finished {
        intent: done.intent,
        outcome: done.outcome,
        status: done.report.status(),
        settled: done.settled,
        overspent: done.overspent,
    }))
}

fn no_such_handle() -> Failed {
    let why = "no open call of this connection has this handle: it is another's, or its call is over";
    Failed::new("no_such_handle", Fault::Client, why)
}

fn wrong_state(why: &str, slot: &Slot) -> Failed {
    let is = match slot {
        Slot::Permitted(_) => "permitted",
        Slot::Held(_) => "held",
        Slot::Waiting(_) => "waited for",
        Slot::Started { .. } => "started",
    };
    Failed::new("wrong_state", Fault::Client, format!("this call is {is}: it {why}"))
}

fn random(error: getrandom::Error) -> Failed {
    let why = format!("the operating system gives no randomness: {error}");
    Failed::new("kernel", Fault::Kernel, why)
}

fn stopped(stop: Stop) -> Failed {
    let fault = if matches!(stop, Stop::Gone) { Fault::Kernel } else { Fault::Run };
    Failed::new("stopped", fault, stop)
}

fn propose(error: ProposeError) -> Failed {
    match error {
        ProposeError::Call(error) => Failed::new("refused", Fault::Client, error),
        ProposeError::Stopped(stop) => stopped(stop),
        error @ ProposeError::Request(_) => Failed::new("kernel", Fault::Kernel, error),
    }
}

fn waited(error: WaitError) -> Failed {
    match error {
        WaitError::Stopped(stop) => stopped(stop),
        error @ (WaitError::Statement(_) | WaitError::More(_)) => Failed::new("kernel", Fault::Kernel, error),
    }
}

fn dispatch(error: DispatchError) -> Failed {
    match error {
        DispatchError::NotDispatched(_) | DispatchError::Late(_) | DispatchError::Revoked { .. } => {
            Failed::new("not_dispatched", Fault::Run, error)
        }
        DispatchError::Cut(_) => Failed::new("not_recorded", Fault::Run, error),
        DispatchError::NotRecorded(_) => Failed::new("not_recorded", Fault::Kernel, error),
        DispatchError::Result(_) => Failed::new("not_recorded", Fault::Client, error),
    }
}
