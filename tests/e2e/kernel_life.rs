//! A kernel in a process of its own that is made to die or to fail, and what is found afterwards: what its tool really
//! did, what the record says, and what the ledger believes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{
    Answered, Approver, CloseReason, Config, HaltScope, Kernel, Mode, OpenRun, Payload, Permit, Report, Run,
    SystemClock, ToolCall, Verdict,
};
use sift_spec::bundle::Bundle;
use sift_spec::entry::Entry;
use sift_spec::meter::Meter;
use sift_spec::note::SignerKey;
use sift_spec::record::{Answer, Body, Effect, KeyRole, Status};
use sift_spec::trust::TrustPolicy;
use sift_tests::{BUNDLE, config, new_key};

use crate::kernel::Scene;

const CHILD: &str = "SIFT_TEST_CHILD";

/// Calls that the agent may make in all its runs.
const CALLS_MAX: u64 = 30;

/// Acts of the first run before anything else happens.
const ACTS: u64 = 4;

/// The bundle of every life: it limits the agent, so that the ledger can be asked by what it refuses.
fn life_bundle() -> Bundle {
    let budget = format!("[run]\ntool_calls = 1000\n\n[agent]\ntool_calls = {CALLS_MAX}\n");
    let files = BUNDLE.map(|(path, text)| {
        let text = if path == "budget.toml" { budget.clone() } else { text.to_owned() };
        (path.to_owned(), text.into_bytes())
    });
    Bundle::new(files).unwrap()
}

/// A log with the keys and the bundle that all lives share.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    approver: SignerKey,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let scene = Scene::new().await;
        let approver = new_key("test/supervisor");
        let operator = scene.log.operator();
        let role = KeyRole::Approver("supervisor".parse().unwrap());
        operator.grant(approver.verifier(), role, "test/*").await;
        operator.publish(&life_bundle()).await.unwrap();
        Self { scene, approver }
    }

    /// A new life in a folder of its own.
    pub(crate) fn life(&self, mode: &'static str) -> Life<'_> {
        Life { stage: self, dir: tempfile::tempdir().unwrap(), mode }
    }
}

/// One kernel's folder, in which a process lives and dies.
pub(crate) struct Life<'a> {
    stage: &'a Stage,
    pub(crate) dir: tempfile::TempDir,
    mode: &'static str,
}

/// What is true after a life.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Calls whose tool ran, as it wrote down itself.
    pub(crate) acted: usize,
    /// Calls that the record let through.
    pub(crate) let_through: usize,
    pub(crate) ok: usize,
    pub(crate) unknown: usize,
    pub(crate) cancelled: usize,
    pub(crate) halts: usize,
    /// Calls that the ledger counts.
    pub(crate) counted: u64,
}

impl Life<'_> {
    /// Where the store is.
    pub(crate) fn kernel_dir(&self) -> PathBuf {
        self.dir.path().join("kernel")
    }

    fn effects(&self) -> PathBuf {
        self.dir.path().join("effects")
    }

    /// The environment that makes a test process live it.
    fn setting(&self) -> String {
        let scene = &self.stage.scene;
        let (log, operator) = (scene.log.key().to_string(), scene.log.operator());
        serde_json::json!({
            "dir": self.kernel_dir(), "url": scene.log.http.url(), "mode": self.mode, "effects": self.effects(),
            "log": log, "operator": operator.key().verifier().to_string(),
            "key": scene.key().to_secret_text().as_str(),
            "approver": self.stage.approver.to_secret_text().as_str(),
        })
        .to_string()
    }

    /// Lives it, under `wrapper` if that is a program that runs another.
    pub(crate) fn live(&self, wrapper: Option<Command>, failpoint: Option<&str>) -> Output {
        std::fs::create_dir_all(self.kernel_dir()).unwrap();
        let program = std::env::current_exe().unwrap();
        let mut command = match wrapper {
            Some(mut wrapper) => {
                wrapper.arg("--").arg(program);
                wrapper
            }
            None => Command::new(program),
        };
        command.args(["kernel_life::child", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(CHILD, self.setting()).env_remove("SIFT_FAILPOINT");
        command.envs(failpoint.map(|point| ("SIFT_FAILPOINT", point)));
        command.output().unwrap()
    }

    /// One more act in a run of this life.
    pub(crate) async fn act_in(&self, run: &Run, id: &str) {
        let Verdict::Permitted(permit) = run.propose(call("act", id)).await.unwrap() else { panic!() };
        dispatch(permit, run, &self.effects()).await.unwrap();
    }

    pub(crate) fn config(&self) -> Config {
        let scene = &self.stage.scene;
        let mut config = config(&self.kernel_dir(), scene.log.http.url(), scene.log.trust());
        config.connect = scene.log.http.connect().clone();
        config.bundle = life_bundle();
        config
    }

    /// Opens the kernel again, which now can do what it needs, and holds everything against what the tool did.
    ///
    /// # Panics
    /// When a call ran without a record or without a hold, or anything else does not fit.
    pub(crate) async fn judge(&self, what: &str) -> Found {
        let kernel = Kernel::open(self.config(), self.stage.scene.key(), SystemClock).await;
        let kernel = kernel.unwrap_or_else(|error| panic!("{what}: does not start again: {error}"));
        let found = self.judge_open(&kernel, what).await;
        kernel.close().await;
        found
    }

    /// The same for a kernel that is open.
    pub(crate) async fn judge_open(&self, kernel: &Kernel, what: &str) -> Found {
        let mut found = Found::default();
        let acted: BTreeSet<(String, u64)> = std::fs::read_to_string(self.effects())
            .unwrap_or_default()
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(run, seq)| (run.to_owned(), seq.parse().unwrap()))
            .collect();
        found.acted = acted.len();
        assert!(kernel.drain(Duration::from_secs(30)).await, "{what}: everything reaches the log");
        let (mut let_through, mut settled) = (BTreeMap::new(), 0);
        let runs = kernel.store().runs().unwrap();
        for run in &runs {
            for stored in kernel.store().run(*run).unwrap() {
                let record = Entry::parse(stored.entry).unwrap().record().unwrap().clone();
                match &record.body {
                    Body::Intent(intent) if intent.effect() != Effect::Deny => {
                        assert_eq!(intent.reserved.get(Meter::ToolCalls), 1, "{what}: ran, no hold");
                        let_through.insert((run.to_string(), record.seq.get()), None);
                    }
                    Body::Outcome(outcome) => {
                        let call = let_through.get_mut(&(run.to_string(), outcome.intent.get()));
                        let before = call.unwrap().replace(outcome.status);
                        assert_eq!(before, None, "{what}: settled twice");
                        settled += outcome.settled.get(Meter::ToolCalls);
                    }
                    Body::Halt(_) => found.halts += 1,
                    _ => {}
                }
            }
        }
        found.let_through = let_through.len();
        for (call, status) in &let_through {
            match status.unwrap_or_else(|| panic!("{what}: no outcome of {call:?}")) {
                Status::Ok => found.ok += 1,
                Status::Unknown => found.unknown += 1,
                Status::Cancelled => {
                    assert!(!acted.contains(call), "{what}: ran, and recorded as cancelled");
                    found.cancelled += 1;
                }
                other => panic!("{what}: {other:?}"),
            }
        }
        for call in &acted {
            assert!(let_through.contains_key(call), "{what}: ran, no record: {call:?}");
        }
        assert_eq!(settled, (found.ok + found.unknown) as u64, "{what}: whatever may have acted is settled");
        // The ledger is asked by what it still allows.
        let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
        let mut left = 0;
        while let Verdict::Permitted(permit) =
            run.propose(call("act", &format!("left_{left}"))).await.unwrap()
        {
            permit.dispatch(|| async { sift_tests::done() }).await.unwrap();
            left += 1;
        }
        run.close(CloseReason::Done).await.unwrap();
        found.counted = CALLS_MAX - left;
        assert_eq!(found.counted, settled, "{what}: the ledger counts what the records settled");
        // And a stranger finds nothing to object to.
        let (log, trust) = (&self.stage.scene.log, self.stage.scene.log.trust());
        let client = LogClient::with(log.http.url(), log.http.connect()).unwrap();
        assert!(kernel.drain(Duration::from_secs(30)).await);
        for run in runs {
            let pack = collect(run, kernel.store(), &client, &trust, Disclosure::Everything).await;
            let pack = pack.unwrap_or_else(|error| panic!("{what}: {error}")).write().unwrap();
            let report = sift_verify::run::verify(&pack, &trust, &sift_verify::run::Options::default());
            assert!(report.findings().is_empty(), "{what}: {:?}", report.findings());
        }
        found
    }
}

fn call(name: &str, id: &str) -> ToolCall {
    let args = format!("{{\"id\":\"{id}\"}}").into_bytes();
    ToolCall { name: name.to_owned(), id: id.to_owned(), args, proposed_by: None }
}

/// Leaves a line in a file, durably: the tool's side effect.
pub(crate) fn act(effects: &Path, line: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(effects).unwrap();
    file.write_all(line.as_bytes()).unwrap();
    file.sync_all().unwrap();
}

/// The process that dies or fails. Run as a test of its own it does nothing. It prints `finished`, or why it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(setting) = std::env::var(CHILD) else { return };
    let setting: serde_json::Value = serde_json::from_str(&setting).unwrap();
    let text = |name: &str| setting[name].as_str().unwrap().to_owned();
    let trust = TrustPolicy::of_log(text("log").parse().unwrap(), Some(text("operator").parse().unwrap()));
    let mut config = config(Path::new(&text("dir")), &text("url"), trust);
    config.bundle = life_bundle();
    config.mode = if text("mode") == "log" { Mode::Log } else { Mode::Spool };
    let approver = SignerKey::from_secret_text(&text("approver")).unwrap();
    let (role, key) = ("supervisor".parse().unwrap(), approver.verifier().clone());
    config.approvers = vec![Approver { role, key, agents: Vec::new() }];
    let key = SignerKey::from_secret_text(&text("key")).unwrap();
    let kernel = match Kernel::open(config, key, SystemClock).await {
        Ok(kernel) => kernel,
        Err(error) => return println!("\nnot started: {error}"),
    };
    let effects = text("effects");
    let told = tell(&kernel, &approver, Path::new(&effects));
    match tokio::time::timeout(Duration::from_secs(60), told).await.expect("a kernel that hangs") {
        Ok(()) => println!("\nfinished"),
        Err(error) => {
            println!("\nstopped: {error}");
            // What has failed does not go on.
            assert!(kernel.stopped().is_some(), "an error without a stop: {error}");
            assert!(kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.is_err());
        }
    }
    // Not closed in order: what the store writes then says nothing about what was promised.
    std::process::exit(0);
}

/// What happens in a life: acts, a call that somebody approves, a run that is halted with a call under way, the end.
async fn tell(
    kernel: &Kernel,
    approver: &SignerKey,
    effects: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let run = kernel.open_run(OpenRun::of("test/agent".parse()?)).await?;
    for n in 0..ACTS {
        let Verdict::Permitted(permit) = run.propose(call("act", &format!("call_{n}"))).await? else {
            panic!()
        };
        dispatch(permit, &run, effects).await?;
    }
    let Verdict::Held(held) = run.propose(call("ask", "held")).await? else { panic!() };
    let note = held.request().sign(Answer::Approve, approver)?;
    let Answered::Permitted(permit) = held.answer(&note).await.map_err(|(_, error)| error)? else { panic!() };
    dispatch(permit, &run, effects).await?;
    let other = kernel.open_run(OpenRun::of("test/agent".parse()?)).await?;
    let Verdict::Permitted(permit) = other.propose(call("act", "cut")).await? else { panic!() };
    let (line, path) = (format!("{} {}\n", other.id(), permit.intent()), effects.to_owned());
    let (acted, has_acted) = tokio::sync::oneshot::channel();
    let cut = tokio::spawn(permit.dispatch(|| async move {
        act(&path, &line);
        let _ = acted.send(());
        std::future::pending::<Report>().await
    }));
    // A halted kernel may never start it.
    let _ = has_acted.await;
    let halted = kernel.halt_scope(&HaltScope::Run(other.id()), "enough").await;
    let cut = cut.await?;
    if !halted.recorded {
        return Err("the halt was not recorded".into());
    }
    assert!(matches!(cut, Err(sift_client::DispatchError::Cut(_))), "{cut:?}");
    other.close(CloseReason::Done).await?;
    run.close(CloseReason::Done).await?;
    Ok(())
}

async fn dispatch(permit: Permit, run: &Run, effects: &Path) -> Result<(), sift_client::DispatchError> {
    let line = format!("{} {}\n", run.id(), permit.intent());
    let acted = permit.dispatch(|| async {
        act(effects, &line);
        Report::ok(Payload::text("acted"))
    });
    acted.await.map(drop)
}
