//! `prune` and `erase`: payload objects leave the kernel's store. Proofs stay valid; only the content is gone.

use serde_json::json;
use sift_client::store::{Retention, Store};
use sift_client::{Clock as _, SystemClock};
use sift_spec::types::{Hash, RunId};

use crate::args::{Erase, Prune};
use crate::exit::{Failure, environment, print_json};
use crate::runs::open_store;

/// Erases what is older or more than what is to be kept, or says what that is.
pub(crate) fn prune(args: &Prune, json: bool) -> Result<(), Failure> {
    let store = open_store(&args.dir)?;
    let retention = Retention { days: args.days, bytes: args.bytes };
    let pruned = store.prune(retention, SystemClock.now(), args.apply).map_err(environment)?;
    if json {
        print_json(&json!({
            "applied": args.apply, "runs": pruned.runs, "objects": pruned.objects, "bytes": pruned.bytes,
            "kept_bytes": pruned.kept_bytes,
        }));
        return Ok(());
    }
    let verb = if args.apply { "erased" } else { "would erase" };
    anstream::println!(
        "{verb} {} objects of {} runs, {} bytes; {} bytes stay",
        pruned.objects,
        pruned.runs.len(),
        pruned.bytes,
        pruned.kept_bytes
    );
    if !args.apply {
        anstream::println!("nothing was changed; --apply does it");
    }
    Ok(())
}

/// Erases payload objects of one run.
pub(crate) fn erase(args: &Erase, json: bool) -> Result<(), Failure> {
    let store = open_store(&args.dir)?;
    if store.live_runs().map_err(environment)?.contains(&args.run) {
        let why = format!("run {} is open and may need it to go on; close it first", args.run);
        return Err(Failure::Refused(why));
    }
    let erased = erase_objects(&store, args.run, args.digest.as_deref())?;
    if erased.is_empty() {
        return Err(Failure::Refused(
            "there is no such object: not of this run, or erased before".to_owned(),
        ));
    }
    let hex: Vec<String> = erased.iter().map(Hash::hex).collect();
    if json {
        print_json(&json!({ "run": args.run, "erased": hex }));
        return Ok(());
    }
    for digest in &hex {
        anstream::println!("erased  {digest}");
    }
    anstream::println!(
        "\nIn the log's payload store, and for the record, the operator erases each as well:\n  \
         sift-server operator erase --key operator.key --digest DIGEST --reason \"...\"\n\
         Copies in evidence packs that were handed out are not reached."
    );
    Ok(())
}

fn erase_objects(store: &Store, run: RunId, only: Option<&str>) -> Result<Vec<Hash>, Failure> {
    let mut erased = Vec::new();
    for record in store.run(run).map_err(environment)? {
        for digest in store.objects(record.position).map_err(environment)?.into_keys() {
            let wanted = only.is_none_or(|only| only == digest.hex() || only == digest.to_string());
            if wanted && store.erase_object(record.position, &digest).map_err(environment)? {
                erased.push(digest);
            }
        }
    }
    Ok(erased)
}
