//! `sift-server fsck`: a stopped store, checked from its bytes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sift_server::config::Config;
use sift_server::fsck::{Depth, Fsck, Report};
use sift_server::init::TRUST_FILE;
use sift_server::key_file::read_key;
use sift_spec::note::VerifierKey;
use sift_spec::trust::TrustPolicy;

use crate::AnyError;

/// Exit code of what could not be checked: nobody knows whether it is in order.
const NOT_CHECKED: u8 = 2;

pub(crate) fn fsck(path: &Path, seen: &[PathBuf], depth: Depth, json: bool) -> ExitCode {
    match run(path, seen, depth) {
        Ok(report) => {
            if json {
                match serde_json::to_string(&report) {
                    Ok(text) => println!("{text}"),
                    Err(error) => eprintln!("sift-server: {error}"),
                }
            } else {
                print(&report);
            }
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            if json {
                println!("{}", json!({ "not_checked": error.to_string() }));
            }
            eprintln!("sift-server: not checked: {error}");
            ExitCode::from(NOT_CHECKED)
        }
    }
}

fn run(path: &Path, seen: &[PathBuf], depth: Depth) -> Result<Report, AnyError> {
    let config = Config::read(path)?;
    let log = log_key(&config)?;
    let operator = config.operator()?;
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let seen = config.seen.iter().chain(seen).map(read).collect::<Result<Vec<_>, _>>()?;
    let bar = bar("{bar:30} {pos}/{len} entries  {per_sec}  {eta} left")?;
    let progress = |done, all| show(&bar, done, all);
    let fsck = Fsck { data: &config.data, log: &log, operator: &operator, seen: &seen, depth };
    let report = fsck.run(&progress);
    bar.finish_and_clear();
    Ok(report?)
}

/// A bar of progress. It draws on a terminal alone.
pub(crate) fn bar(style: &str) -> Result<ProgressBar, AnyError> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(style)?);
    Ok(bar)
}

pub(crate) fn show(bar: &ProgressBar, done: u64, all: u64) {
    bar.set_length(all);
    bar.set_position(done);
}

/// The log's public key: from its private one, or where that is kept elsewhere, from the trust file beside it.
pub(crate) fn log_key(config: &Config) -> Result<VerifierKey, AnyError> {
    let error = match read_key(&config.log_key) {
        Ok(key) => return Ok(key.verifier().clone()),
        Err(error) => error,
    };
    let trust = config.log_key.with_file_name(TRUST_FILE);
    let text = std::fs::read_to_string(&trust).map_err(|other| {
        format!("whose store this is cannot be told: {error}; {}: {other}", trust.display())
    })?;
    let trust = TrustPolicy::parse(&text).map_err(|error| format!("{}: {error}", trust.display()))?;
    match trust.logs() {
        [log] => Ok(log.key.clone()),
        logs => Err(format!("the trust file lists {} logs, and fsck needs the one", logs.len()).into()),
    }
}

fn print(report: &Report) {
    for finding in &report.findings {
        println!("{}  {}: {}", finding.code, finding.row, finding.detail);
    }
    for (code, more) in &report.more {
        println!("{code}  and {more} more");
    }
    if !report.findings.is_empty() {
        println!();
    }
    println!("log          {}", report.log);
    println!("size         {}", report.size);
    println!("root         {}", report.root.map_or("lost".to_owned(), |root| root.to_string()));
    let depth = match report.depth {
        Depth::Edge => "the edge of the tree alone",
        Depth::Hashes => "signatures left out",
        Depth::Signatures => "with every signature",
    };
    println!("entries      {} ({depth})", report.entries);
    println!("tiles        {}", report.tiles);
    println!("chain rows   {}", report.chain_rows);
    println!("checkpoints  {}", report.checkpoints);
    println!("evidence     {} equivocations", report.equivocations);
    println!("time         {}.{:03} s", report.milliseconds / 1000, report.milliseconds % 1000);
    let verdict = if report.is_clean() {
        "nothing is wrong"
    } else {
        "DAMAGED: keep this copy as evidence, and restore the whole store from where it is intact"
    };
    println!("{verdict}");
}
