//! What a kernel is told when it starts, and the file `kernel.toml` that says it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sift_connect::Connect;
use sift_spec::bundle::Bundle;
use sift_spec::note::VerifierKey;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{AgentName, AgentScope, Word};

use crate::hook::Hook;
use crate::signer::{LockedKey, ProcessSigner, Signer, read_key};
use crate::store::Retention;

/// Name of the configuration in a kernel's directory.
pub const CONFIG_FILE: &str = "kernel.toml";
/// Name of the key in a kernel's directory.
pub const KEY_FILE: &str = "kernel.key";
/// Name of the trust file in a kernel's directory.
pub const TRUST_FILE: &str = "trust.policy";

/// What must be true of an intent before its call is dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The log's verified receipt for it is in the store.
    Log,
    /// It is on this machine's disk, and the log is not too far behind.
    #[default]
    Spool,
}

/// Somebody who may answer held calls in a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// The role.
    pub role: Word,
    /// Their key.
    pub key: VerifierKey,
    /// For which agents they may answer; for all where there are none.
    pub agents: Vec<AgentScope>,
}

impl Approver {
    /// Whether they may answer in a role for an agent.
    pub(crate) fn may(&self, role: &Word, agent: &AgentName) -> bool {
        self.role == *role && (self.agents.is_empty() || self.agents.iter().any(|scope| scope.covers(agent)))
    }
}

/// Another kernel, with which sub-agents' runs are delegated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub key: VerifierKey,
    /// For whose runs its delegations and its closes count; for all agents where there are none.
    pub agents: Vec<AgentScope>,
}

impl Peer {
    /// Whether its word counts for an agent.
    pub(crate) fn may(&self, agent: &AgentName) -> bool {
        self.agents.is_empty() || self.agents.iter().any(|scope| scope.covers(agent))
    }
}

/// How far the log may be behind before runs halt. Counts the records of all runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolLimits {
    /// Most records that are not in the log.
    pub records_max: u64,
    /// Longest time in seconds, by the kernel's clock, that a record is not in the log. For records of an earlier
    /// process it runs from the kernel's start.
    pub seconds_max: u64,
    /// Most bytes of records that are not in the log, with the payload objects that they commit to.
    pub bytes_max: u64,
}

impl Default for SpoolLimits {
    /// 100,000 records, 60 seconds, 256 MiB.
    fn default() -> Self {
        Self { records_max: 100_000, seconds_max: 60, bytes_max: 256 << 20 }
    }
}

/// What a kernel is told when it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the store and the requests for approval are. One kernel, one directory.
    pub dir: PathBuf,
    /// Where the log is served, without a trailing slash: `http://127.0.0.1:8190`.
    pub log_url: String,
    /// How the log is reached.
    pub connect: Connect,
    /// Which log, witnesses and operator are believed. Lists one log, by all keys that it may have.
    pub trust: TrustPolicy,
    /// The policy that decides.
    pub bundle: Bundle,
    /// The folder the bundle was read from, if it is to be watched: what it is changed to is loaded, as
    /// [`Kernel::load_bundle`](crate::Kernel::load_bundle) does it, once it is the same on two looks.
    pub bundle_dir: Option<PathBuf>,
    /// Who may answer held calls.
    pub approvers: Vec<Approver>,
    /// Told of held calls, beside the approvals folder.
    pub hook: Option<Hook>,
    /// Other kernels, with which sub-agents' runs are delegated.
    pub kernels: Vec<Peer>,
    /// What must be true of an intent before its call is dispatched.
    pub mode: Mode,
    /// How far the log may be behind.
    pub spool: SpoolLimits,
    /// How long a run may be silent before the kernel records that it is alive; `None` for never.
    pub beat: Option<Duration>,
    /// How long runs that an earlier process left open wait to be resumed ([`crate::Kernel::resume_run`]); then they are
    /// closed as abandoned. Zero, the default, closes them at once.
    pub resume: Duration,
    /// Which payload objects are kept; all for ever unless it says otherwise. What it does not keep is erased about once a
    /// minute, the run that closed first first, and only of runs that are closed and wholly in the log.
    pub retention: Retention,
    /// How often the approvals folder and the bundle's folder are looked at.
    pub poll: Duration,
    /// Name and version of the program that embeds the kernel, for the field `build` of `open` records.
    pub build: String,
}

impl Config {
    /// A configuration with the defaults: spool mode, no approvers, a beat a minute.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, log_url: &str, trust: TrustPolicy, bundle: Bundle) -> Self {
        Self {
            dir: dir.into(),
            log_url: log_url.trim_end_matches('/').to_owned(),
            connect: Connect::default(),
            trust,
            bundle,
            bundle_dir: None,
            approvers: Vec::new(),
            hook: None,
            kernels: Vec::new(),
            mode: Mode::default(),
            spool: SpoolLimits::default(),
            beat: Some(Duration::from_secs(60)),
            resume: Duration::ZERO,
            retention: Retention::default(),
            poll: Duration::from_millis(200),
            build: concat!("sift-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The key cannot be read, or should not be.
    #[error("{0}")]
    Key(String),
    /// A file does not say what it should.
    #[error("{path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The file `kernel.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelFile {
    /// Where the log is served.
    pub log_url: String,
    /// How the log is reached: certificate authorities, client certificate, token to read with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect: Connect,
    /// A program that holds the kernel's key and signs for it; without one the key is in `kernel.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<SignerEntry>,
    /// What must be true of an intent before its call is dispatched: `spool` or `log`.
    #[serde(default)]
    pub mode: Mode,
    /// How far the log may be behind.
    #[serde(default)]
    pub spool: SpoolLimits,
    /// Where spans are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpFile>,
    /// How many seconds runs that an earlier process left open wait to be resumed; 0 closes them at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resume_seconds: u64,
    /// Which payload objects are kept: `days` after the end of their run, at most so many `bytes`; all without it.
    #[serde(default, skip_serializing_if = "Retention::is_for_ever")]
    pub retention: Retention,
    /// Who may answer held calls.
    #[serde(default, rename = "approver", skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<ApproverEntry>,
    /// Other kernels, with which sub-agents' runs are delegated.
    #[serde(default, rename = "kernel", skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<PeerEntry>,
}

/// A `[[kernel]]` of `kernel.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEntry {
    /// The other kernel's key, as its `sift-kernel init` printed it.
    pub vkey: String,
    /// For whose runs its delegations and its closes count, such as `airline/*`; for all agents if it is not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
}

/// `[otlp]` of `kernel.toml`: where spans are sent, in a build with the feature `otlp`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpFile {
    /// The collector's URL with its path, such as `http://127.0.0.1:4318/v1/traces`. Without one, the standard variables
    /// say where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `service.name` of the spans; `sift-kernel` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// How the collector is reached: certificate authorities, client certificate, token.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect: Connect,
}

/// The `signer` of `kernel.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerEntry {
    /// Program and arguments; it speaks `sift/sign@v1`, see [`crate::signer::ProcessSigner`].
    pub command: Vec<String>,
    /// The kernel's public key, which the program must have.
    pub vkey: String,
    /// How long one signature may take, in milliseconds.
    #[serde(default = "sign_ms_max")]
    pub milliseconds_max: u64,
}

const fn sign_ms_max() -> u64 {
    5_000
}

/// An `[[approver]]` of `kernel.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproverEntry {
    /// The role, such as `supervisor`.
    pub role: String,
    /// The approver's key as `sift-kernel keygen` prints it.
    pub vkey: String,
    /// For which agents, such as `airline/*`; for all if it is not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
}

impl KernelFile {
    /// Reads `kernel.toml` of a kernel's directory.
    ///
    /// # Errors
    /// When the file cannot be read or is not one; names the key.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(CONFIG_FILE);
        let text = read_file(&path)?;
        let file: Result<Self, _> = toml::from_str(&text);
        let mut file = file.map_err(|error| ConfigError::Content { path, why: error.to_string() })?;
        file.connect.rebase(dir);
        if let Some(otlp) = &mut file.otlp {
            otlp.connect.rebase(dir);
        }
        Ok(file)
    }

    /// What signs for the kernel of `dir`: the program that this file names, or else the key in the directory.
    ///
    /// # Errors
    /// When there is none, or it does not work.
    pub fn signer(&self, dir: &Path) -> Result<Box<dyn Signer>, ConfigError> {
        let wrong = |why: String| ConfigError::Content { path: dir.join(CONFIG_FILE), why };
        let Some(SignerEntry { command, vkey, milliseconds_max }) = &self.signer else {
            let key = read_key(&dir.join(KEY_FILE)).map_err(|error| ConfigError::Key(error.to_string()))?;
            return Ok(Box::new(LockedKey::new(key)));
        };
        let key = vkey.parse().map_err(|error| wrong(format!("signer: {error}")))?;
        let patience = Duration::from_millis(*milliseconds_max);
        let signer = ProcessSigner::start(command.clone(), key, patience);
        Ok(Box::new(signer.map_err(|error| wrong(format!("signer: {error}")))?))
    }

    /// Who may answer held calls of the kernel of `dir`.
    ///
    /// # Errors
    /// When a role, a key or a scope is not one.
    pub fn approvers(&self, dir: &Path) -> Result<Vec<Approver>, ConfigError> {
        let approvers = self.approvers.iter().map(|entry| {
            let wrong = |why: String| ConfigError::Content { path: dir.join(CONFIG_FILE), why };
            let role = entry.role.parse().map_err(|error| wrong(format!("approver: {error}")))?;
            let key = entry.vkey.parse().map_err(|error| wrong(format!("approver {role}: {error}")))?;
            let agents = entry.agents.iter().map(|scope| scope.parse()).collect::<Result<_, _>>();
            let agents = agents.map_err(|error| wrong(format!("approver {role}: {error}")))?;
            Ok(Approver { role, key, agents })
        });
        approvers.collect()
    }

    /// The whole configuration: this file, the trust file beside it, and the bundle in `bundle_dir`.
    ///
    /// # Errors
    /// When a file cannot be read or does not say what it should.
    pub fn config(self, dir: &Path, bundle_dir: &Path) -> Result<Config, ConfigError> {
        let trust_path = dir.join(TRUST_FILE);
        let trust = TrustPolicy::parse(&read_file(&trust_path)?)
            .map_err(|error| ConfigError::Content { path: trust_path, why: error.to_string() })?;
        let bundle = crate::bundle_dir::read(bundle_dir)?;
        let approvers = self.approvers(dir)?;
        let kernels = self.kernels.iter().map(|entry| {
            let wrong = |why: String| ConfigError::Content { path: dir.join(CONFIG_FILE), why };
            let key = entry.vkey.parse().map_err(|error| wrong(format!("kernel: {error}")))?;
            let agents = entry.agents.iter().map(|scope| scope.parse()).collect::<Result<_, _>>();
            let agents = agents.map_err(|error| wrong(format!("kernel {key}: {error}")))?;
            Ok(Peer { key, agents })
        });
        let kernels = kernels.collect::<Result<_, ConfigError>>()?;
        let config = Config::new(dir, &self.log_url, trust, bundle);
        Ok(Config {
            bundle_dir: Some(bundle_dir.to_owned()),
            approvers,
            kernels,
            mode: self.mode,
            spool: self.spool,
            resume: Duration::from_secs(self.resume_seconds),
            retention: self.retention,
            connect: self.connect,
            ..config
        })
    }
}

const fn is_zero(seconds: &u64) -> bool {
    *seconds == 0
}

fn is_default(connect: &Connect) -> bool {
    *connect == Connect::default()
}

/// Reads a small text file.
///
/// # Errors
/// When it cannot be read; names it.
pub fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Io { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_defaults_and_no_unknown_keys() {
        let file: KernelFile = toml::from_str("log_url = \"http://localhost:1\"").unwrap();
        assert_eq!((file.mode, file.spool), (Mode::Spool, SpoolLimits::default()));
        let file: KernelFile =
            toml::from_str("log_url = \"x\"\nmode = \"log\"\n[spool]\nrecords_max = 5\n").unwrap();
        assert_eq!((file.mode, file.spool.records_max, file.spool.seconds_max), (Mode::Log, 5, 60));
        assert!(file.retention.is_for_ever());
        let file: KernelFile = toml::from_str("log_url = \"x\"\n[retention]\ndays = 30\n").unwrap();
        assert_eq!(file.retention, Retention { days: Some(30), bytes: None });
        for bad in ["log_url = \"x\"\n[retention]\nhours = 1", "log_url = \"x\"\n[retention]\ndays = -1"] {
            assert!(toml::from_str::<KernelFile>(bad).is_err(), "{bad}");
        }
        for bad in ["", "log_url = 1", "log_url = \"x\"\nmod = \"log\"", "log_url = \"x\"\nmode = \"off\""] {
            assert!(toml::from_str::<KernelFile>(bad).is_err(), "{bad}");
        }
    }
}
