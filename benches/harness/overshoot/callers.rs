//! The callers of a cell and the kernel that they ask: a process of its own, because it is to be killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sift_client::{
    CloseReason, Config, Kernel, ModelCall, OpenRun, Payload, Report, Run, SpoolLimits, Verdict,
};
use sift_spec::bundle::Bundle;
use sift_spec::meter::Usage;
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::record::Refusal;
use sift_spec::trust::TrustPolicy;

use super::{Cell, FastClock, MAX_OUTPUT, Scope, Trouble};
use crate::AnyError;
use crate::http::{Answer, Connection};
use crate::kernel::NO_LOG;

/// Refusals of each caller in a row, and so many more, after which the cap counts as reached: whoever was under way has
/// come back by then.
const REFUSALS: (u64, u64) = (2, 16);

/// How often a caller tries a call that failed.
const TRIES: usize = 3;

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The cell.
    pub cell: Cell,
    /// Its clock.
    pub clock: FastClock,
    /// Where the provider is served.
    pub provider: String,
    /// The kernel's directory.
    pub dir: PathBuf,
}

/// What the callers saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Calls that the budget refused.
    pub refused: u64,
    /// Calls that came back with an answer.
    pub answered: u64,
    /// Calls that did not.
    pub failed: u64,
}

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Answered,
    Failed,
    Refused,
}

/// How a call is made.
pub(crate) trait Way: Sync {
    /// Makes call `number`.
    fn call(&self, number: u64) -> impl Future<Output = Result<Came, AnyError>> + Send;
}

/// Through a run of the kernel.
struct Kernelled {
    run: Run,
    cell: Cell,
    host: String,
}

/// What all callers of a cell share.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    asked: AtomicU64,
    in_a_row: AtomicU64,
    over: AtomicBool,
    refused: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Opens the kernel and makes the calls of a plan.
///
/// # Errors
/// When anything but a refusal by the budget or a failing provider comes in between.
pub async fn run(plan: &Plan) -> Result<Tally, AnyError> {
    let key = SignerKey::from_seed("bench/kernel".parse()?, KeyType::Ed25519, &[7; 32])?;
    let log = SignerKey::from_seed("bench.example/log".parse()?, KeyType::Ed25519, &[8; 32])?;
    let trust = TrustPolicy::of_log(log.verifier().clone(), None);
    let mut config = Config::new(&plan.dir, NO_LOG, trust, bundle(&plan.cell)?);
    config.beat = None;
    config.spool = SpoolLimits { records_max: 100_000_000, seconds_max: 1_000_000_000, bytes_max: 1 << 40 };
    let kernel = Kernel::open(config, key, plan.clock).await?;
    let (count, agents) = match plan.cell.scope {
        Scope::Run => (1, 1),
        Scope::Agent => (4, 1),
        Scope::Kernel | Scope::KernelHour => (8, 4),
    };
    let mut runs = Vec::new();
    for number in 0..count {
        runs.push(kernel.open_run(OpenRun::of(format!("bench/{}", number % agents).parse()?)).await?);
    }
    let counts = Arc::<Counts>::default();
    let tasks: Vec<_> = (0..plan.cell.callers)
        .map(|caller| {
            let (run, counts) = (runs[caller % runs.len()].clone(), Arc::clone(&counts));
            let (clock, way) =
                (plan.clock, Kernelled { run, cell: plan.cell.clone(), host: plan.provider.clone() });
            tokio::spawn(async move { caller_loop(&way.cell, clock, &counts, &way).await })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    for run in runs {
        run.close(CloseReason::Done).await?;
    }
    kernel.close().await;
    Ok(counts.tally())
}

/// What one caller does: asks, tries again what failed, waits a little when refused, until all is asked or the cap is
/// reached.
pub(crate) async fn caller_loop(
    cell: &Cell,
    clock: FastClock,
    counts: &Counts,
    way: &impl Way,
) -> Result<(), AnyError> {
    loop {
        let number = counts.asked.fetch_add(1, Ordering::SeqCst);
        let asked_all = clock.is_plain() && number >= cell.attempts();
        if asked_all || clock.is_over() || counts.over.load(Ordering::SeqCst) {
            return Ok(());
        }
        for _ in 0..TRIES {
            match way.call(number).await? {
                Came::Answered => {
                    counts.in_a_row.store(0, Ordering::SeqCst);
                    counts.answered.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Came::Failed => {
                    counts.in_a_row.store(0, Ordering::SeqCst);
                    counts.failed.fetch_add(1, Ordering::SeqCst);
                }
                Came::Refused => {
                    counts.refused.fetch_add(1, Ordering::SeqCst);
                    let in_a_row = counts.in_a_row.fetch_add(1, Ordering::SeqCst) + 1;
                    if clock.is_plain() && in_a_row >= REFUSALS.0 * cell.callers as u64 + REFUSALS.1 {
                        counts.over.store(true, Ordering::SeqCst);
                    }
                    tokio::time::sleep(cell.pause()).await;
                    break;
                }
            }
            if cell.trouble != Trouble::Errors {
                break;
            }
        }
    }
}

impl Counts {
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            refused: self.refused.load(Ordering::SeqCst),
            answered: self.answered.load(Ordering::SeqCst),
            failed: self.failed.load(Ordering::SeqCst),
        }
    }
}

/// A request as OpenAI takes it.
pub(crate) fn request(cell: &Cell, number: u64) -> Vec<u8> {
    let words = vec!["the"; cell.pricing.words(number)].join(" ");
    let model = &cell.model;
    format!(
        r#"{{"model":"{model}","max_tokens":{MAX_OUTPUT},"messages":[{{"role":"user","content":"{words}"}}]}}"#
    )
    .into_bytes()
}

/// The bundle of a cell: every model may be asked, its price, and one cap.
fn bundle(cell: &Cell) -> Result<Bundle, AnyError> {
    let policy = "package sift\nallow contains {\"rule\": \"models\"} if input.call.kind == \"model\"\n";
    let scope = match cell.scope {
        Scope::Run => "run",
        Scope::Agent => "agent",
        Scope::Kernel => "kernel",
        Scope::KernelHour => "kernel.hour",
    };
    let budget = format!("[{scope}]\nmicro_usd = {}\n", cell.cap());
    let files = [
        ("policy.rego", policy.to_owned()),
        ("budget.toml", budget),
        ("prices.toml", cell.pricing.for_sift(&cell.model)),
    ];
    Ok(Bundle::new(files.map(|(path, text)| (path.to_owned(), text.into_bytes())))?)
}

impl Way for Kernelled {
    async fn call(&self, number: u64) -> Result<Came, AnyError> {
        let call = ModelCall {
            provider: "bench".to_owned(),
            model: self.cell.model.clone(),
            request: request(&self.cell, number),
            max_output: Some(MAX_OUTPUT),
        };
        let permit = match self.run.propose(call).await? {
            Verdict::Permitted(permit) => permit,
            Verdict::Denied(denial) => {
                return match denial.refusal {
                    Some(Refusal::Limit(_)) => Ok(Came::Refused),
                    _ => Err(denial.to_string().into()),
                };
            }
            Verdict::Held(held) => return Err(format!("held: {held:?}").into()),
        };
        let (id, patience) = (self.run.id().to_string(), self.cell.patience());
        let done = permit
            .dispatch_with(|body| async move {
                match tokio::time::timeout(patience, ask(&self.host, &[("x-run", &id)], &body)).await {
                    Err(_) => Report::timeout("no answer in time"),
                    Ok(Err(error)) => Report::error(&error.to_string()),
                    Ok(Ok(answer)) => report(&answer),
                }
            })
            .await?;
        match done.overspent {
            Some(meter) => Err(format!("more {meter} billed than held").into()),
            None if done.report.why().is_none() => Ok(Came::Answered),
            None => Ok(Came::Failed),
        }
    }
}

/// Sends a request to a provider, over a connection of its own.
pub(crate) async fn ask(host: &str, fields: &[(&str, &str)], body: &[u8]) -> Result<Answer, AnyError> {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{fields}\
         content-length: {}\r\n\r\n",
        body.len()
    );
    Connection::open(host).await?.send(&[head.as_bytes(), body].concat()).await
}

/// What the provider said, as the kernel wants to hear it.
fn report(answer: &Answer) -> Report {
    if answer.status != 200 {
        return Report::error(&format!("status {}", answer.status));
    }
    let Ok(said) = serde_json::from_slice::<Value>(&answer.body) else {
        return Report::error("not JSON");
    };
    let number = |path: &str| said.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let cache_read = number("/usage/prompt_tokens_details/cached_tokens");
    let cache_write = number("/usage/prompt_tokens_details/cache_creation_tokens");
    let reasoning = number("/usage/completion_tokens_details/reasoning_tokens");
    let usage = Usage {
        cache_read,
        cache_write,
        input: number("/usage/prompt_tokens").saturating_sub(cache_read + cache_write),
        output: number("/usage/completion_tokens").saturating_sub(reasoning),
        reasoning,
    };
    Report::ok(Payload::json(answer.body.clone())).with_model("priced", None, "provider", usage)
}
