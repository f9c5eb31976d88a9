//! The log's own keys: one, or several of one origin while it changes from one to the next.
//!
//! While there are several, each signs every checkpoint, so that readers who trust either believe it. Nothing else
//! knows which key signed: records, proofs and witnesses are about the origin and the tree.

use std::path::Path;

use sift_spec::note::{KeyType, SignerKey, VerifierKey};

use crate::config::{CONFIG_FILE, Config, ConfigError, content};
use crate::init::new_key;
use crate::key_file::{read_key, write_secret};

/// Most keys at a time: each adds a signature to every checkpoint.
const LOG_KEYS_MAX: usize = 8;

/// Reads the keys of a configuration, that of today first.
pub(crate) fn log_keys(config: &Config) -> Result<Vec<SignerKey>, ConfigError> {
    let paths = || std::iter::once(&config.log_key).chain(&config.log_keys_also);
    if paths().count() > LOG_KEYS_MAX {
        let why = format!("log_keys_also: a log has at most {LOG_KEYS_MAX} keys at a time");
        return Err(content(Path::new(CONFIG_FILE), why));
    }
    let mut keys: Vec<SignerKey> = Vec::new();
    for path in paths() {
        let key = read_key(path)?;
        let wrong = |why: String| Err(content(path, why));
        if key.verifier().key_type() != KeyType::Ed25519 {
            return wrong("a log signs with a key of type 0x01; this is a witness's".to_owned());
        }
        if let Some(first) = keys.first()
            && first.verifier().name() != key.verifier().name()
        {
            let (this, origin) = (key.verifier().name(), first.verifier().name());
            return wrong(format!(
                "this is a key of {this}, and the log is {origin}: all its keys have one name"
            ));
        }
        if keys.iter().any(|other| other.verifier().public() == key.verifier().public()) {
            return wrong("this key is listed twice".to_owned());
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Makes the log's next key, of the same origin, in a new file. It counts for nothing before the configuration and the
/// trust files have it.
///
/// # Errors
/// When the key of today cannot be read, or the file exists or cannot be written.
pub fn next_key(config: &Config, file: &Path) -> Result<VerifierKey, ConfigError> {
    let today = read_key(&config.log_key)?;
    let next = new_key(today.verifier().name().clone())?;
    write_secret(file, &next)?;
    Ok(next.verifier().clone())
}
