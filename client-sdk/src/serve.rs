//! The kernel as a process of its own, for agents in any language: what `sift-kernel serve` speaks.
//!
//! The agent holds nothing. It sends what it wants to do and gets permits back; key, store, policy and the way to the log
//! stay in the kernel's process. Run that as another user than the agent, and the agent can reach none of them.
//!
//! # The protocol, `sift/serve@v1`
//!
//! JSON Lines in both directions: one request a line, one answer a line. A request is an object with `id` (a string of at
//! most 128 bytes, or an integer) and `op`; its answer has the same `id`, and `is`. Many requests may be under way at
//! once, and answers come in the order in which they are ready: whoever needs one request to follow another waits for the
//! first one's answer. A member that the table does not list, or one that is given twice, is an error.
//!
//! BYTES is a string, for bytes that are UTF-8, or `{"base64": "..."}` for any. Nothing is trimmed or printed anew: the
//! bytes that are decided on are the bytes given, and a permit gives them back.
//!
//! | `op` | members | answer |
//! | --- | --- | --- |
//! | `open` | `agent`; `labels`?: object of strings; `parent`?: a `child`; `delegation`?: a `note` of another kernel | `opened`: `run` |
//! | `propose` | `run`; one of `tool`, `model`, `agent`; `start`?: true | `permitted`, `started`, `denied` or `held` |
//! | `wait` | `handle` of a held call; `start`?: true | `permitted`, `started` or `denied`, when the approver has answered |
//! | `start` | `handle` of a permitted call | `started`; from here on the call may have acted |
//! | `delegate` | `handle` of a started call of a sub-agent with `delegate`; once | `delegated`: `note`, with which the other kernel opens the sub-agent's run |
//! | `finish` | `handle` of a started call; `status`: `ok`, `error`, `timeout` or `unknown`; `why`?: string; `result`?: BYTES; `media`?: media type of the result; `model`?: see below; `close`?: of a sub-agent's run at another kernel | `finished`: `intent`, `outcome` (numbers of the records), `status`, `settled`: amounts by meter, `overspent`?: a meter |
//! | `cancel` | `handle` of a held or permitted call | `cancelled` |
//! | `halt` | `run`; `detail`: why | `halted`: `detail` |
//! | `watch` | `run` | `halted`: `detail`, when the run is halted by whomever: give up what is under way |
//! | `close` | `run`; `reason`?: `done` (the default) or `failed` | `closed`: `settled`; `close`: of a delegated run, its signed entry, for the kernel that delegated it |
//! | `status` | | `status`: `protocol`, `bundle` (digest), `engine`, `stopped`?, `unlogged`, `runs`: this connection's, `calls`: how many it has open, `limits` |
//!
//! What is proposed:
//!
//! | member | members |
//! | --- | --- |
//! | `tool` | `name`; `id`: the model's identifier of the call; `args`: BYTES; `proposed_by`?: number of the model call's intent |
//! | `model` | `provider`, `model`, `request`: BYTES; `max_output`?: tokens |
//! | `agent` | `name`; `task`: BYTES; `media`?; `delegate`?: `kernel` (name of another kernel's key), `budget` (amounts by meter), `deadline` (milliseconds since 1970), for a sub-agent that runs there |
//!
//! What comes back:
//!
//! | `is` | members |
//! | --- | --- |
//! | `permitted` | `run`, `intent` (number of the record), `handle`, `bytes`: BYTES, the exact ones to run; `reserved`: amounts by meter; `max_output`: for a model call, the limit to send |
//! | `started` | as `permitted`, if the call was started by `"start": true`; else `handle` alone. `child`: for a sub-agent, what opens its run, once |
//! | `denied` | `run`, `intent`, `reason`: in words for the agent, `rules`: names; `unapproved`: true if it was held first |
//! | `held` | `run`, `intent`, `handle`, `request`: stem of the request's file name in the kernel's folder `approvals`; `approvals`: what it needs, a list of `count` and `role`; `deadline` (milliseconds since 1970), `rules`, `reasons` |
//! | `error` | `kind`, `fault`: `client`, `run` or `kernel`; `detail`: what is wrong and what to do next |
//!
//! `model` in `finish` is what the provider said: `served` (the model), `id`?, `method` (who counted), `usage` with
//! `input`, `output`, `cache_read`, `cache_write`, `reasoning`, which do not overlap. Without it the whole hold is settled.
//!
//! ```text
//! > {"id":1,"op":"open","agent":"airline/gpt-4o"}
//! < {"id":1,"is":"opened","run":"019ab2c4-..."}
//! > {"id":2,"op":"propose","run":"019ab2c4-...","start":true,"tool":{"name":"read","id":"call_1","args":"{\"id\":1}"}}
//! < {"id":2,"is":"started","run":"019ab2c4-...","intent":1,"handle":"q5Zt...","bytes":"{\"id\":1}","reserved":{...}}
//! > {"id":3,"op":"finish","handle":"q5Zt...","status":"ok","result":"{\"balance\":5}","media":"application/json"}
//! < {"id":3,"is":"finished","intent":1,"outcome":2,"status":"ok","settled":{...}}
//! ```
//!
//! Kinds of `error`: `malformed` (no request; `id` is null where none could be read), `too_long` (the line is passed
//! over), `no_such_run`, `no_such_handle`, `wrong_state` (a handle is started once, finished once, waited for once),
//! `too_many` (a limit of this connection), `agent_refused`, `refused` (the call, or the run, cannot be recorded as it was
//! proposed), `outstanding` (a run with open calls is not closed), `not_dispatched` (it did not act), `not_recorded` (it
//! may have acted; it counts as unknown), `stopped` (run or kernel does not go on), `kernel`.
//!
//! # What holds
//!
//! * A handle is 256 random bits. It works on the connection that got it and on no other, and each step of it once.
//! * **Whoever disconnects, or is killed, leaves nothing open.** Its held and permitted calls are recorded as `cancelled`,
//!   its started ones as `unknown` with their whole hold settled, and its runs are closed as `abandoned`. They are not
//!   halted: nobody is left to propose in them. A request that was read before the connection ended is still recorded; a
//!   last line without its newline is none.
//! * After kill -9 of the kernel its next start does the same for every run.
//! * A `child` is for whoever the agent gives it to: another connection may open the sub-agent's run with it, once, while
//!   the call that it belongs to is started.
//! * What a client sends can end nothing but its own runs. A client that reads no answers is not read from.
//!
//! # What does not hold
//!
//! The agent is told what it may run, and says what came of it. That it runs nothing else is for whoever holds the tools'
//! credentials: give them to the tools' side, not to the agent.

mod calls;
mod connection;
mod lines;
mod socket;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sift_spec::types::{AgentName, AgentScope};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::kernel::Kernel;
use crate::permit::Child;

pub use socket::{Door, Group, listen};

/// Name and version of the protocol.
pub const PROTOCOL: &str = "sift/serve@v1";

/// Longest line that any setting allows: the largest payload in base64, and as much again for the rest.
pub const LINE_BYTES_MAX: usize = 48 << 20;

/// What a client may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Connections at the same time; a further one is closed at once.
    pub connections_max: usize,
    /// Bytes of a line, without its newline.
    pub line_bytes_max: usize,
    /// Calls of one connection that are being decided, held, permitted or started.
    pub calls_max: usize,
    /// Open runs of one connection.
    pub runs_max: usize,
}

impl Default for Limits {
    /// 512 connections; each 4 MiB a line, 1,024 open calls, 1,024 open runs.
    fn default() -> Self {
        Self { connections_max: 512, line_bytes_max: 4 << 20, calls_max: 1024, runs_max: 1024 }
    }
}

/// A kernel that answers clients.
pub struct Server {
    kernel: Kernel,
    limits: Limits,
    /// Agents that clients may open runs for; any that the log will take where there are none.
    agents: Vec<AgentScope>,
    /// What opens the runs of sub-agents, by token.
    children: Mutex<HashMap<String, Child>>,
    numbers: AtomicU64,
    connections: AtomicUsize,
}

impl Server {
    /// A server for a kernel.
    #[must_use]
    pub fn new(kernel: Kernel, limits: Limits, agents: Vec<AgentScope>) -> Arc<Self> {
        Arc::new(Self {
            kernel,
            limits,
            agents,
            children: Mutex::default(),
            numbers: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
        })
    }

    /// Serves one client until it disconnects or `stop` becomes true; its calls and runs have ended when this returns.
    pub async fn client<R, W>(self: &Arc<Self>, reader: R, writer: W, stop: watch::Receiver<bool>)
    where
        R: AsyncRead + Send + Unpin,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        connection::run(Arc::clone(self), number, reader, writer, stop).await;
    }

    /// A place for one more connection, unless there are as many as may be.
    fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        (self.connections.fetch_add(1, Ordering::SeqCst) < self.limits.connections_max).then_some(place)
    }

    fn may(&self, agent: &AgentName) -> bool {
        self.agents.is_empty() || self.agents.iter().any(|scope| scope.covers(agent))
    }

    fn children(&self) -> MutexGuard<'_, HashMap<String, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, counted.
struct Place(Arc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// 256 random bits, for handles.
fn token() -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}
