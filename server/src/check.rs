//! What a configuration names, looked at without starting anything: files, keys, folders, and whether they belong
//! together. All that is wrong is told at once.

use std::path::Path;

use sift_spec::trust::TrustPolicy;

use crate::config::Config;
use crate::init::TRUST_FILE;
use crate::key_file::read_key;
use crate::protection::Protection;
use crate::settings::Problem;
use crate::store::Store;

/// Everything that would keep this configuration from being served, or that looks like a mistake.
#[must_use]
pub fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut find = |key: &str, problem: String| problems.push(Problem::new(key, problem));
    let log = read_key(&config.log_key).map_err(|error| find("log_key", error.to_string())).ok();
    let operator = config.operator().map_err(|error| find("operator", error.to_string())).ok();
    if let (Some(log), Some(operator)) = (&log, &operator)
        && log.verifier().public() == operator.public()
    {
        find("operator", "this is the log's own key; the operator's must be another".to_owned());
    }
    if let Err(why) = writable_folder(&config.data) {
        find("data", why);
    } else {
        // A store that is served can be read beside its server.
        match Store::open_read_only(&config.data).and_then(|store| store.meta("vkey")) {
            Ok(found) => {
                let found = found.map(|vkey| String::from_utf8_lossy(&vkey).into_owned()).unwrap_or_default();
                if let Some(log) = &log
                    && found != log.verifier().to_string()
                {
                    find("log_key", format!("the store is that of {found}, not of {}", log.verifier()));
                }
            }
            Err(error) => find("data", error.to_string()),
        }
    }
    for path in &config.seen {
        match std::fs::read(path) {
            Err(error) => find("seen", format!("{}: {error}", path.display())),
            Ok(note) => {
                if let Some(log) = &log
                    && let Err(error) = TrustPolicy::of_log(log.verifier().clone(), None).verify(&note)
                {
                    find("seen", format!("{}: not a checkpoint of this log: {error}", path.display()));
                }
            }
        }
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
                if let Some(log) = &log
                    && !policy.logs().iter().any(|trusted| trusted.key == *log.verifier())
                {
                    find(TRUST_FILE, format!("{}: it does not list the key of log_key", trust.display()));
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
