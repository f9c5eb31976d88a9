//! A client: its requests are read, done side by side, and answered; when it is gone, what it left open is ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sift_spec::record::CloseReason;
use sift_spec::types::RunId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::lines::{self, Line};
use super::wire::{self, Answer, Failed, Fault, Request};
use super::{PROTOCOL, Server};
use crate::error::RunError;
use crate::held::Held;
use crate::permit::{InFlight, Permit};
use crate::run::Run;

/// Answers that wait for a client to read them; then it is not read from.
const ANSWERS_MAX: usize = 256;

/// How long requests that were read before the end may take to be done and answered. Approvals are not waited for.
const END_SECONDS_MAX: u64 = 10;

/// How often, and after which pause, a run is closed again whose calls have no outcome yet.
const CLOSE_TRIES: u32 = 100;
const CLOSE_PAUSE: Duration = Duration::from_millis(50);

/// One client.
pub(super) struct Connection {
    pub(super) server: Arc<Server>,
    open: Mutex<Open>,
    out: mpsc::Sender<Vec<u8>>,
    /// True once nothing more is read: approvals are no longer waited for.
    pub(super) gone: watch::Sender<bool>,
}

/// What a client has open.
#[derive(Default)]
pub(super) struct Open {
    pub(super) runs: HashMap<RunId, Run>,
    pub(super) calls: HashMap<String, Slot>,
    /// Runs whose halt is waited for. Dropping the sender ends that.
    pub(super) watched: HashMap<RunId, oneshot::Sender<()>>,
    /// Runs being opened and calls being decided: they count against the limits.
    pub(super) opening: usize,
    pub(super) deciding: usize,
    /// Nothing is added any more.
    pub(super) ended: bool,
}

/// An open call, by its handle.
pub(super) enum Slot {
    Permitted(Box<Permit>),
    Held(Box<Held>),
    /// Somebody waits for the approver's answer; whoever cancels says so here.
    Waiting(oneshot::Sender<()>),
    Started {
        call: Box<InFlight>,
        child: Option<String>,
    },
}

/// Serves a client to its end.
pub(super) async fn run<R, W>(
    server: Arc<Server>,
    number: u64,
    reader: R,
    writer: W,
    mut stop: watch::Receiver<bool>,
) where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (out, answers) = mpsc::channel(ANSWERS_MAX);
    let mut writing = tokio::spawn(write(writer, answers));
    let connection =
        Arc::new(Connection { server, open: Mutex::default(), out, gone: watch::Sender::new(false) });
    tracing::debug!(connection = number, "connected");
    let mut tasks = JoinSet::new();
    tokio::select! {
        () = read(&connection, reader, &mut tasks) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    connection.end(tasks).await;
    drop(connection);
    // What was answered is written, unless the client reads nothing.
    if tokio::time::timeout(Duration::from_secs(1), &mut writing).await.is_err() {
        writing.abort();
    }
    tracing::debug!(connection = number, "ended");
}

/// Reads requests until the client is gone.
async fn read(connection: &Arc<Connection>, reader: impl AsyncRead + Unpin, tasks: &mut JoinSet<()>) {
    let limits = connection.server.limits;
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    // Each open call has at most one request of each kind under way, and the rest is answered at once.
    let tasks_max = limits.calls_max.saturating_mul(2).saturating_add(limits.runs_max);
    loop {
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= tasks_max {
            tasks.join_next().await;
        }
        let line = match lines::next(&mut reader, limits.line_bytes_max).await {
            Line::End => return,
            Line::Whole(line) => line,
            Line::TooLong => {
                let why =
                    format!("a line has at most {} bytes; this one was passed over", limits.line_bytes_max);
                let answer = Answer::Error(Failed::new("too_long", Fault::Client, why));
                connection.answer(&Value::Null, &answer).await;
                continue;
            }
        };
        let (id, request) = wire::read(&line);
        drop(line);
        match request.and_then(|request| connection.admit(request)) {
            Ok(Todo::Later(request)) => {
                let connection = Arc::clone(connection);
                tasks.spawn(async move {
                    let answer = connection.perform(request).await.unwrap_or_else(Answer::Error);
                    connection.answer(&id, &answer).await;
                });
            }
            Ok(Todo::Done(answer)) => connection.answer(&id, &answer).await,
            Err(failed) => connection.answer(&id, &Answer::Error(failed)).await,
        }
    }
}

/// Writes answers until there are no more, or the client takes none.
async fn write(mut writer: impl AsyncWrite + Unpin, mut answers: mpsc::Receiver<Vec<u8>>) {
    while let Some(mut line) = answers.recv().await {
        while let Ok(more) = answers.try_recv() {
            line.extend_from_slice(&more);
        }
        if writer.write_all(&line).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

/// A request that was admitted.
pub(super) enum Todo {
    /// It is done.
    Done(Answer),
    /// It waits for the disk, the log or an approver.
    Later(super::calls::Later),
}

impl Connection {
    pub(super) fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, id: &Value, answer: &Answer) {
        // An error means that the client is gone, which its reader notices too.
        let _ = self.out.send(wire::line(id, answer)).await;
    }

    /// Takes a request in, in the order in which they came.
    fn admit(&self, request: Request) -> Result<Todo, Failed> {
        use super::calls::Later;
        Ok(Todo::Later(match request {
            Request::Open(open) => {
                let mut state = self.open();
                if state.runs.len() + state.opening >= self.server.limits.runs_max {
                    let why = format!("{} runs are open on this connection; close one", state.runs.len());
                    return Err(Failed::new("too_many", Fault::Client, why));
                }
                state.opening += 1;
                Later::Open(open)
            }
            Request::Propose(propose) => {
                let run = self.run(propose.run)?;
                let start = propose.start;
                let proposal = propose.proposal()?;
                let mut state = self.open();
                if state.calls.len() + state.deciding >= self.server.limits.calls_max {
                    let why = format!("{} calls are open on this connection; finish one", state.calls.len());
                    return Err(Failed::new("too_many", Fault::Client, why));
                }
                state.deciding += 1;
                Later::Propose { run, proposal: Box::new(proposal), start }
            }
            Request::Wait(wait) => self.begin_wait(wait)?,
            Request::Delegate(delegate) => self.begin_delegate(delegate.handle)?,
            Request::Start(start) => return self.start(&start.handle).map(Todo::Done),
            Request::Finish(finish) => self.begin_finish(*finish)?,
            Request::Cancel(cancel) => return self.begin_cancel(&cancel.handle),
            Request::Halt(halt) => Later::Halt { run: self.run(halt.run)?, detail: halt.detail },
            Request::Watch(watch) => self.begin_watch(self.run(watch.run)?)?,
            Request::Close(close) => Later::Close { run: self.run(close.run)?, reason: close.reason() },
            Request::Status(_) => return Ok(Todo::Done(self.status())),
        }))
    }

    pub(super) fn run(&self, run: RunId) -> Result<Run, Failed> {
        let known = self.open().runs.get(&run).cloned();
        known.ok_or_else(|| {
            let why = format!("run {run} is not open on this connection; open it here");
            Failed::new("no_such_run", Fault::Client, why)
        })
    }

    fn status(&self) -> Answer {
        let kernel = &self.server.kernel;
        let policy = kernel.bundle_status();
        let state = self.open();
        Answer::Status(Box::new(wire::StatusReport {
            protocol: PROTOCOL,
            bundle: policy.in_force.hex().to_string(),
            engine: policy.engine,
            stopped: kernel.stopped().map(|stop| stop.to_string()),
            unlogged: kernel.unlogged(),
            runs: state.runs.keys().copied().collect(),
            calls: state.calls.len() + state.deciding,
            limits: self.server.limits,
        }))
    }

    /// Ends everything that the client left: first its requests, then its calls, then its runs.
    async fn end(&self, mut tasks: JoinSet<()>) {
        self.open().ended = true;
        self.gone.send_replace(true);
        let done = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(END_SECONDS_MAX), done).await.is_err() {
            tasks.shutdown().await;
        }
        let (runs, calls) = {
            let mut state = self.open();
            (std::mem::take(&mut state.runs), std::mem::take(&mut state.calls))
        };
        for slot in calls.values() {
            if let Slot::Started { child: Some(child), .. } = slot {
                self.server.children().remove(child);
            }
        }
        // Dropped permits are recorded as cancelled, dropped calls as unknown.
        drop(calls);
        // Those below others first: a delegated run is closed after all that is below it.
        let mut runs: Vec<_> = runs.values().collect();
        runs.sort_unstable_by_key(|run| std::cmp::Reverse(run.depth()));
        for run in runs {
            // One that was halted ends as halted.
            let halted = run.stopped().is_some();
            let reason = if halted { CloseReason::Failed } else { CloseReason::Abandoned };
            for _ in 0..CLOSE_TRIES {
                match run.close(reason).await {
                    Err(RunError::CallsOutstanding { .. } | RunError::RunsBelow { .. }) => {
                        tokio::time::sleep(CLOSE_PAUSE).await
                    }
                    // A kernel that has stopped closes the run when it starts again.
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }
}
