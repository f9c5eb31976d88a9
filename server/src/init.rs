//! A new log: keys, configuration, trust file and an empty store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use sift_spec::note::{KeyType, SignerKey, VerifierKey};
use sift_spec::types::KeyName;
use zeroize::Zeroizing;

use crate::access::AccessConfig;
use crate::config::{
    CONFIG_FILE, Config, ConfigError, LogFormat, content, default_connections_max, default_queue_max, file,
};
use crate::disk::DiskConfig;
use crate::key_file::write_secret;
use crate::limits::LimitsConfig;
use crate::recovery;
use crate::store::StoreConfig;

/// Name of the trust file that `init` writes.
pub const TRUST_FILE: &str = "trust.policy";
/// Name of the operator's key file that `init` writes.
pub const OPERATOR_KEY_FILE: &str = "operator.key";
const LOG_KEY_FILE: &str = "log.key";
const DATA_FOLDER: &str = "data";

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
         # that the log cannot touch. It is a C2SP tlog-policy. With witnesses, put their lines here, and a quorum:\n\
         #   witness <name> <vkey> <address>\n\
         #   group <name> all|any|<number> <witness>...\n\
         #   quorum <name>\n\
         # The log asks them to cosign once its configuration has: [witnesses] policy = \"{TRUST_FILE}\"\n\
         log {log_vkey} http://{listen}/\n\
         quorum none\n\
         #sift:operator {operator_vkey}\n"
    );
    write_durably(&trust, &policy)?;
    let data = dir.join(DATA_FOLDER);
    recovery::create(&data, &StoreConfig::default(), &log, origin)?;
    let config = Config {
        listen,
        data: DATA_FOLDER.into(),
        log_key: LOG_KEY_FILE.into(),
        log_keys_also: Vec::new(),
        operator: operator_vkey.to_string(),
        queue_max: default_queue_max(),
        connections_max: default_connections_max(),
        seen: Vec::new(),
        disk: DiskConfig::default(),
        store: StoreConfig::default(),
        feed: crate::config::FeedConfig::default(),
        seen_none_newer: false,
        log_format: LogFormat::default(),
        witnesses: None,
        tls: None,
        access: AccessConfig::default(),
        limits: LimitsConfig::default(),
        payloads: None,
    };
    // The configuration comes last: without it there is no log here, and init may be run again elsewhere.
    let text = toml::to_string(&config).map_err(|error| content(&config_path, error.to_string()))?;
    write_durably(&config_path, &text)?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| file(dir, error))?;
    let (log, operator) = (log.verifier().clone(), operator.verifier().clone());
    Ok(NewLog { config: config_path, trust, operator_key, log, operator })
}

pub(crate) fn new_key(name: KeyName) -> Result<SignerKey, ConfigError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(ConfigError::Entropy)?;
    SignerKey::from_seed(name, KeyType::Ed25519, &seed)
        .map_err(|error| content(Path::new("."), format!("no key could be made: {error}")))
}

fn write_durably(path: &Path, text: &str) -> Result<(), ConfigError> {
    use std::io::Write as _;
    let written = std::fs::File::create_new(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| file(path, error))
}
