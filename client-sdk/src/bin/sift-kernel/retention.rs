//! `prune` and `erase`: payload objects leave the kernel's store. Proofs stay valid; only the content is gone.

use std::path::Path;

use serde_json::json;
use sift_client::config::{CONFIG_FILE, KernelFile};
use sift_client::control::{Answer, Question, ask};
use sift_client::store::{Erasure, Retention};
use sift_client::{Clock as _, SystemClock};
use sift_spec::types::Hash;

use crate::args::{Erase, Prune};
use crate::exit::{Failure, environment, print_json};
use crate::runs::open_store;

/// Erases what is older or more than what is to be kept, or says what that is.
pub(crate) fn prune(args: &Prune, json: bool) -> Result<(), Failure> {
    let retention = limits(args)?;
    let question = Question::Prune { retention, apply: args.apply };
    let pruned = match running(&args.dir, &question)? {
        Some(Answer::Pruned(pruned)) => pruned,
        Some(_) => return Err(unexpected()),
        None => {
            let store = open_store(&args.dir)?;
            store.prune(retention, SystemClock.now(), args.apply).map_err(environment)?
        }
    };
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
    let digest = args.digest.as_deref().map(digest).transpose()?;
    let erasure = match running(&args.dir, &Question::Erase { run: args.run, digest })? {
        Some(Answer::Erasure(erasure)) => erasure,
        Some(_) => return Err(unexpected()),
        None => open_store(&args.dir)?.erase(args.run, digest.as_ref()).map_err(environment)?,
    };
    let erased = match erasure {
        Erasure::Erased(erased) => erased,
        Erasure::Open => {
            let why = format!("run {} is open and may need it to go on; close it first", args.run);
            return Err(Failure::Refused(why));
        }
        Erasure::Nothing => {
            let why = "there is no such object: not of this run, or erased before";
            return Err(Failure::Refused(why.to_owned()));
        }
    };
    let hex: Vec<String> = erased.iter().map(Hash::hex).collect();
    if json {
        print_json(&json!({ "run": args.run, "erased": hex }));
        return Ok(());
    }
    for digest in &hex {
        anstream::println!("erased  {digest}");
    }
    anstream::println!(
        "\nThe operator records each in the log, which erases it from the log's payload store as well:\n  \
         sift-server operator erase --key operator.key --digest DIGEST --reason \"...\"\n\
         Copies in evidence packs that were handed out are not reached."
    );
    Ok(())
}

/// What the command line says is kept, or else `kernel.toml`.
fn limits(args: &Prune) -> Result<Retention, Failure> {
    let given = Retention { days: args.days, bytes: args.bytes };
    if !given.is_for_ever() {
        return Ok(given);
    }
    let retention = KernelFile::read(&args.dir).map_err(environment)?.retention;
    if retention.is_for_ever() {
        let file = args.dir.join(CONFIG_FILE);
        let file = file.display();
        return Err(environment(format!(
            "no limit: give --days or --bytes, or write [retention] with days or bytes into {file}"
        )));
    }
    Ok(retention)
}

fn digest(text: &str) -> Result<Hash, Failure> {
    let digest = Hash::from_hex(text).ok().or_else(|| text.parse().ok());
    digest.ok_or_else(|| environment(format!("--digest {text:?} is neither 64 digits of hex nor base64")))
}

/// What the kernel of a directory answers, if one runs there.
fn running(dir: &Path, question: &Question) -> Result<Option<Answer>, Failure> {
    let at = |why: String| environment(format!("{}: {why}", dir.display()));
    match ask(dir, question).map_err(|error| at(error.to_string()))? {
        Some(Answer::Failed(why)) => Err(at(why)),
        answer => Ok(answer),
    }
}

fn unexpected() -> Failure {
    environment("the kernel answered another question; is it of another version than this program?")
}
