//! `approvals`: what waits for approvers, shown exactly, and answered.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sift_client::approval::{APPROVALS_DIR, REQUEST_BYTES_MAX, REQUEST_SUFFIX, Request, list as list_needed};
use sift_client::config::KernelFile;
use sift_client::{Approver, Clock as _, SystemClock, read_plain, utc, write_new};
use sift_spec::record::Answer;
use sift_spec::types::{UnixMillis, Word};

use crate::args::{AnswerArgs, Approvals, ApprovalsCommand, Approve};
use crate::exit::{Failure, environment, print_json};

/// How often `watch` looks.
const LOOK: Duration = Duration::from_millis(500);

/// How many digits of the digest a person types.
const TYPED_DIGITS: usize = 6;

/// Lists, shows or answers the held calls of a kernel. The kernel may be running; it finds the answers.
pub(crate) fn approvals(args: &Approvals, json: bool) -> Result<(), Failure> {
    let desk = Desk::of(&args.dir);
    match &args.command {
        None | Some(ApprovalsCommand::List) => desk.list(json),
        Some(ApprovalsCommand::Show { call }) => {
            let (_, request) = desk.find(call)?;
            show(&request, &desk.approvers, json);
            Ok(())
        }
        Some(ApprovalsCommand::Approve(answer)) => desk.answer(answer, Answer::Approve, json),
        Some(ApprovalsCommand::Refuse(answer)) => desk.answer(answer, Answer::Refuse, json),
        Some(ApprovalsCommand::Watch { seconds }) => desk.watch(*seconds, json),
    }
}

/// Answers a request that is named by its file.
pub(crate) fn approve(args: &Approve, json: bool) -> Result<(), Failure> {
    let request = read(&args.request)?;
    let dir = args.request.parent().and_then(Path::parent);
    let approvers = dir.map(approvers).unwrap_or_default();
    let Some(key) = args.key.as_ref().filter(|_| !args.show_only) else {
        show(&request, &approvers, json);
        return Ok(());
    };
    let answer = if args.refuse { Answer::Refuse } else { Answer::Approve };
    let signing = Signing { key, role: args.role.as_ref(), shown: args.shown.as_deref(), answer };
    give(&args.request, &request, &approvers, &signing, json)
}

/// The approvals folder of a kernel.
struct Desk {
    folder: PathBuf,
    approvers: Vec<Approver>,
}

impl Desk {
    fn of(dir: &Path) -> Self {
        Self { folder: dir.join(APPROVALS_DIR), approvers: approvers(dir) }
    }

    /// All requests by name; what is none is told.
    fn requests(&self) -> Result<BTreeMap<String, (PathBuf, Request)>, Failure> {
        let at = |error| environment(format!("{}: {error}", self.folder.display()));
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).map_err(at)?.flatten() {
            let path = entry.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|n| n.strip_suffix(REQUEST_SUFFIX));
            let Some(name) = name.map(str::to_owned) else { continue };
            match read(&path) {
                Ok(request) => drop(found.insert(name, (path, request))),
                // Answered while it was looked at.
                Err(_) if !path.exists() => {}
                Err(Failure::Refused(why) | Failure::Environment(why)) => anstream::eprintln!("{why}"),
            }
        }
        Ok(found)
    }

    fn list(&self, json: bool) -> Result<(), Failure> {
        let requests = self.requests()?;
        if json {
            let rows: Vec<_> = requests.values().map(|(path, request)| row(path, request)).collect();
            print_json(&json!({ "waiting": rows }));
        } else if requests.is_empty() {
            anstream::println!("Nothing waits for an approval.");
        } else {
            for (name, (_, request)) in &requests {
                anstream::println!("{}", brief(name, request));
            }
            anstream::println!("\nLook at one: sift-kernel approvals show CALL --dir DIR");
        }
        Ok(())
    }

    /// The one request whose name has this part.
    fn find(&self, part: &str) -> Result<(PathBuf, Request), Failure> {
        let mut requests = self.requests()?;
        let exact = requests.remove(part);
        let mut found: Vec<_> = requests.into_iter().filter(|(name, _)| name.contains(part)).collect();
        match (exact, found.pop(), found.len()) {
            (Some(found), ..) | (None, Some((_, found)), 0) => Ok(found),
            (None, None, _) => Err(environment(format!(
                "no call that waits has {part} in its name; see sift-kernel approvals"
            ))),
            (None, Some(_), more) => Err(environment(format!(
                "{} calls that wait have {part} in their names; give more of it",
                more + 1
            ))),
        }
    }

    fn answer(&self, args: &AnswerArgs, answer: Answer, json: bool) -> Result<(), Failure> {
        let (path, request) = self.find(&args.call)?;
        let signing =
            Signing { key: &args.key, role: args.role.as_ref(), shown: args.shown.as_deref(), answer };
        give(&path, &request, &self.approvers, &signing, json)
    }

    /// Tells of requests as they come, change and go.
    fn watch(&self, seconds: Option<u64>, json: bool) -> Result<(), Failure> {
        let started = Instant::now();
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let now = self.requests()?;
            for (name, (path, request)) in &now {
                let approved = request.approved.len();
                let before = known.insert(name.clone(), approved);
                if before == Some(approved) {
                    continue;
                }
                let event = if before.is_none() { "waits" } else { "approved" };
                if json {
                    let mut row = row(path, request);
                    row["event"] = json!(event);
                    // One line for each event.
                    anstream::println!("{row}");
                } else {
                    anstream::println!("{event:<10}{}", brief(name, request));
                }
            }
            let gone: Vec<String> = known.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
            for name in gone {
                known.remove(&name);
                match json {
                    true => anstream::println!("{}", json!({ "event": "gone", "name": name })),
                    false => anstream::println!("{:<10}{name}  (answered, too late, or given up)", "gone"),
                }
            }
            std::io::stdout().flush().map_err(environment)?;
            if seconds.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds)) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Who signs what, and how it was confirmed.
struct Signing<'a> {
    key: &'a Path,
    role: Option<&'a Word>,
    shown: Option<&'a str>,
    answer: Answer,
}

fn row(path: &Path, request: &Request) -> Value {
    json!({
        "name": request.stem(), "request": path, "run": request.run, "intent": request.intent,
        "hold": request.hold, "missing": request.missing(), "approved": request.approved,
        "milliseconds_left": left_ms(request), "agent": request.agent, "call": request.call,
        "reasons": request.reasons, "shown": request.shown(),
    })
}

/// A request on one line.
fn brief(name: &str, request: &Request) -> String {
    let missing = list_needed(&request.missing());
    format!("{name}  {}  by {}, missing {missing}, {}", request.what(), request.agent, time_left(request))
}

/// The call, exactly; who has approved; what to type.
fn show(request: &Request, approvers: &[Approver], json: bool) {
    let (rendering, shown) = (request.rendering(), request.shown());
    if json {
        let left = left_ms(request);
        let (status, missing) = (request.status(), request.missing());
        print_json(&json!({
            "rendering": rendering, "request": request, "shown": shown, "status": status, "missing": missing,
            "milliseconds_left": left,
        }));
        return;
    }
    anstream::println!("{rendering}\n{}", request.status());
    let genuine = |note: &&str| request.check(note, approvers, UnixMillis::ZERO).is_ok();
    let notes = request.approved.iter().map(|note| note.as_str());
    let unknown = notes.filter(|note| !genuine(note)).count();
    if unknown > 0 {
        anstream::println!(
            "{unknown} of these approvals are not by keys that kernel.toml lists: do not rely on them."
        );
    }
    anstream::println!("{}\ndigest    {}", time_left(request), shown.hex());
    anstream::println!("To answer without a terminal, add: --shown {shown}");
}

fn give(
    path: &Path,
    request: &Request,
    approvers: &[Approver],
    signing: &Signing<'_>,
    json: bool,
) -> Result<(), Failure> {
    let Signing { key, role, shown, answer } = *signing;
    let role = match (role, request.hold.approvals.as_slice()) {
        (Some(role), _) => role,
        (None, [only]) => &only.role,
        (None, several) => {
            let why = format!("say in which role you answer, --role: {}", list_needed(several));
            return Err(environment(why));
        }
    };
    if !json {
        show(request, approvers, false);
    }
    confirm(shown, answer, request, json)?;
    let key = sift_client::signer::read_key(key).map_err(environment)?;
    let note = request.sign_as(answer, role, &key).map_err(environment)?;
    let path = put(path, request, &note)?;
    if json {
        print_json(&json!({ "answer": answer, "file": path, "shown": request.shown(), "statement": note }));
    } else {
        let done = if answer == Answer::Refuse { "Refusal" } else { "Approval" };
        anstream::println!(
            "{done} signed by {}. It counts until {}, if the kernel lists this key for the role {role}.\n\
             The statement is in {}, where the kernel looks for it.",
            key.verifier().name(),
            utc(request.hold.deadline),
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
fn confirm(shown: Option<&str>, answer: Answer, request: &Request, json: bool) -> Result<(), Failure> {
    let digest = request.shown();
    if let Some(shown) = shown {
        return if shown == digest.to_string() || shown == digest.hex() {
            Ok(())
        } else {
            let why = "--shown is the digest of something else; look at the request again";
            Err(Failure::Refused(why.to_owned()))
        };
    }
    if json || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        let why = "nobody is here to ask; look at it with --show-only or approvals show, then give the digest that it \
                   prints: --shown DIGEST";
        return Err(environment(why));
    }
    let what = if answer == Answer::Refuse { "refuse" } else { "approve" };
    anstream::print!("To {what} exactly this call, type the first {TYPED_DIGITS} digits of its digest: ");
    let mut typed = String::new();
    std::io::stdout().flush().and_then(|()| std::io::stdin().read_line(&mut typed)).map_err(environment)?;
    let right = digest.hex().get(..TYPED_DIGITS) == Some(typed.trim());
    if right { Ok(()) } else { Err(Failure::Refused("nothing was signed".to_owned())) }
}

fn read(path: &Path) -> Result<Request, Failure> {
    let at = |why: &dyn std::fmt::Display| environment(format!("{}: {why}", path.display()));
    let bytes = read_plain(path, REQUEST_BYTES_MAX).map_err(|error| at(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| at(&error))?;
    Request::parse(&text).map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))
}

/// Who may answer, as the kernel's configuration says; nobody where it cannot be read.
fn approvers(dir: &Path) -> Vec<Approver> {
    KernelFile::read(dir).and_then(|file| file.approvers(dir)).unwrap_or_default()
}

fn left_ms(request: &Request) -> u64 {
    request.hold.deadline.get().saturating_sub(SystemClock.now().get())
}

fn time_left(request: &Request) -> String {
    match left_ms(request) / 1000 {
        0 => "no time left".to_owned(),
        seconds @ 1..=119 => format!("{seconds} s left"),
        seconds @ 120..=7199 => format!("{} min left", seconds / 60),
        seconds => format!("{} h left", seconds / 3600),
    }
}
