//! LiteLLM's proxy between the same callers and the same provider, with its budgets as strict as they can be set.
//!
//! Two of its budgets work without its database, and both are measured: the `max_budget` of a key, for which LiteLLM
//! holds the worst case before the call (the key comes from a custom authentication, because LiteLLM keeps its own keys
//! in PostgreSQL), and the `max_budget` of a deployment in the router, which is checked before the call and added to
//! after it. One worker process, so that there is one memory.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::callers::{Came, Counts, Way, ask, caller_loop, request};
use super::provider::Provider;
use super::{Cell, FastClock, Outcome, settle};
use crate::AnyError;
use crate::http::{Answer, Connection};

/// Longest that the proxy may take to start.
const START: Duration = Duration::from_secs(120);

/// Longest that the proxy may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Which of LiteLLM's budgets holds the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// `max_budget` of a key, held before the call, refused when it cannot be held.
    Key,
    /// `max_budget` of a deployment, as the router checks it.
    Deployment,
}

impl Budget {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Key, Self::Deployment];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Deployment => "deployment",
        }
    }
}

/// A proxy, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    host: String,
    process: Child,
}

/// The configuration of a proxy that serves these cells from `provider`.
///
/// # Errors
/// When there is no randomness.
pub fn configuration(cells: &[(Budget, Cell)], provider: &str) -> Result<Value, AnyError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let master_key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let master_key = format!("sk-{master_key}");
    let models: Vec<Value> = cells
        .iter()
        .map(|(budget, cell)| {
            let mut parameters = cell.pricing.for_litellm();
            parameters["model"] = json!(format!("openai/{}", cell.model));
            parameters["api_base"] = json!(format!("http://{provider}/v1"));
            parameters["api_key"] = json!("none");
            parameters["timeout"] = json!(cell.patience().as_secs_f64());
            parameters["max_retries"] = json!(0);
            if *budget == Budget::Deployment {
                parameters["max_budget"] = json!(cell.cap() as f64 / 1e6);
                parameters["budget_duration"] = json!("1d");
            }
            json!({ "model_name": cell.model, "litellm_params": parameters })
        })
        .collect();
    Ok(json!({
        "model_list": models,
        "litellm_settings": { "num_retries": 0, "telemetry": false },
        "router_settings": { "num_retries": 0, "disable_cooldowns": true },
        "general_settings": {
            // Nobody is told it: no request is an administrator's.
            "master_key": master_key,
            "custom_auth": "litellm_auth.user_api_key_auth",
            "custom_auth_run_common_checks": true,
            "fail_closed_budget_enforcement": true,
            "disable_spend_logs": true,
        },
    }))
}

impl Proxy {
    /// Starts the proxy of an environment. `dir` is an empty folder, `auth` the file with the keys.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(
        environment: &Path,
        dir: &Path,
        auth: &Path,
        configuration: &Value,
    ) -> Result<Self, AnyError> {
        std::fs::copy(auth, dir.join("litellm_auth.py"))?;
        let file = dir.join("config.yaml");
        // JSON is YAML.
        std::fs::write(&file, serde_json::to_vec_pretty(configuration)?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let diary = std::fs::File::create(dir.join("diary"))?;
        let process = Command::new(environment.join("bin/litellm"))
            .args(["--host", "127.0.0.1", "--num_workers", "1", "--port", &port.to_string(), "--config"])
            .arg(&file)
            .current_dir(dir)
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("LITELLM_LOG", "ERROR")
            .stdin(Stdio::null())
            .stdout(diary.try_clone()?)
            .stderr(diary)
            .spawn()?;
        let mut proxy = Self { host: format!("127.0.0.1:{port}"), process };
        let start = Instant::now();
        while start.elapsed() < START {
            if proxy.process.try_wait()?.is_some() {
                break;
            }
            if let Ok(mut connection) = Connection::open(&proxy.host).await
                && connection.get(&proxy.host, "/health/liveliness").await.is_ok()
            {
                return Ok(proxy);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let said = std::fs::read_to_string(dir.join("diary")).unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(3).collect();
        Err(format!("LiteLLM's proxy did not start: {}", said.join(" | ")).into())
    }

    /// Runs a cell through the proxy.
    ///
    /// # Errors
    /// When the proxy answers with anything but an answer, a refusal over a budget or an error of the provider.
    pub async fn run(&self, budget: Budget, cell: &Cell, provider: &Provider) -> Result<Outcome, AnyError> {
        let clock = FastClock::of(cell);
        provider.open(cell, clock);
        let key = match budget {
            Budget::Key => format!("Bearer sk-{}-{}", cell.model.replace('-', "_"), cell.cap()),
            Budget::Deployment => format!("Bearer sk-{}", cell.model.replace('-', "_")),
        };
        let (counts, start) = (Arc::<Counts>::default(), Instant::now());
        let tasks: Vec<_> = (0..cell.callers)
            .map(|_| {
                let (counts, way) = (
                    Arc::clone(&counts),
                    Proxied { cell: cell.clone(), key: key.clone(), host: self.host.clone() },
                );
                tokio::spawn(async move { caller_loop(&way.cell, clock, &counts, &way).await })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        let refused = counts.tally().refused;
        Ok(settle(cell, &provider.charges(&cell.model), refused, 0, start.elapsed()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Through the proxy.
struct Proxied {
    cell: Cell,
    key: String,
    host: String,
}

impl Way for Proxied {
    async fn call(&self, number: u64) -> Result<Came, AnyError> {
        let body = request(&self.cell, number);
        let fields = [("authorization", self.key.as_str())];
        // The proxy gives the provider up when its patience ends; what the proxy itself takes comes on top.
        match tokio::time::timeout(ANSWER, ask(&self.host, &fields, &body)).await {
            Ok(Ok(answer)) => came(&answer),
            Ok(Err(_)) | Err(_) => Ok(Came::Failed),
        }
    }
}

fn came(answer: &Answer) -> Result<Came, AnyError> {
    let said = String::from_utf8_lossy(&answer.body);
    match answer.status {
        200 => Ok(Came::Answered),
        400..500 if said.to_lowercase().contains("budget") => Ok(Came::Refused),
        408 | 500.. => Ok(Came::Failed),
        status => Err(format!("LiteLLM answered {status}: {said}").into()),
    }
}
