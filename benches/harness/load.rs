//! Load: signs records before the clock starts, sends them over connections that each wait for their answers, and
//! afterwards checks a sample of what the log answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;
use sift_spec::api::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BatchAnswer, BatchResult, MEDIA_BYTES, MEDIA_NOTE};
use sift_spec::hash::leaf_hash;
use sift_spec::note::SignerKey;
use sift_spec::proof::{Proof, verify_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::tile::{parse_entries, push_entry};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex};
use tokio::sync::Barrier;

use crate::http::{self, Connection};
use crate::machine::{CpuTime, Memory};
use crate::pace::{Pace, Turn};
use crate::progress;
use crate::records::{Subject, Weave, sign_stream};
use crate::{AnyError, percentile};

/// About so many answers, spread evenly, are kept and verified where nothing else is asked for.
pub const SAMPLES: usize = 200;

/// What is sent, and how.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Plan {
    /// Connections, each with one request under way.
    pub connections: usize,
    /// Records in one request; 1 sends them as single notes.
    pub batch: usize,
    /// Records in all.
    pub records: usize,
    /// Calls of each run.
    pub calls: u64,
    /// Runs that are under way at the same time on each connection.
    pub runs: u64,
    /// No request starts after this many seconds.
    pub seconds: Option<f64>,
    /// Records a second that are sent whether or not answers come; each connection as fast as it can without it.
    pub rate: Option<f64>,
    /// Answers that are kept and verified, spread evenly.
    pub samples: usize,
}

impl Default for Plan {
    /// Batches, as fast as they are answered.
    fn default() -> Self {
        Self {
            connections: 16,
            batch: 256,
            records: 200_000,
            calls: 10,
            runs: 8,
            seconds: None,
            rate: None,
            samples: SAMPLES,
        }
    }
}

impl Plan {
    /// Single records over 64 connections.
    #[must_use]
    pub fn single(records: usize) -> Self {
        Self { connections: 64, batch: 1, records, runs: 1, ..Self::default() }
    }
}

/// Requests, signed and framed.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    /// For each connection.
    requests: Vec<Arc<Vec<Request>>>,
    entries: usize,
    entry_bytes: u64,
}

#[derive(Debug)]
struct Request {
    wire: Vec<u8>,
    body_at: usize,
    records: usize,
}

/// What sending came to.
#[derive(Debug, Clone, Serialize)]
pub struct Sent {
    /// Records that the log took.
    pub records: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Records a second.
    pub rate: f64,
    /// Time from sending a request, or at a rate from when it was due, to having its whole answer; in microseconds.
    pub latency_us: Latency,
    /// At a rate: how late the generator itself sent what it could have sent in time, in microseconds.
    pub generator_late_us: Option<Latency>,
    /// Mean size of an entry in bytes.
    pub entry_bytes: f64,
    /// Answers that were verified afterwards: checkpoint signature and inclusion.
    pub verified: usize,
    /// Processor time of the log's process while the records were sent, if it runs here.
    pub log_cpu: Option<CpuTime>,
    /// Its memory afterwards.
    pub log_memory: Option<Memory>,
    /// Processor time of the load generator meanwhile.
    pub load_cpu: CpuTime,
}

/// Percentiles.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)] // the names say it
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    /// Percentiles of the given times.
    #[must_use]
    pub fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |share| percentile(&times, share);
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

impl Prepared {
    /// Signs and frames everything that `plan` sends to the log at `host`, on all cores. Connections take the keys in
    /// turn; every run stays on one connection, because its records follow one another.
    ///
    /// # Errors
    /// When the plan makes no sense or a record has no encoding.
    pub fn sign(plan: Plan, subject: &Subject, keys: &[SignerKey], host: &str) -> Result<Self, AnyError> {
        let bar = progress::bar("signing", plan.records as u64);
        if plan.connections == 0 || keys.is_empty() || plan.batch == 0 || plan.batch > BATCH_RECORDS_MAX {
            return Err(format!("connections and keys: at least 1; batch: 1 to {BATCH_RECORDS_MAX}").into());
        }
        let share = plan.records.div_ceil(plan.connections);
        let stream = |connection: usize| -> Result<(usize, u64, Vec<Request>), AnyError> {
            let key = &keys[connection % keys.len()];
            let weave = Weave { calls: plan.calls, at_once: plan.runs };
            let stream = sign_stream(subject, key, connection as u64, weave, share)?;
            bar.inc(stream.len() as u64);
            let bytes = stream.iter().map(|entry| entry.len() as u64).sum();
            let requests = stream.chunks(plan.batch).map(|entries| frame(entries, plan.batch, host));
            Ok((stream.len(), bytes, requests.collect::<Result<_, _>>()?))
        };
        let workers = std::thread::available_parallelism()?.get();
        let stream = &stream;
        let streams: Vec<_> = std::thread::scope(|scope| {
            let worker =
                |worker| move || (worker..plan.connections).step_by(workers).map(stream).collect::<Vec<_>>();
            let threads: Vec<_> = (0..workers).map(|number| scope.spawn(worker(number))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        let mut prepared = Self { plan, requests: Vec::new(), entries: 0, entry_bytes: 0 };
        for stream in streams {
            let (entries, bytes, requests) = stream?;
            prepared.entries += entries;
            prepared.entry_bytes += bytes;
            prepared.requests.push(Arc::new(requests));
        }
        bar.finish_and_clear();
        if prepared.requests.len() == plan.connections {
            Ok(prepared)
        } else {
            Err("a signing thread failed".into())
        }
    }

    /// Records that are ready to be sent.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes of their entries.
    #[must_use]
    pub const fn entry_bytes(&self) -> u64 {
        self.entry_bytes
    }

    /// Sends everything from one thread, then verifies a sample of the answers against `trust`. `pid` is the log's
    /// process, if it runs on this machine.
    ///
    /// # Errors
    /// When the log refuses a record, an answer does not verify, or a connection breaks.
    pub fn send(&self, host: &str, trust: &TrustPolicy, pid: Option<u32>) -> Result<Sent, AnyError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let log_before = pid.map(CpuTime::of).transpose()?;
        let load_before = CpuTime::of(std::process::id())?;
        let answered = runtime.block_on(self.drive(host))?;
        let load_cpu = CpuTime::of(std::process::id())?.since(&load_before);
        let log_cpu =
            pid.map(CpuTime::of).transpose()?.zip(log_before).map(|(now, before)| now.since(&before));
        let log_memory = pid.map(Memory::of).transpose()?;
        for (connection, request, body) in &answered.sample {
            self.check(&self.requests[*connection][*request], body, trust)?;
        }
        let seconds = answered.elapsed.as_secs_f64();
        let late = (!answered.late_us.is_empty()).then(|| Latency::of(answered.late_us));
        Ok(Sent {
            records: answered.records,
            seconds,
            rate: answered.records as f64 / seconds,
            latency_us: Latency::of(answered.times_us),
            generator_late_us: late,
            entry_bytes: self.entry_bytes as f64 / self.entries.max(1) as f64,
            verified: answered.sample.len(),
            log_cpu,
            log_memory,
            load_cpu,
        })
    }

    async fn drive(&self, host: &str) -> Result<Answered, AnyError> {
        let ready = Arc::new(Barrier::new(self.requests.len() + 1));
        let requests: usize = self.requests.iter().map(|requests| requests.len()).sum();
        let sample_every = (requests / self.plan.samples.max(1)).max(1);
        let bar = progress::bar("sending", self.entries as u64);
        let tasks: Vec<_> = (0_usize..)
            .zip(&self.requests)
            .map(|(number, requests)| {
                let (requests, ready, host) = (Arc::clone(requests), Arc::clone(&ready), host.to_owned());
                let talk = Talk { number, plan: self.plan, sample_every, bar: bar.clone() };
                tokio::spawn(async move {
                    let connection = Connection::open(&host).await;
                    ready.wait().await;
                    talk.converse(connection?, &requests).await
                })
            })
            .collect();
        ready.wait().await;
        let start = Instant::now();
        let mut all = Answered::default();
        for task in tasks {
            let answered = task.await??;
            all.records += answered.records;
            all.times_us.extend(answered.times_us);
            all.late_us.extend(answered.late_us);
            all.sample.extend(answered.sample);
        }
        all.elapsed = start.elapsed();
        bar.finish_and_clear();
        Ok(all)
    }

    /// Checks that an answer proves every record of its request to be in a tree that is believed.
    fn check(&self, request: &Request, answer: &[u8], trust: &TrustPolicy) -> Result<(), AnyError> {
        let body = &request.wire[request.body_at..];
        if self.plan.batch == 1 {
            Receipt::parse(answer)?.verify(leaf_hash(body), trust)?;
            return Ok(());
        }
        let answer: BatchAnswer = serde_json::from_slice(answer)?;
        let leaves: Vec<Hash> = parse_entries(body, BATCH_RECORDS_MAX)?.into_iter().map(leaf_hash).collect();
        let index = |result: BatchResult| match result {
            BatchResult::Index(index) => Ok(index),
            BatchResult::Problem(problem) => Err(format!("refused: {}", problem.detail)),
        };
        let indices = answer.results.into_iter().map(index).collect::<Result<Vec<LeafIndex>, _>>()?;
        if indices.len() != leaves.len() {
            return Err("the log answered about another number of records".into());
        }
        let mut proven: Vec<_> = indices.into_iter().zip(leaves).collect();
        proven.sort_unstable();
        let checkpoint = trust.verify(answer.checkpoint.as_bytes())?;
        verify_multi_inclusion(&proven, &checkpoint.checkpoint().head, &Proof(answer.proof))?;
        Ok(())
    }
}

/// What one connection, or all of them, came to.
#[derive(Default)]
struct Answered {
    records: u64,
    elapsed: Duration,
    times_us: Vec<u64>,
    late_us: Vec<u64>,
    /// Connection, request, answer.
    sample: Vec<(usize, usize, Vec<u8>)>,
}

/// What one connection does.
struct Talk {
    number: usize,
    plan: Plan,
    sample_every: usize,
    bar: ProgressBar,
}

impl Talk {
    async fn converse(self, mut connection: Connection, requests: &[Request]) -> Result<Answered, AnyError> {
        let Self { number, plan, sample_every, bar } = self;
        let mut answered = Answered { times_us: Vec::with_capacity(requests.len()), ..Answered::default() };
        let pace = Pace::of(plan.rate.map(|rate| rate / plan.batch as f64), number, plan.connections);
        for (position, request) in requests.iter().enumerate() {
            if pace.is_over(plan.seconds) {
                break;
            }
            let Turn { since, late } = pace.turn(position).await;
            let answer = connection.send(&request.wire).await?;
            answered.times_us.push(since.elapsed().as_micros() as u64);
            if plan.rate.is_some() {
                answered.late_us.push(late.as_micros() as u64);
            }
            if answer.status != 200 {
                let problem = String::from_utf8_lossy(&answer.body);
                return Err(format!("the log answered {}: {problem}", answer.status).into());
            }
            answered.records += request.records as u64;
            bar.inc(request.records as u64);
            if (number + position).is_multiple_of(sample_every) {
                answered.sample.push((number, position, answer.body));
            }
        }
        Ok(answered)
    }
}

fn frame(entries: &[Vec<u8>], batch: usize, host: &str) -> Result<Request, AnyError> {
    let (wire, body_at) = match (entries, batch) {
        ([entry], 1) => http::post(host, "/v1/records", MEDIA_NOTE, entry),
        _ => {
            let mut body = Vec::new();
            if !entries.iter().all(|entry| push_entry(&mut body, entry)) || body.len() > BATCH_BYTES_MAX {
                return Err("a batch is larger than the log takes".into());
            }
            http::post(host, "/v1/records", MEDIA_BYTES, &body)
        }
    };
    Ok(Request { wire, body_at, records: entries.len() })
}
