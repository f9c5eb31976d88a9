//! Configuration: one file, written by `sift-server init`, read by `sift-server serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sift_spec::note::{KeyType, SignerKey, VerifierKey};
use sift_spec::types::KeyName;
use zeroize::Zeroizing;

use crate::recovery::{self, RecoveryError};

/// Name of the configuration file in the folder of a log.
pub const CONFIG_FILE: &str = "sift-server.toml";
/// Name of the trust file that `init` writes.
pub const TRUST_FILE: &str = "trust.policy";
/// Name of the operator's key file that `init` writes.
pub const OPERATOR_KEY_FILE: &str = "operator.key";
const LOG_KEY_FILE: &str = "log.key";
const DATA_FOLDER: &str = "data";

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
}

const fn default_connections_max() -> usize {
    4096
}

const fn default_queue_max() -> usize {
    4096
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read, or a key is missing or unknown.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let mut config: Self = toml::from_str(&text).map_err(|error| content(path, error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.data = folder.join(&config.data);
        config.log_key = folder.join(&config.log_key);
        config.seen.iter_mut().for_each(|seen| *seen = folder.join(&*seen));
        if config.queue_max == 0 || config.connections_max == 0 {
            return Err(content(path, "queue_max and connections_max must be at least 1".to_owned()));
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

/// What `init` made.
#[derive(Debug)]
pub struct NewLog {
    /// The configuration file.
    pub config: PathBuf,
    /// The trust file for verifiers and kernels.
    pub trust: PathBuf,
    /// The operator's private key, to be kept elsewhere.
    pub operator_key: PathBuf,
    /// The log's vkey.
    pub log: VerifierKey,
    /// The operator's vkey.
    pub operator: VerifierKey,
}

/// Makes a new log in `dir`: keys, configuration, trust file and an empty store.
///
/// # Errors
/// When the folder holds a log already, or something cannot be written. Nothing is ever overwritten.
pub fn init(dir: &Path, origin: &KeyName, listen: SocketAddr) -> Result<NewLog, ConfigError> {
    if origin.as_str().starts_with("sift/") {
        return Err(content(dir, "an origin must not start with \"sift/\": Sift's own notes do".to_owned()));
    }
    std::fs::create_dir_all(dir).map_err(|error| file(dir, error))?;
    let config_path = dir.join(CONFIG_FILE);
    if config_path.exists() {
        return Err(content(
            &config_path,
            "there is a log in this folder already; choose another".to_owned(),
        ));
    }
    let log = new_key(origin.clone())?;
    let operator_name = format!("{origin}/operator");
    let operator_name =
        operator_name.parse().map_err(|error| content(dir, format!("{operator_name}: {error}")))?;
    let operator = new_key(operator_name)?;
    write_secret(&dir.join(LOG_KEY_FILE), &log)?;
    let operator_key = dir.join(OPERATOR_KEY_FILE);
    write_secret(&operator_key, &operator)?;
    let trust = dir.join(TRUST_FILE);
    let (log_vkey, operator_vkey) = (log.verifier(), operator.verifier());
    let policy = format!(
        "# Whom to believe about the log {origin}: give this file to kernels and verifiers by a way\n\
         # that the log cannot touch. It is a C2SP tlog-policy; add witness and group lines as you have them.\n\
         log {log_vkey} http://{listen}/\n\
         quorum none\n\
         #sift:operator {operator_vkey}\n"
    );
    write_durably(&trust, &policy)?;
    let data = dir.join(DATA_FOLDER);
    recovery::create(&data, &log, origin)?;
    let config = Config {
        listen,
        data: DATA_FOLDER.into(),
        log_key: LOG_KEY_FILE.into(),
        operator: operator_vkey.to_string(),
        queue_max: default_queue_max(),
        connections_max: default_connections_max(),
        seen: Vec::new(),
    };
    // The configuration comes last: without it there is no log here, and init may be run again elsewhere.
    let text = toml::to_string(&config).map_err(|error| content(&config_path, error.to_string()))?;
    write_durably(&config_path, &text)?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| file(dir, error))?;
    let (log, operator) = (log.verifier().clone(), operator.verifier().clone());
    Ok(NewLog { config: config_path, trust, operator_key, log, operator })
}

fn new_key(name: KeyName) -> Result<SignerKey, ConfigError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(ConfigError::Entropy)?;
    SignerKey::from_seed(name, KeyType::Ed25519, &seed)
        .map_err(|error| content(Path::new("."), format!("no key could be made: {error}")))
}

/// Reads a private key. The file must be readable by its owner alone; errors never repeat its content.
///
/// # Errors
/// When it cannot be read, others may read it, or it is not a key.
pub fn read_key(path: &Path) -> Result<SignerKey, ConfigError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map_err(|error| file(path, error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let why = format!(
                "others may read this key (mode {:o}); run: chmod 600 {}",
                mode & 0o777,
                path.display()
            );
            return Err(content(path, why));
        }
    }
    let text = Zeroizing::new(read(path)?);
    SignerKey::from_secret_text(text.trim_end()).map_err(|error| content(path, error.to_string()))
}

fn write_durably(path: &Path, text: &str) -> Result<(), ConfigError> {
    use std::io::Write as _;
    let written = std::fs::File::create_new(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| file(path, error))
}

fn write_secret(path: &Path, key: &SignerKey) -> Result<(), ConfigError> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let text = key.to_secret_text();
    let written = options.open(path).and_then(|mut file| {
        writeln!(file, "{}", *text)?;
        file.sync_all()
    });
    written.map_err(|error| file(path, error))
}

/// Reads the checkpoints that others hold.
pub(crate) fn read_seen(config: &Config) -> Result<Vec<Vec<u8>>, ConfigError> {
    config.seen.iter().map(|path| std::fs::read(path).map_err(|error| file(path, error))).collect()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| file(path, error))
}

fn file(path: &Path, error: std::io::Error) -> ConfigError {
    ConfigError::File { path: path.to_owned(), error }
}

pub(crate) fn content(path: &Path, why: String) -> ConfigError {
    ConfigError::Content { path: path.to_owned(), why }
}
