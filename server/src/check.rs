//! What a configuration names, looked at without starting anything: files, keys, folders, and whether they belong
//! together. All that is wrong is told at once.

use std::path::Path;

use sift_spec::note::VerifierKey;
use sift_spec::trust::TrustPolicy;

use crate::config::Config;
use crate::init::TRUST_FILE;
use crate::protection::Protection;
use crate::recovery::{RecoveryError, every_key, identify};
use crate::rotation::log_keys;
use crate::settings::Problem;
use crate::store::Store;
use crate::witness::Witnesses;

/// Everything that would keep this configuration from being served, or that looks like a mistake.
#[must_use]
pub fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut find = |key: &str, problem: String| problems.push(Problem::new(key, problem));
    let keys = log_keys(config).map_err(|error| find("log_key", error.to_string())).unwrap_or_default();
    let keys: Vec<VerifierKey> = keys.iter().map(|key| key.verifier().clone()).collect();
    let operator = config.operator().map_err(|error| find("operator", error.to_string())).ok();
    if let Some(operator) = &operator
        && keys.iter().any(|key| key.public() == operator.public())
    {
        find("operator", "this is the log's own key; the operator's must be another".to_owned());
    }
    // What others hold may be signed by a key that is no longer in the configuration.
    let mut ever = keys.clone();
    if let Err(why) = writable_folder(&config.data) {
        find("data", why);
    } else if !keys.is_empty() {
        // A store that is served can be read beside its server.
        let found = Store::open_read_only(&config.data).map_err(RecoveryError::from).and_then(|store| {
            let last = identify(&store, &keys)?.last_key;
            Ok(every_key(&store, &keys, &last)?)
        });
        match found {
            Ok(found) => ever = found,
            Err(error @ RecoveryError::OtherLog { .. }) => find("log_key", error.to_string()),
            Err(error) => find("data", error.to_string()),
        }
    }
    let trusted = TrustPolicy::of_keys(ever, None);
    for path in &config.seen {
        match std::fs::read(path) {
            Err(error) => find("seen", format!("{}: {error}", path.display())),
            Ok(note) if !keys.is_empty() => {
                if let Err(error) = trusted.verify(&note) {
                    find("seen", format!("{}: not a checkpoint of this log: {error}", path.display()));
                }
            }
            Ok(_) => {}
        }
    }
    if let Some(witnesses) = &config.witnesses
        && let Err(error) = Witnesses::read(witnesses, &keys)
    {
        find("witnesses", error.to_string());
    }
    for (section, error) in Protection::check(config) {
        find(section, error.to_string());
    }
    // Kernels and verifiers are given this file: it must not disagree with what is served.
    let trust = config.log_key.with_file_name(TRUST_FILE);
    if let Ok(text) = std::fs::read_to_string(&trust) {
        match TrustPolicy::parse(&text) {
            Err(error) => find(TRUST_FILE, format!("{}: {error}", trust.display())),
            Ok(policy) => {
                if !keys.is_empty() && !policy.logs().iter().any(|log| keys.contains(&log.key)) {
                    find(TRUST_FILE, format!("{}: it lists no key of this log", trust.display()));
                }
                if let Some(operator) = &operator
                    && policy.operator().is_some_and(|trusted| trusted != operator)
                {
                    find(TRUST_FILE, format!("{}: it names another operator", trust.display()));
                }
            }
        }
    }
    problems
}

fn writable_folder(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !metadata.is_dir() {
        return Err(format!("{}: not a folder", path.display()));
    }
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| format!("{}: this user may not write there: {error}", path.display()))
}
