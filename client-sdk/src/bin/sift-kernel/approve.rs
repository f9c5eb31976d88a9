//! `approvals` and `approve`: what waits, and an approver's signed answer.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use sift_client::approval::{APPROVALS_DIR, REQUEST_BYTES_MAX, REQUEST_SUFFIX, Request, list as list_needed};
use sift_client::{read_plain, utc, write_new};
use sift_spec::record::Answer;

use crate::args::{Approve, InDir};
use crate::exit::{Failure, environment, print_json};

/// Lists the held calls of a kernel.
pub(crate) fn list(args: &InDir, json: bool) -> Result<(), Failure> {
    let dir = args.dir.join(APPROVALS_DIR);
    let entries =
        std::fs::read_dir(&dir).map_err(|error| environment(format!("{}: {error}", dir.display())))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(REQUEST_SUFFIX));
    paths.sort();
    let mut rows = Vec::new();
    for path in paths {
        match read(&path) {
            Ok(request) => rows.push((path, request)),
            Err(Failure::Refused(why) | Failure::Environment(why)) => anstream::eprintln!("{why}"),
        }
    }
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(path, request)| {
                json!({
                    "request": path, "run": request.run, "intent": request.intent, "hold": request.hold,
                    "approved": request.approved, "agent": request.agent, "call": request.call,
                    "reasons": request.reasons,
                })
            })
            .collect();
        print_json(&json!({ "waiting": rows }));
        return Ok(());
    }
    if rows.is_empty() {
        anstream::println!("Nothing waits for an approval.");
    }
    for (path, request) in rows {
        anstream::println!("{}\n{}{}", path.display(), request.rendering(), request.status());
    }
    Ok(())
}

/// Shows a held call exactly, and answers it.
pub(crate) fn approve(args: &Approve, json: bool) -> Result<(), Failure> {
    let request = read(&args.request)?;
    let rendering = request.rendering();
    if !json {
        anstream::println!("{rendering}\n{}", request.status());
    }
    let answer = if args.refuse { Answer::Refuse } else { Answer::Approve };
    let Some(key) = args.key.as_ref().filter(|_| !args.show_only) else {
        if json {
            print_json(&json!({ "rendering": rendering, "request": request, "shown": request.shown() }));
        } else {
            anstream::println!("To answer without a terminal, add: --shown {}", request.shown());
        }
        return Ok(());
    };
    confirm(args, &request, json)?;
    let key = sift_client::signer::read_key(key).map_err(environment)?;
    let role = match (&args.role, request.hold.approvals.as_slice()) {
        (Some(role), _) => role,
        (None, [only]) => &only.role,
        (None, several) => {
            let why = format!("say in which role you answer, --role: {}", list_needed(several));
            return Err(environment(why));
        }
    };
    let note = request.sign_as(answer, role, &key).map_err(environment)?;
    let path = put(&args.request, &request, &note)?;
    if json {
        print_json(&json!({ "answer": answer, "file": path, "shown": request.shown(), "statement": note }));
    } else {
        let done = if args.refuse { "Refusal" } else { "Approval" };
        anstream::println!(
            "{done} signed by {}. It counts until {}, if the kernel lists this key for the role {}.\n\
             The statement is in {}, where the kernel looks for it.",
            key.verifier().name(),
            utc(request.hold.deadline),
            role,
            path.display()
        );
    }
    Ok(())
}

/// Puts a statement beside its request, in the first place that is free: nobody's answer is overwritten.
fn put(request_path: &Path, request: &Request, note: &str) -> Result<PathBuf, Failure> {
    let dir = request_path.parent().unwrap_or(Path::new("."));
    for slot in 1..=request.slots() {
        let path = request.answer_path(dir, slot);
        match write_new(&path, note.as_bytes()) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(environment(format!("{}: {error}", path.display()))),
        }
    }
    let why = "answers that the kernel has not taken fill all places; is it running?";
    Err(environment(format!("{}: {why}", dir.display())))
}

/// The statement says what its signer was shown, so somebody has to have seen it.
fn confirm(args: &Approve, request: &Request, json: bool) -> Result<(), Failure> {
    if let Some(shown) = &args.shown {
        return if *shown == request.shown().to_string() {
            Ok(())
        } else {
            Err(Failure::Refused(
                "--shown is the digest of something else; look at the request again".to_owned(),
            ))
        };
    }
    if json || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        let why = "nobody is here to ask; look at it with --show-only, then give the digest that it prints: --shown DIGEST";
        return Err(environment(why));
    }
    let what = if args.refuse { "Refuse" } else { "Approve" };
    anstream::print!("{what} exactly this call? Type yes: ");
    let mut answer = String::new();
    std::io::stdout().flush().and_then(|()| std::io::stdin().read_line(&mut answer)).map_err(environment)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(Failure::Refused("nothing was signed".to_owned())) }
}

fn read(path: &Path) -> Result<Request, Failure> {
    let at = |why: &dyn std::fmt::Display| environment(format!("{}: {why}", path.display()));
    let bytes = read_plain(path, REQUEST_BYTES_MAX).map_err(|error| at(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| at(&error))?;
    Request::parse(&text).map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))
}
