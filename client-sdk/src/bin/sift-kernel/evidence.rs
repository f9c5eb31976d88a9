//! `evidence`: packs that verify offline.

use std::path::{Path, PathBuf};

use serde_json::json;
use sift_client::config::{KernelFile, TRUST_FILE};
use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{EvidenceError, write_whole};
use sift_spec::evidence::Pack;
use sift_spec::trust::TrustPolicy;

use crate::args::Evidence;
use crate::exit::{Failure, environment, print_json};
use crate::runs::open_store;

/// Collects the packs of one run, or of all.
pub(crate) async fn evidence(args: &Evidence, json: bool) -> Result<(), Failure> {
    let file = KernelFile::read(&args.dir).map_err(environment)?;
    let trust = sift_client::config::read_file(&args.dir.join(TRUST_FILE)).map_err(environment)?;
    let trust = TrustPolicy::parse(&trust).map_err(environment)?;
    let log = LogClient::with(&file.log_url, &file.connect).map_err(environment)?;
    let store = open_store(&args.dir)?;
    let disclosure = if args.withhold { Disclosure::Nothing } else { Disclosure::Everything };
    let runs = match args.run {
        Some(run) => vec![run],
        None => store.runs().map_err(environment)?,
    };
    if args.all {
        std::fs::create_dir_all(&args.out).map_err(|error| at(&args.out, &error))?;
    }
    let mut written: Vec<(PathBuf, Pack, usize)> = Vec::new();
    for run in runs {
        if store.run(run).map_err(environment)?.is_empty() {
            return Err(environment(format!("run {run} is not of this kernel")));
        }
        let pack = collect(run, &store, &log, &trust, disclosure).await.map_err(|error| match error {
            EvidenceError::Wrong(_) => Failure::Refused(format!("run {run}: {error}")),
            error => environment(format!("run {run}: {error}")),
        })?;
        let path = if args.out.is_dir() { args.out.join(pack.file_name()) } else { args.out.clone() };
        let bytes = pack.write().map_err(environment)?;
        write_whole(&path, &bytes).map_err(|error| at(&path, &error))?;
        if !json {
            anstream::println!(
                "{}  {} entries, {} bundles, {} objects, {} bytes",
                path.display(),
                pack.entries.len(),
                pack.bundles.len(),
                pack.objects.len(),
                bytes.len()
            );
        }
        written.push((path, pack, bytes.len()));
    }
    if json {
        let packs: Vec<_> = written
            .iter()
            .map(|(path, pack, bytes)| {
                json!({
                    "file": path, "run": pack.run, "entries": pack.entries.len(),
                    "objects": pack.objects.len(), "bytes": bytes,
                })
            })
            .collect();
        print_json(&json!({ "packs": packs }));
    }
    Ok(())
}

fn at(path: &Path, error: &std::io::Error) -> Failure {
    environment(format!("{}: {error}", path.display()))
}
