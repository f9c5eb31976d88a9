//! Witnesses: others who cosign what this log signs, so that it cannot show two histories.
//!
//! The section `[witnesses]` of the configuration names a C2SP tlog-policy file: who they are, where they take
//! checkpoints, and how many of them it takes. Checkpoints go to them by C2SP tlog-witness; what one of them answers is
//! untrusted input, and only a cosignature that verifies is kept of it.
//!
//! A witness may say one thing that stops the log: that it has cosigned a larger tree than this store holds, or another
//! one. Either this store is an old copy, or a second copy of the log is running; going on would sign a fork. So a
//! witness of the policy can stop the log by lying, and is to be chosen accordingly.
//!
//! Out of scope: when a checkpoint is sent, and what becomes of the cosignatures (`publish`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use sift_spec::api::Publish;
use sift_spec::checkpoint::{parse_size, verify_cosignature};
use sift_spec::note::{SignatureLine, VerifierKey};
use sift_spec::proof::Proof;
use sift_spec::trust::{TrustPolicy, TrustedWitness};
use sift_spec::types::{TreeSize, UnixMillis};

use crate::config::{ConfigError, content, read};
use crate::store::Store;
use crate::view::{View, ViewError};

/// Most of a witness's answer that is read, in bytes: 16 post-quantum cosignatures and to spare.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Most lines of an answer that are looked at.
const LINES_MAX: usize = 64;

/// So many times one request is corrected by the size that the witness states.
const ATTEMPTS_MAX: usize = 3;

/// Most witnesses of a policy: each gets every published checkpoint, and a note has 64 signatures at most.
const WITNESSES_MAX: usize = 32;

/// The section `[witnesses]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// File of the policy (C2SP tlog-policy): witnesses with their addresses, groups and a quorum. May be the trust file.
    pub policy: PathBuf,
    /// When a checkpoint is published: `quorum` or `signed`.
    #[serde(default = "default_publish")]
    pub publish: Publish,
    /// Whether the log refuses to start while a witness does not answer.
    #[serde(default)]
    pub require_at_start: bool,
    /// Shortest time between the starts of two rounds, in milliseconds: the rate at which witnesses are asked.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// How long a request with `wait=witnessed` waits for the quorum, in seconds.
    #[serde(default = "default_wait_seconds")]
    pub wait_seconds: u64,
    /// How long a witness may take to answer, in seconds.
    #[serde(default = "default_answer_seconds")]
    pub answer_seconds: u64,
}

const fn default_publish() -> Publish {
    Publish::Quorum
}

const fn default_interval_ms() -> u64 {
    1000
}

/// Below the 30 seconds that kernels wait for an answer.
const fn default_wait_seconds() -> u64 {
    20
}

const fn default_answer_seconds() -> u64 {
    5
}

impl WitnessConfig {
    /// The defaults, with the policy in this file.
    #[must_use]
    pub fn new(policy: PathBuf) -> Self {
        Self {
            policy,
            publish: default_publish(),
            require_at_start: false,
            interval_ms: default_interval_ms(),
            wait_seconds: default_wait_seconds(),
            answer_seconds: default_answer_seconds(),
        }
    }

    /// Makes the path relative to the folder of the configuration, and checks the numbers.
    pub(crate) fn resolve(&mut self, folder: &Path) -> Result<(), String> {
        self.policy = folder.join(&self.policy);
        let bounded = (1..=300).contains(&self.wait_seconds) && (1..=60).contains(&self.answer_seconds);
        if bounded && self.interval_ms <= 86_400_000 {
            return Ok(());
        }
        let why = "[witnesses] wait_seconds is 1 to 300, answer_seconds 1 to 60, interval_ms at most a day";
        Err(why.to_owned())
    }
}

/// Why the log stops, or does not start, on the word of a witness.
#[derive(Debug, thiserror::Error)]
pub enum WitnessStop {
    /// A witness has cosigned a larger tree.
    #[error(
        "witness {witness} has cosigned a tree of {stated} entries and this store holds {stored}: the store is an old \
         copy, or another copy of this log is running; going on would show two histories. Stop the other copy, or \
         restore the store from where it is whole"
    )]
    Ahead {
        /// Its name in the policy.
        witness: String,
        /// What it says.
        stated: TreeSize,
        /// Entries of this log's newest checkpoint.
        stored: TreeSize,
    },
    /// A witness has cosigned another tree.
    #[error(
        "witness {witness} has cosigned a tree of {size} entries that this store's does not extend: another copy of \
         this log has signed another history, and going on would show both. Keep this store and the witness's \
         checkpoint, they are evidence; find the other copy"
    )]
    OtherTree {
        /// Its name in the policy.
        witness: String,
        /// Size of the tree that it cosigned last.
        size: TreeSize,
    },
    /// A witness did not answer that must.
    #[error("witness {witness} did not cosign, and require_at_start is set: {why}")]
    Required {
        /// Its name in the policy.
        witness: String,
        /// What happened.
        why: String,
    },
}

/// Why a witness gave no cosignature this time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WitnessError {
    #[error("no answer: {0}")]
    Network(String),
    #[error("HTTP status {0}: {1}")]
    Status(u16, &'static str),
    #[error("its answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    #[error("its answer has no cosignature of this checkpoint by its key")]
    NoCosignature,
    #[error("it states a size and then refuses it")]
    Unsteady,
    #[error("it states no size: the body of its 409 is not a decimal number and a line feed")]
    NoSize,
    /// It has cosigned a larger tree than it was sent.
    #[error("it has cosigned a tree of {0} entries")]
    Larger(TreeSize),
    /// It has cosigned a tree of this size that is not ours.
    #[error("it refuses the proof from the tree of {0} entries that it has cosigned")]
    OtherTree(TreeSize),
    #[error(transparent)]
    View(#[from] ViewError),
}

/// A witness's signature line over a checkpoint, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cosignature {
    /// The line, with its line feed.
    pub(crate) line: String,
}

impl Cosignature {
    /// The first of `lines` that is a cosignature of `text` by `key`, at a time other than 0. The others are nobody's
    /// business: a forged or unknown line must not get into a note, and must not keep a good one out.
    pub(crate) fn find<'a>(
        text: &str,
        key: &VerifierKey,
        lines: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let mut lines = lines.take(LINES_MAX);
        let found = lines.find(|line| {
            let line = SignatureLine::parse(line);
            line.and_then(|line| verify_cosignature(text, key, &line)).is_some_and(|time| time != 0)
        });
        found.map(|line| Self { line: format!("{line}\n") })
    }
}

/// What is known of one witness, for `/metrics` and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WitnessLag {
    /// Its name in the policy.
    pub(crate) name: String,
    /// Entries of the newest committed tree that it has not cosigned.
    pub(crate) behind: u64,
    /// When it cosigned last, since this process started.
    pub(crate) last_success: Option<UnixMillis>,
    /// Requests that failed since then.
    pub(crate) failures: u64,
}

#[derive(Debug, Default)]
struct State {
    cosigned: Option<TreeSize>,
    last_success: Option<UnixMillis>,
    failures: u64,
}

/// A witness of the policy, and how to reach it.
#[derive(Debug)]
pub(crate) struct Witness {
    pub(crate) trusted: TrustedWitness,
    address: String,
    http: reqwest::Client,
    state: Mutex<State>,
}

impl Witness {
    /// Sends a checkpoint with its proof from the tree of `known` entries, which the witness is thought to have cosigned
    /// last. The witness's own word on that counts (C2SP tlog-witness: 409), a few times.
    pub(crate) async fn add_checkpoint(
        &self,
        view: &View,
        store: &Store,
        known: TreeSize,
    ) -> Result<Cosignature, WitnessError> {
        let size = view.head.size;
        let mut old = known;
        for _ in 0..ATTEMPTS_MAX {
            // A tree is consistent with the empty one and with itself without any proof.
            let proof = if old == TreeSize::ZERO || old == size {
                Proof::default()
            } else {
                view.consistency(store, old, size)?
            };
            let hashes: String = proof.0.iter().map(|hash| format!("{hash}\n")).collect();
            let (status, answer) = self.post(format!("old {old}\n{hashes}\n{}", view.checkpoint)).await?;
            match status {
                StatusCode::OK => return self.cosignature(view, &answer),
                StatusCode::CONFLICT => {
                    let stated = parse_stated(&answer).ok_or(WitnessError::NoSize)?;
                    if stated > size {
                        return Err(WitnessError::Larger(stated));
                    }
                    if stated == old {
                        return Err(WitnessError::Unsteady);
                    }
                    old = stated;
                }
                // Our proof is right, so the tree that it starts from is not ours.
                StatusCode::UNPROCESSABLE_ENTITY if old > TreeSize::ZERO => {
                    return Err(WitnessError::OtherTree(old));
                }
                status => return Err(WitnessError::Status(status.as_u16(), meaning(status))),
            }
        }
        Err(WitnessError::Unsteady)
    }

    async fn post(&self, body: String) -> Result<(StatusCode, Vec<u8>), WitnessError> {
        // The address may hold a token; errors leave it out.
        let network = |error: reqwest::Error| WitnessError::Network(chain(&error.without_url()));
        let mut response = self.http.post(&self.address).body(body).send().await.map_err(network)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(WitnessError::TooLong);
            }
            answer.extend_from_slice(&chunk);
        }
        Ok((response.status(), answer))
    }

    fn cosignature(&self, view: &View, answer: &[u8]) -> Result<Cosignature, WitnessError> {
        let text = view.checkpoint.split_once("\n\n").map(|(text, _)| format!("{text}\n"));
        let answer = std::str::from_utf8(answer).ok();
        let found = text
            .zip(answer)
            .and_then(|(text, lines)| Cosignature::find(&text, &self.trusted.key, lines.lines()));
        found.ok_or(WitnessError::NoCosignature)
    }

    /// Remembers that it cosigned the tree of `size`.
    pub(crate) fn succeeded(&self, size: TreeSize, now: Option<UnixMillis>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { cosigned: Some(size), last_success: now, ..State::default() };
    }

    /// Remembers that it did not cosign.
    pub(crate) fn failed(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failures += 1;
    }

    /// Size of the tree that it cosigned last, since this process started.
    pub(crate) fn cosigned(&self) -> Option<TreeSize> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cosigned
    }

    /// How far it is behind the tree of `committed` entries.
    pub(crate) fn lag(&self, committed: TreeSize) -> WitnessLag {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let cosigned = state.cosigned.map_or(0, TreeSize::get);
        WitnessLag {
            name: self.trusted.name.clone(),
            behind: committed.get().saturating_sub(cosigned),
            last_success: state.last_success,
            failures: state.failures,
        }
    }

    /// What makes the log stop in an answer of this witness, where this store's newest tree has `stored` entries.
    pub(crate) fn stop(&self, error: &WitnessError, stored: TreeSize) -> Option<WitnessStop> {
        let witness = self.trusted.name.clone();
        match error {
            WitnessError::Larger(stated) if *stated > stored => {
                Some(WitnessStop::Ahead { witness, stated: *stated, stored })
            }
            WitnessError::OtherTree(size) => Some(WitnessStop::OtherTree { witness, size: *size }),
            _ => None,
        }
    }
}

/// The witnesses of a policy.
#[derive(Debug)]
pub(crate) struct Witnesses {
    pub(crate) config: WitnessConfig,
    pub(crate) policy: TrustPolicy,
    pub(crate) all: Vec<Arc<Witness>>,
}

impl Witnesses {
    /// Reads the policy of a configuration, for a log with these keys.
    pub(crate) fn read(config: &WitnessConfig, keys: &[VerifierKey]) -> Result<Self, ConfigError> {
        let wrong = |why: String| content(&config.policy, why);
        let policy = TrustPolicy::parse(&read(&config.policy)?).map_err(|error| wrong(error.to_string()))?;
        if policy.quorum().is_none() {
            let why = "\"quorum none\" asks for no witness: name one, or a group, or leave [witnesses] out";
            return Err(wrong(why.to_owned()));
        }
        if !policy.logs().is_empty() && !policy.logs().iter().any(|log| keys.contains(&log.key)) {
            return Err(wrong("its log lines are those of other logs".to_owned()));
        }
        // Another crate may have chosen a provider already: that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(config.answer_seconds))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sift-server/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong(format!("the HTTP client: {error}")))?;
        let mut all = Vec::new();
        for witness in policy.witnesses() {
            let name = &witness.name;
            let url = witness.url.as_deref().unwrap_or_default();
            let address = format!("{}/add-checkpoint", url.trim_end_matches('/'));
            let usable =
                reqwest::Url::parse(&address).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !usable {
                return Err(wrong(format!("witness {name}: an http or https address must end the line")));
            }
            if keys.iter().any(|key| key.public() == witness.key.public()) {
                return Err(wrong(format!("witness {name} has the log's own key")));
            }
            let (http, state) = (http.clone(), Mutex::default());
            all.push(Arc::new(Witness { trusted: witness.clone(), address, http, state }));
        }
        if all.len() > WITNESSES_MAX {
            return Err(wrong(format!("more than {WITNESSES_MAX} witnesses")));
        }
        Ok(Self { config: config.clone(), policy, all })
    }
}

/// The size that a witness states: decimal digits and a line feed.
fn parse_stated(body: &[u8]) -> Option<TreeSize> {
    let text = std::str::from_utf8(body).ok()?;
    parse_size(text.strip_suffix('\n').unwrap_or(text))
}

/// What a status of C2SP tlog-witness says, for the log's operator.
fn meaning(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "it does not understand the request",
        403 => "it does not know the log's key: give it the log's vkey",
        404 => "it does not know this log: ask its operator to add the origin",
        429 => "it is asked too often: raise interval_ms",
        500..=599 => "it failed",
        _ => "not an answer of a witness",
    }
}

/// An error with what caused it: the outermost says only that sending failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
