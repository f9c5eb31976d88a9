//! `runs`.

use std::path::Path;

use serde_json::json;
use sift_client::store::Store;
use sift_spec::entry::Entry;
use sift_spec::record::{Body, CloseReason};

use crate::args::InDir;
use crate::exit::{Failure, environment, print_json};

/// Lists the runs of a kernel, as its store has them.
pub(crate) fn runs(args: &InDir, json: bool) -> Result<(), Failure> {
    let store = open_store(&args.dir)?;
    let mut rows = Vec::new();
    for run in store.runs().map_err(environment)? {
        let records = store.run(run).map_err(environment)?;
        let logged = records.iter().filter(|record| record.index.is_some()).count();
        let count = records.len();
        let mut ends = [None, None];
        for (slot, stored) in ends.iter_mut().zip([records.first(), records.last()]) {
            let entry = stored.map(|stored| Entry::parse(stored.entry.clone())).transpose();
            *slot = entry.map_err(environment)?.and_then(|entry| entry.record().cloned());
        }
        let [Some(first), Some(last)] = ends else { continue };
        let (state, settled) = match &last.body {
            Body::Close(close) => (reason(close.reason), close.settled),
            Body::Halt(_) => ("halted", sift_spec::meter::Amounts::ZERO),
            _ => ("open", sift_spec::meter::Amounts::ZERO),
        };
        rows.push((run, first, count, logged, state, settled));
    }
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(run, first, records, logged, state, settled)| {
                json!({
                    "run": run, "agent": first.agent, "opened": first.time, "records": records,
                    "logged": logged, "state": state, "settled": settled,
                })
            })
            .collect();
        print_json(&json!({ "runs": rows }));
        return Ok(());
    }
    anstream::println!(
        "{:<36}  {:<24}  {:<24}  {:>7}  {:>7}  {:<9}  {:>12}",
        "run",
        "agent",
        "opened",
        "records",
        "in log",
        "state",
        "dollars"
    );
    for (run, first, records, logged, state, settled) in rows {
        anstream::println!(
            "{run}  {:<24}  {:<24}  {records:>7}  {logged:>7}  {state:<9}  {:>12}",
            first.agent.to_string(),
            first.time.utc(),
            settled.money().dollars()
        );
    }
    Ok(())
}

/// Opens the store of a directory that a kernel has used.
pub(crate) fn open_store(dir: &Path) -> Result<Store, Failure> {
    let path = dir.join(sift_client::store::STORE_FILE);
    if !path.exists() {
        return Err(environment(format!("{}: no kernel has run here", dir.display())));
    }
    Store::open(dir).map_err(environment)
}

const fn reason(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Abandoned => "abandoned",
        CloseReason::Done => "done",
        CloseReason::Failed => "failed",
        CloseReason::Halted => "halted",
    }
}
