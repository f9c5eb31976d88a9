//! Evidence packs of recorded conversations, made by the programs that an operator runs, and replayed.

use std::path::{Path, PathBuf};
use std::process::Command;

use sift_rules::PolicyBundle;
use sift_server::init::{OPERATOR_KEY_FILE, TRUST_FILE};
use sift_spec::trust::TrustPolicy;
use sift_verify::files;
use sift_verify::replay::{self, Options, Sums};
use sift_verify::run;

use crate::AnyError;
use crate::decisions::recordings;
use crate::log::{ServedLog, program};
use crate::rules::{Language, project};

/// Packs of one log.
#[derive(Debug)]
pub struct Packs {
    paths: Vec<PathBuf>,
    trust: TrustPolicy,
    language: Language,
    /// Calls a second, as they went through the kernel.
    played: f64,
}

impl Packs {
    /// Plays all recorded conversations through a kernel under the airline's bundle into a log, and collects a pack of each
    /// run.
    ///
    /// # Errors
    /// When a program fails.
    pub fn airline(language: Language, dir: &Path) -> Result<Self, AnyError> {
        let log = ServedLog::start(&dir.join("log"))?;
        let at = |name: &str| dir.join(name).display().to_string();
        let in_log = |name: &str| log.dir.join(name).display().to_string();
        let (url, key, trust) = (log.url(), in_log(OPERATOR_KEY_FILE), in_log(TRUST_FILE));
        let bundle = project().join("client-sdk/examples/airline").join(language.name());
        let bundle = bundle.display().to_string();
        let (kernel, supervisor) = (at("kernel"), at("supervisor.key"));
        let keygen = ["--json", "keygen", "--name", "bench/supervisor", "--out", &supervisor];
        let approver = vkey(&run_program("sift-kernel", &keygen)?)?;
        let asks = format!("supervisor={approver}");
        let init = ["--json", "init", "--dir", &kernel, "--name", "bench/kernel", "--log", &url];
        let init = [&init[..], &["--trust", &trust, "--approver", &asks]].concat();
        let signer = vkey(&run_program("sift-kernel", &init)?)?;
        let target = ["--url", &url, "--key", &key, "--trust", &trust];
        for (role, vkey) in [("kernel", &signer), ("approver:supervisor", &approver)] {
            let grant = ["operator", "grant", "--vkey", vkey, "--role", role, "--agents", "airline/*"];
            run_program("sift-server", &[&grant[..], &target].concat())?;
        }
        let publish = ["operator", "publish", "--bundle", &bundle];
        run_program("sift-server", &[&publish[..], &target].concat())?;
        let recordings = recordings().display().to_string();
        let play =
            ["replay", "--dir", &kernel, "--bundle", &bundle, "--approve-with", &supervisor, &recordings];
        let played = run_program("sift-kernel", &[&["--json"][..], &play].concat())?;
        let played: serde_json::Value = serde_json::from_slice(&played)?;
        let number = |value: &serde_json::Value| value.as_f64().ok_or("not a number");
        let (total, seconds) = (&played["total"], number(&played["replay_seconds"])?);
        let played = (number(&total["model_calls"])? + number(&total["tool_calls"])?) / seconds;
        let packs = at("packs");
        run_program("sift-kernel", &["evidence", "--all", "--dir", &kernel, "--out", &packs])?;
        let paths = files::packs(&[packs.into()])?;
        Ok(Self { paths, trust: log.trust.clone(), language, played })
    }

    /// What [`Packs::played`] is.
    #[must_use]
    pub fn played_as(&self) -> String {
        format!("kernel, recorded conversations, {}, log here", self.language.name())
    }

    /// Calls a second of the conversations, eight at a time, through `sift-kernel replay` beside the log that takes them.
    #[must_use]
    pub const fn played(&self) -> f64 {
        self.played
    }

    /// Replays all packs on all cores, `rounds` times, under the recorded bundle or another one.
    ///
    /// # Errors
    /// When a pack does not verify, a decision was not made again, or, under the recorded bundle, one differs.
    pub fn replay(&self, rounds: usize, bundle: Option<&PolicyBundle>) -> Result<Rates, AnyError> {
        let options = Options {
            run: run::Options::default(),
            strict: false,
            bundle,
            only_changes: true,
            threads: None,
            progress: &(),
        };
        let mut rates = Rates { packs: self.paths.len(), ..Rates::default() };
        // The first round reads the packs into memory.
        for round in 0..=rounds {
            let sums: Sums = replay::replay(&self.paths, &self.trust, &options, |_, _| {});
            let Sums { rejected, unread, unknown, .. } = sums;
            if rejected + unread + unknown + sums.changed() > 0 || sums.runs != self.paths.len() as u64 {
                return Err(format!("packs were not replayed as recorded: {sums:?}").into());
            }
            if round > 0 {
                rates.decisions += sums.decided();
                rates.deciding_s += sums.deciding.as_secs_f64() / sums.workers as f64;
                rates.all_s += sums.took.as_secs_f64();
            }
        }
        Ok(rates)
    }
}

/// How fast packs are replayed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Packs in a round.
    pub packs: usize,
    /// Decisions that were made again, in all rounds.
    pub decisions: u64,
    /// Seconds of all workers at once for the decisions: deriving inputs, deciding, following the runs.
    pub deciding_s: f64,
    /// Seconds for everything: reading packs and verifying them as well.
    pub all_s: f64,
}

impl Rates {
    /// Decisions a second, deciding alone.
    #[must_use]
    pub fn deciding(&self) -> f64 {
        self.decisions as f64 / self.deciding_s
    }

    /// Decisions a second, with everything that is done for them.
    #[must_use]
    pub fn all(&self) -> f64 {
        self.decisions as f64 / self.all_s
    }
}

fn run_program(name: &str, arguments: &[&str]) -> Result<Vec<u8>, AnyError> {
    let output = Command::new(program(name)?).args(arguments).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn vkey(printed: &[u8]) -> Result<String, AnyError> {
    let printed: serde_json::Value = serde_json::from_slice(printed)?;
    Ok(printed["vkey"].as_str().ok_or("no vkey was printed")?.to_owned())
}
