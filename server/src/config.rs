//! Configuration: one file, written by `sift-server init`, read by every other command.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sift_spec::note::{KeyType, VerifierKey};

use crate::access::AccessConfig;
use crate::disk::DiskConfig;
pub use crate::feed::FeedConfig;
use crate::limits::LimitsConfig;
use crate::payloads::PayloadsConfig;
use crate::recovery::RecoveryError;
use crate::store::StoreConfig;
use crate::tls::TlsConfig;
use crate::witness::WitnessConfig;

/// Name of the configuration file in the folder of a log.
pub const CONFIG_FILE: &str = "sift-server.toml";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read or written.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {why}", path = .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The store of a new log could not be made.
    #[error(transparent)]
    Store(#[from] RecoveryError),
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness: {0}")]
    Entropy(getrandom::Error),
}

/// What `serve` needs to know. Paths in the file are relative to the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Folder of the store.
    pub data: PathBuf,
    /// File of the log's private key; its name is the origin.
    pub log_key: PathBuf,
    /// Files of further keys of the same origin that sign too, while the log changes from one key to the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_keys_also: Vec<PathBuf>,
    /// The operator's vkey, root of all authority.
    pub operator: String,
    /// Requests that may wait; more are answered with 429.
    #[serde(default = "default_queue_max")]
    pub queue_max: usize,
    /// Connections at a time; more wait to be accepted.
    #[serde(default = "default_connections_max")]
    pub connections_max: usize,
    /// Files of checkpoints of this log that others hold: the log starts only if its tree extends them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<PathBuf>,
    /// How much of the disk stays free.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disk: DiskConfig,
    /// How the store uses memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub store: StoreConfig,
    /// The feed of checkpoints.
    #[serde(default, skip_serializing_if = "is_default")]
    pub feed: FeedConfig,
    /// The operator vouches that nobody holds a newer checkpoint than those of `seen`. For one start, so never in a file.
    #[serde(skip)]
    pub seen_none_newer: bool,
    /// Form of what is said on stderr.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Witnesses that cosign what is published; none where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<WitnessConfig>,
    /// TLS on the listener; plain HTTP without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Who may read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: AccessConfig,
    /// Rates of keys and addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsConfig,
    /// The payload store; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payloads: Option<PayloadsConfig>,
}

fn is_default<T: Default + PartialEq>(section: &T) -> bool {
    *section == T::default()
}

/// Form of what the server says on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people, in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

pub(crate) const fn default_connections_max() -> usize {
    4096
}

pub(crate) const fn default_queue_max() -> usize {
    4096
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read, or a key is missing or unknown.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let table = text.parse().map_err(|error: toml::de::Error| content(path, error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::from_table(table, folder).map_err(|why| content(path, why))
    }

    /// A configuration of values that are put together, with relative paths seen from `folder`.
    pub(crate) fn from_table(table: toml::Table, folder: &Path) -> Result<Self, String> {
        let mut config: Self = table.try_into().map_err(|error: toml::de::Error| error.to_string())?;
        config.data = folder.join(&config.data);
        config.log_key = folder.join(&config.log_key);
        for path in config.seen.iter_mut().chain(&mut config.log_keys_also) {
            *path = folder.join(&*path);
        }
        if let Some(witnesses) = &mut config.witnesses {
            witnesses.resolve(folder)?;
        }
        config.tls.iter_mut().for_each(|tls| tls.rebase(folder));
        config.access.rebase(folder);
        config.payloads.iter_mut().for_each(|payloads| payloads.rebase(folder));
        if config.queue_max == 0 || config.connections_max == 0 {
            return Err("queue_max and connections_max must be at least 1".to_owned());
        }
        Ok(config)
    }

    /// The operator's key.
    ///
    /// # Errors
    /// When it is not a vkey of type 0x01.
    pub fn operator(&self) -> Result<VerifierKey, ConfigError> {
        let wrong = |why: String| content(Path::new(CONFIG_FILE), format!("operator: {why}"));
        let key: VerifierKey = self.operator.parse().map_err(|error| wrong(format!("{error}")))?;
        if key.key_type() == KeyType::Ed25519 {
            Ok(key)
        } else {
            Err(wrong("not a key of type 0x01".to_owned()))
        }
    }
}

/// Reads the checkpoints that others hold.
pub(crate) fn read_seen(config: &Config) -> Result<Vec<Vec<u8>>, ConfigError> {
    config.seen.iter().map(|path| std::fs::read(path).map_err(|error| file(path, error))).collect()
}

pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| file(path, error))
}

pub(crate) fn file(path: &Path, error: std::io::Error) -> ConfigError {
    ConfigError::File { path: path.to_owned(), error }
}

pub(crate) fn content(path: &Path, why: String) -> ConfigError {
    ConfigError::Content { path: path.to_owned(), why }
}
