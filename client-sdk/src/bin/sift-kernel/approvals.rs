//! `approvals`: what waits for approvers, shown exactly, and answered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sift_client::approval::{
    APPROVALS_DIR, REQUEST_BYTES_MAX, REQUEST_SUFFIX, Request, RequestError, list as list_needed,
};
use sift_client::config::KernelFile;
use sift_client::visible::visible;
use sift_client::{Approver, Clock as _, SystemClock, read_plain, write_new};
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
    /// What was said of files that are no requests: `watch` looks often and says it once.
    told: RefCell<BTreeSet<String>>,
}

impl Desk {
    fn of(dir: &Path) -> Self {
        Self { folder: dir.join(APPROVALS_DIR), approvers: approvers(dir), told: RefCell::default() }
    }

    /// All requests by name; what is none is told.
    fn requests(&self) -> Result<BTreeMap<String, (PathBuf, Request)>, Failure> {
        let at = |error: std::io::Error| {
            let why = "give the directory of a kernel that has run, --dir DIR";
            environment(format!("{}: {error}; {why}", self.folder.display()))
        };
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).map_err(at)?.flatten() {
            let path = entry.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|n| n.strip_suffix(REQUEST_SUFFIX));
            let Some(name) = name.map(str::to_owned) else { continue };
            match read(&path) {
                Ok(request) if request.stem() == name => drop(found.insert(name, (path, request))),
                // A call is answered by its own name only.
                Ok(request) => {
                    let why = format!("it holds the call {}; remove it", request.stem());
                    self.tell(format!("{}: {why}", shown_path(&path)));
                }
                // Answered while it was looked at.
                Err(_) if !path.exists() => {}
                Err(Failure::Refused(why) | Failure::Environment(why)) => self.tell(why),
            }
        }
        Ok(found)
    }

    fn tell(&self, why: String) {
        if !self.told.borrow().contains(&why) {
            anstream::eprintln!("passed over: {why}");
            self.told.borrow_mut().insert(why);
        }
    }

    fn list(&self, json: bool) -> Result<(), Failure> {
        let requests = self.requests()?;
        if json {
            let rows: Vec<_> = requests.values().map(|(path, request)| self.row(path, request)).collect();
            print_json(&json!({ "waiting": rows }));
        } else if requests.is_empty() {
            anstream::println!("Nothing waits for an approval.");
        } else {
            for (name, (_, request)) in &requests {
                anstream::println!("{}", self.brief(name, request));
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

    /// Tells of requests as they come, change and go, until nobody reads it any more.
    fn watch(&self, seconds: Option<u64>, json: bool) -> Result<(), Failure> {
        let started = Instant::now();
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let now = self.requests()?;
            let lines = self.changes(&mut known, &now, json);
            let mut out = anstream::stdout();
            let mut lines = lines.iter();
            match lines.try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                told => told.map_err(environment)?,
            }
            if seconds.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds)) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What has changed since the last look, one line for each event.
    fn changes(
        &self,
        known: &mut BTreeMap<String, usize>,
        now: &BTreeMap<String, (PathBuf, Request)>,
        json: bool,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, (path, request)) in now {
            let approved = request.approved.len();
            let before = known.insert(name.clone(), approved);
            if before == Some(approved) {
                continue;
            }
            let event = if before.is_none() { "waits" } else { "approved" };
            lines.push(if json {
                let mut row = self.row(path, request);
                row["event"] = json!(event);
                row.to_string()
            } else {
                format!("{event:<10}{}", self.brief(name, request))
            });
        }
        known.retain(|name, _| {
            let waits = now.contains_key(name);
            if !waits {
                lines.push(match json {
                    true => json!({ "event": "gone", "name": name }).to_string(),
                    false => format!("{:<10}{name}  (answered, too late, or given up)", "gone"),
                });
            }
            waits
        });
        lines
    }

    fn row(&self, path: &Path, request: &Request) -> Value {
        let by: Vec<_> = request
            .approved_by()
            .into_iter()
            .zip(listed(request, &self.approvers))
            .map(|((name, role), listed)| json!({ "name": name, "role": role, "listed": listed }))
            .collect();
        json!({
            "name": request.stem(), "request": path, "run": request.run, "intent": request.intent,
            "hold": request.hold, "missing": request.missing(), "approved": request.approved, "approved_by": by,
            "milliseconds_left": left_ms(request), "agent": request.agent, "call": request.call,
            "reasons": request.reasons, "shown": request.shown(),
        })
    }

    /// A request on one line.
    fn brief(&self, name: &str, request: &Request) -> String {
        let by = request.approved_by().into_iter().zip(listed(request, &self.approvers));
        let by: Vec<_> = by
            .map(|((key, role), listed)| {
                let unknown = if listed { "" } else { " (NOT LISTED in kernel.toml)" };
                format!("{} as {role}{unknown}", visible(key.as_bytes()))
            })
            .collect();
        let by = if by.is_empty() { String::new() } else { format!("approved by {}, ", by.join(", ")) };
        let (what, missing) = (request.what(), list_needed(&request.missing()));
        format!("{name}  {what}  by {}, {by}missing {missing}, {}", request.agent, time_left(request))
    }
}

/// Who signs what, and how it was confirmed.
struct Signing<'a> {
    key: &'a Path,
    role: Option<&'a Word>,
    shown: Option<&'a str>,
    answer: Answer,
}

/// Of each approval that a request lists, whether kernel.toml lists its key for its role.
fn listed(request: &Request, approvers: &[Approver]) -> Vec<bool> {
    let genuine = |note: &str| request.check(note, approvers, UnixMillis::ZERO).is_ok();
    request.approved.iter().map(|note| genuine(note.as_str())).collect()
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
    let unknown = listed(request, approvers).into_iter().filter(|listed| !listed).count();
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
    in_time(request)?;
    confirm(shown, answer, request, json)?;
    // Whoever is asked may think for long.
    in_time(request)?;
    if !path.exists() {
        let why = "the call does not wait any more: it was answered, or given up; nothing was signed";
        return Err(Failure::Refused(why.to_owned()));
    }
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
            request.hold.deadline.utc(),
            path.display()
        );
    }
    Ok(())
}

/// An answer after the deadline counts nowhere, so none is signed.
fn in_time(request: &Request) -> Result<(), Failure> {
    if left_ms(request) > 0 {
        return Ok(());
    }
    let deadline = request.hold.deadline.utc();
    let why = format!("too late: the deadline was {deadline}, and the call will not run; nothing was signed");
    Err(Failure::Refused(why))
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
    if digest.hex().get(..TYPED_DIGITS) == Some(typed.trim()) {
        return Ok(());
    }
    let why = format!(
        "these are not the first {TYPED_DIGITS} digits of its digest, so nothing was signed; look at the call, then try again"
    );
    Err(Failure::Refused(why))
}

fn read(path: &Path) -> Result<Request, Failure> {
    let at = |why: &dyn std::fmt::Display| environment(format!("{}: {why}", shown_path(path)));
    let bytes = read_plain(path, REQUEST_BYTES_MAX).map_err(|error| at(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| at(&error))?;
    // What is wrong may repeat a part of the file.
    let wrong = |error: RequestError| visible(error.to_string().as_bytes());
    Request::parse(&text).map_err(|error| Failure::Refused(format!("{}: {}", shown_path(path), wrong(error))))
}

fn shown_path(path: &Path) -> String {
    visible(path.as_os_str().as_bytes())
}

/// Who may answer, as the kernel's configuration says; nobody where it cannot be read.
fn approvers(dir: &Path) -> Vec<Approver> {
    KernelFile::read(dir).and_then(|file| file.approvers(dir)).unwrap_or_default()
}

fn left_ms(request: &Request) -> u64 {
    request.hold.deadline.get().saturating_sub(SystemClock.now().get())
}

fn time_left(request: &Request) -> String {
    let left = left_ms(request);
    match left / 1000 {
        0 if left == 0 => "no time left".to_owned(),
        seconds @ 0..=119 => format!("{seconds} s left"),
        seconds @ 120..=7199 => format!("{} min left", seconds / 60),
        seconds => format!("{} h left", seconds / 3600),
    }
}
