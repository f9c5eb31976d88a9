//! `sift-kernel serve` from outside: whatever clients do, what is recorded is what happened.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sift_spec::record::{Body, CloseReason, Effect, Status};

use crate::harness::eventually;
use crate::program::Desk;

/// A kernel that serves the socket `sock` in the desk's folder. Dropping it kills it.
pub(crate) struct Served {
    child: Child,
    path: PathBuf,
}

impl Served {
    pub(crate) fn start(desk: &Desk, more: &[&str]) -> Self {
        let args = ["--json", "serve", "--dir", "kernel", "--bundle", "bundle", "--socket", "sock"];
        Self::of(desk, desk.command(&[&args, more].concat()))
    }

    /// The same with a command that serves the socket `sock`.
    pub(crate) fn of(desk: &Desk, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        assert_eq!((&ready["serving"], &ready["protocol"]), (&json!("sock"), &json!("sift/serve@v1")));
        Self { child, path: desk.path("sock") }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.path)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.id());
    }

    /// Its exit code, once it has ended.
    pub(crate) fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Ends it as an operator does.
    pub(crate) fn stop(mut self) {
        self.signal("-TERM");
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(!self.path.exists(), "the socket is removed");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, such as `-TERM`.
pub(crate) fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// A client in Rust. Asks one thing after the other.
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    next: u64,
}

impl Client {
    fn connect(path: &Path) -> Self {
        let writer = UnixStream::connect(path).unwrap();
        // An answer that never comes fails the test instead of holding all tests up.
        writer.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
        Self { reader: BufReader::new(writer.try_clone().unwrap()), writer, next: 0 }
    }

    pub(crate) fn send(&mut self, mut request: Value) {
        self.next += 1;
        request["id"] = json!(self.next);
        self.raw(format!("{request}\n").as_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    pub(crate) fn read(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    pub(crate) fn ask(&mut self, request: Value) -> Value {
        self.send(request);
        let answer = self.read();
        assert_eq!(answer["id"], self.next, "{answer}");
        answer
    }

    pub(crate) fn open(&mut self) -> String {
        let opened =
            self.ask(json!({ "op": "open", "agent": "airline/gpt-4o", "labels": { "ticket": "7" } }));
        assert_eq!(opened["is"], "opened", "{opened}");
        opened["run"].as_str().unwrap().to_owned()
    }

    pub(crate) fn tool(&mut self, run: &str, name: &str, start: bool) -> Value {
        let tool = json!({ "name": name, "id": "call_1", "args": "{\"id\": 1}" });
        self.ask(json!({ "op": "propose", "run": run, "tool": tool, "start": start }))
    }
}

pub(crate) fn kind(answer: &Value) -> &str {
    assert_eq!(answer["is"], "error", "{answer}");
    answer["kind"].as_str().unwrap()
}

/// How the calls of a run ended, and why the run did.
fn ends(bodies: &[Body]) -> (Vec<Status>, Option<CloseReason>) {
    let mut statuses: Vec<Status> = bodies
        .iter()
        .filter_map(|body| match body {
            Body::Outcome(outcome) => Some(outcome.status),
            _ => None,
        })
        .collect();
    statuses.sort();
    let close = bodies.iter().find_map(|body| match body {
        Body::Close(close) => Some(close.reason),
        _ => None,
    });
    (statuses, close)
}

/// Runs a part of the Python client's test, which ends with the line `ok`.
fn python(desk: &Desk, part: &str) -> Child {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/serve_client.py");
    let mut command = Command::new("python3");
    command.args(["-I", script, desk.path("sock").to_str().unwrap(), part]);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

fn passes(desk: &Desk, part: &str) {
    let output = python(desk, part).wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.ends_with(b"ok\n"), "{part}: {output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_in_python_gets_what_the_library_gives() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &["--line-bytes", "100000"]);
    assert_eq!(std::fs::metadata(&served.path).unwrap().permissions().mode() & 0o777, 0o600);
    passes(&desk, "honest");
    passes(&desk, "garbage");
    served.stop();
    let runs = desk.check();
    let (statuses, close) = ends(&runs[0]);
    let expected =
        vec![Status::Ok, Status::Ok, Status::Ok, Status::Error, Status::Cancelled, Status::Unknown];
    assert_eq!(statuses.len(), expected.len());
    for status in expected {
        assert!(statuses.contains(&status), "{statuses:?}");
    }
    assert_eq!(close, Some(CloseReason::Done));
    // The part `garbage` leaves its run open and disconnects.
    assert_eq!(ends(&runs[1]), (vec![Status::Ok, Status::Ok], Some(CloseReason::Abandoned)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_at_once_share_one_budget() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &[]);
    // 256 threads on one connection, one run with a budget of 50 calls.
    passes(&desk, "crowd");
    // 256 connections, each with a run and two calls.
    let threads: Vec<_> = (0..256)
        .map(|_| {
            let path = served.path.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(&path);
                let run = client.open();
                for _ in 0..2 {
                    let started = client.tool(&run, "read", true);
                    assert_eq!(started["is"], "started", "{started}");
                    let finish = json!({ "op": "finish", "handle": started["handle"], "status": "ok", "result": "{}" });
                    assert_eq!(client.ask(finish)["is"], "finished");
                }
                assert_eq!(client.ask(json!({ "op": "close", "run": run }))["is"], "closed");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    served.stop();
    let runs = desk.check();
    assert_eq!(runs.len(), 257);
    let crowded = runs.iter().find(|bodies| bodies.len() > 100).unwrap();
    let intents = |effect: Effect| {
        let is = |body: &&Body| matches!(body, Body::Intent(intent) if intent.effect() == effect);
        crowded.iter().filter(is).count()
    };
    assert_eq!((intents(Effect::Allow), intents(Effect::Deny)), (50, 206));
    assert_eq!(ends(crowded), (vec![Status::Ok; 50], Some(CloseReason::Done)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_leaves_nothing_open() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &[]);
    let mut client = python(&desk, "killed");
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    client.kill().unwrap();
    client.wait().unwrap();
    // Another's calls go on meanwhile.
    let mut other = served.connect();
    let run = other.open();
    assert_eq!(other.tool(&run, "read", false)["is"], "permitted");
    let store_says = || {
        let answer = served.connect().ask(json!({ "op": "status" }));
        answer["calls"] == 0 && std::fs::read_dir(desk.path("kernel/approvals")).unwrap().count() == 0
    };
    eventually("the request is gone", store_says).await;
    // Told to stop, the kernel ends what its clients have open.
    served.stop();
    let runs = desk.check();
    let killed = vec![Status::Cancelled, Status::Cancelled, Status::Cancelled, Status::Unknown];
    assert_eq!(ends(&runs[0]), (killed, Some(CloseReason::Abandoned)));
    assert_eq!(ends(&runs[1]), (vec![Status::Cancelled], Some(CloseReason::Abandoned)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_is_killed_leaves_nothing_open_either() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &[]);
    let mut client = served.connect();
    let run = client.open();
    let started = client.tool(&run, "read", true);
    assert_eq!(client.tool(&run, "write", false)["is"], "permitted");
    assert_eq!(client.tool(&run, "pay", false)["is"], "held");
    served.signal("-KILL");
    let mut rest = String::new();
    assert_eq!(client.reader.read_line(&mut rest).unwrap(), 0, "{rest}");
    assert!(served.path.exists(), "a killed process removes nothing");
    drop(served);
    // The next one replaces the socket, and knows nothing of the old handles.
    let served = Served::start(&desk, &[]);
    let mut client = served.connect();
    let finish = json!({ "op": "finish", "handle": started["handle"], "status": "ok", "result": "{}" });
    assert_eq!(kind(&client.ask(finish)), "no_such_handle");
    assert_eq!(kind(&client.tool(&run, "read", true)), "no_such_run");
    // A second kernel is refused, and the first goes on.
    let second = desk.run(&["serve", "--dir", "kernel", "--bundle", "bundle", "--socket", "sock"]);
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process listens"), "{second:?}");
    assert_eq!(client.ask(json!({ "op": "status" }))["is"], "status");
    served.stop();
    let (statuses, close) = ends(&desk.check()[0]);
    assert_eq!((statuses.len(), close), (3, Some(CloseReason::Abandoned)));
    assert!(statuses.contains(&Status::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_is_for_its_connection_and_for_once() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &[]);
    let (mut mine, mut other) = (served.connect(), served.connect());
    let run = mine.open();
    let permitted = mine.tool(&run, "read", false);
    let handle = permitted["handle"].as_str().unwrap();
    assert!(handle.len() == 43 && permitted["bytes"] == "{\"id\": 1}", "{permitted}");
    let start = json!({ "op": "start", "handle": handle });
    let finish = json!({ "op": "finish", "handle": handle, "status": "ok", "result": "" });
    for request in [
        &start,
        &finish,
        &json!({ "op": "cancel", "handle": handle }),
        &json!({ "op": "wait", "handle": handle }),
    ] {
        assert_eq!(kind(&other.ask(request.clone())), "no_such_handle", "{request}");
    }
    assert_eq!(kind(&other.tool(&run, "read", true)), "no_such_run");
    assert_eq!(kind(&other.ask(json!({ "op": "close", "run": run }))), "no_such_run");
    assert_eq!(kind(&other.ask(json!({ "op": "halt", "run": run, "detail": "x" }))), "no_such_run");
    assert_eq!(kind(&mine.ask(finish.clone())), "wrong_state");
    assert_eq!(kind(&mine.ask(json!({ "op": "wait", "handle": handle }))), "wrong_state");
    assert_eq!(mine.ask(start.clone())["is"], "started");
    assert_eq!(kind(&mine.ask(start.clone())), "wrong_state");
    assert_eq!(kind(&mine.ask(json!({ "op": "cancel", "handle": handle }))), "wrong_state");
    assert_eq!(kind(&mine.ask(json!({ "op": "close", "run": run }))), "outstanding");
    // A report that cannot be read loses nothing.
    assert_eq!(kind(&mine.ask(json!({ "op": "finish", "handle": handle, "status": "ok" }))), "malformed");
    assert_eq!(mine.ask(finish.clone())["is"], "finished");
    assert_eq!(kind(&mine.ask(finish)), "no_such_handle");
    assert_eq!(kind(&mine.ask(start)), "no_such_handle");
    // A halt stops what was permitted before it.
    let permitted = mine.tool(&run, "read", false);
    assert_eq!(mine.ask(json!({ "op": "halt", "run": run, "detail": "enough" }))["is"], "halted");
    let late = mine.ask(json!({ "op": "start", "handle": permitted["handle"] }));
    assert_eq!(kind(&late), "not_dispatched", "{late}");
    assert_eq!(kind(&mine.tool(&run, "read", true)), "stopped");
    drop(mine);
    served.stop();
    assert_eq!(ends(&desk.check()[0]), (vec![Status::Cancelled, Status::Ok], Some(CloseReason::Halted)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_call_waits_for_its_approver() {
    let desk = Desk::new().await;
    let made = desk.run(&["--json", "keygen", "--name", "boss", "--out", "boss.key"]);
    let vkey = serde_json::from_slice::<Value>(&made.stdout).unwrap()["vkey"].as_str().unwrap().to_owned();
    let toml = std::fs::read_to_string(desk.path("kernel/kernel.toml")).unwrap().replace("approver = []", "");
    let approver = format!("{toml}\n[[approver]]\nrole = \"supervisor\"\nvkey = \"{vkey}\"\n");
    std::fs::write(desk.path("kernel/kernel.toml"), approver).unwrap();
    let served = Served::start(&desk, &[]);
    let mut client = served.connect();
    let run = client.open();
    let answer = |held: &Value, more: &[&str]| {
        let request = format!("kernel/approvals/{}.request", held["request"].as_str().unwrap());
        let shown = desk.run(&["--json", "approve", &request, "--show-only"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let shown = shown["shown"].as_str().unwrap().to_owned();
        let done = desk.run(&[&["approve", &request, "--key", "boss.key", "--shown", &shown], more].concat());
        assert!(done.status.success(), "{done:?}");
    };
    // Approved: it goes ahead with the bytes that the approver saw.
    let held = client.tool(&run, "pay", true);
    let needed = json!([{ "count": 1, "role": "supervisor" }]);
    assert_eq!((&held["is"], &held["approvals"]), (&json!("held"), &needed), "{held}");
    assert_eq!(held["rules"], json!(["pay"]));
    assert_eq!(kind(&client.ask(json!({ "op": "start", "handle": held["handle"] }))), "wrong_state");
    client.send(json!({ "op": "wait", "handle": held["handle"], "start": true }));
    answer(&held, &[]);
    let started = client.read();
    assert_eq!((&started["is"], &started["bytes"]), (&json!("started"), &json!("{\"id\": 1}")), "{started}");
    let finish = json!({ "op": "finish", "handle": held["handle"], "status": "ok", "result": "paid" });
    assert_eq!(client.ask(finish)["is"], "finished");
    // Refused.
    let held = client.tool(&run, "pay", true);
    answer(&held, &["--refuse"]);
    let refused = client.ask(json!({ "op": "wait", "handle": held["handle"] }));
    assert_eq!((&refused["is"], &refused["unapproved"]), (&json!("denied"), &json!(true)), "{refused}");
    // Cancelled while somebody waits, and before.
    let held = client.tool(&run, "pay", true);
    client.send(json!({ "op": "wait", "handle": held["handle"] }));
    client.send(json!({ "op": "cancel", "handle": held["handle"] }));
    let mut answers = [client.read()["is"].to_string(), client.read()["is"].to_string()];
    answers.sort();
    assert_eq!(answers, ["\"cancelled\"", "\"denied\""]);
    let held = client.tool(&run, "pay", true);
    assert_eq!(client.ask(json!({ "op": "cancel", "handle": held["handle"] }))["is"], "cancelled");
    assert_eq!(client.ask(json!({ "op": "close", "run": run }))["is"], "closed");
    served.stop();
    let expected = vec![Status::Cancelled, Status::Cancelled, Status::Cancelled, Status::Ok];
    assert_eq!(ends(&desk.check()[0]), (expected, Some(CloseReason::Done)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sub_agent_on_another_connection_opens_its_run_once() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &["--agents", "airline/*"]);
    let (mut parent, mut child) = (served.connect(), served.connect());
    let run = parent.open();
    let agent = json!({ "name": "airline/search", "task": "find a flight" });
    let started = parent.ask(json!({ "op": "propose", "run": run, "agent": agent, "start": true }));
    let token = started["child"].as_str().unwrap();
    let open = json!({ "op": "open", "agent": "airline/search", "parent": token });
    let opened = child.ask(open.clone());
    assert_eq!(opened["is"], "opened", "{opened}");
    assert_eq!(kind(&child.ask(open)), "no_such_handle");
    assert_eq!(kind(&child.ask(json!({ "op": "open", "agent": "bank/teller" }))), "agent_refused");
    assert_eq!(child.ask(json!({ "op": "close", "run": opened["run"] }))["is"], "closed");
    let finish = json!({ "op": "finish", "handle": started["handle"], "status": "ok", "result": "found" });
    assert_eq!(parent.ask(finish)["is"], "finished");
    // A token dies with its call.
    let again = parent.ask(json!({ "op": "propose", "run": run, "agent": { "name": "airline/search", "task": "" }, "start": true }));
    drop(parent);
    let open = json!({ "op": "open", "agent": "airline/search", "parent": again["child"] });
    eventually("the token is dead", || {
        let answer = child.ask(open.clone());
        answer["is"] == "error"
    })
    .await;
    served.stop();
    let runs = desk.check();
    assert!(runs.iter().any(|bodies| matches!(&bodies[0], Body::Open(open) if open.parent.is_some())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_more_than_the_limits() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &["--calls", "2", "--runs", "1", "--connections", "2"]);
    let (mut client, mut other) = (served.connect(), served.connect());
    let run = client.open();
    assert_eq!(other.ask(json!({ "op": "status" }))["limits"]["calls_max"], 2);
    assert_eq!(kind(&client.ask(json!({ "op": "open", "agent": "airline/gpt-4o" }))), "too_many");
    let first = client.tool(&run, "read", false);
    assert_eq!(client.tool(&run, "read", false)["is"], "permitted");
    assert_eq!(kind(&client.tool(&run, "read", false)), "too_many");
    assert_eq!(client.ask(json!({ "op": "cancel", "handle": first["handle"] }))["is"], "cancelled");
    assert_eq!(client.tool(&run, "read", false)["is"], "permitted");
    // A third connection is closed; when one goes there is room again.
    let mut third = served.connect();
    let mut line = String::new();
    assert_eq!(third.reader.read_line(&mut line).unwrap_or(0), 0);
    drop(other);
    eventually("room", || {
        let mut fourth = served.connect();
        let _ = fourth.writer.write_all(b"{\"id\":1,\"op\":\"status\"}\n");
        let mut line = String::new();
        fourth.reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0)
    })
    .await;
    served.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_agent_is_served_on_standard_input() {
    let desk = Desk::new().await;
    let mut command = desk.command(&["serve", "--dir", "kernel", "--bundle", "bundle", "--stdio"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut ask = |request: Value| -> Value {
        writeln!(input, "{request}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let run = ask(json!({ "id": "a", "op": "open", "agent": "airline/gpt-4o" }))["run"].clone();
    let tool = json!({ "name": "read", "id": "c", "args": "{}" });
    let started = ask(json!({ "id": "b", "op": "propose", "run": run, "tool": tool, "start": true }));
    assert_eq!((&started["id"], &started["is"]), (&json!("b"), &json!("started")));
    // The end of the input is the end of the client; what stands after the last newline is no request.
    write!(input, "{}", json!({ "id": "c", "op": "close", "run": run })).unwrap();
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(ends(&desk.check()[0]), (vec![Status::Unknown], Some(CloseReason::Abandoned)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_from_outside_reaches_the_client() {
    let desk = Desk::new().await;
    let served = Served::start(&desk, &[]);
    let mut client = served.connect();
    let run = client.open();
    let started = client.tool(&run, "read", true);
    let permitted = client.tool(&run, "read", false);
    let watch = json!({ "op": "watch", "run": run });
    client.send(watch.clone());
    assert_eq!(kind(&client.ask(watch.clone())), "wrong_state");
    assert_eq!(client.ask(json!({ "op": "status" }))["calls"], 2);
    let halt = desk.run(&["halt", &run, "--dir", "kernel", "--detail", "enough of it"]);
    assert!(halt.status.success(), "{halt:?}");
    let halted = client.read();
    assert_eq!((&halted["id"], &halted["is"]), (&json!(4), &json!("halted")), "{halted}");
    assert!(halted["detail"].as_str().unwrap().contains("enough of it"), "{halted}");
    // What was under way is still reported as it ended, and nothing new starts.
    assert_eq!(kind(&client.ask(json!({ "op": "start", "handle": permitted["handle"] }))), "not_dispatched");
    let finish = json!({ "op": "finish", "handle": started["handle"], "status": "unknown", "why": "halted" });
    assert_eq!(client.ask(finish)["status"], "unknown");
    // One that is halted already is told at once; one that is closed has no halt any more.
    assert_eq!(client.ask(watch)["is"], "halted");
    let other = client.open();
    client.send(json!({ "op": "watch", "run": other }));
    client.send(json!({ "op": "close", "run": other }));
    let mut answers = [client.read()["is"].to_string(), client.read()["is"].to_string()];
    answers.sort();
    assert_eq!(answers, ["\"closed\"", "\"error\""]);
    assert_eq!(kind(&client.ask(json!({ "op": "watch", "run": other }))), "no_such_run");
    drop(client);
    served.stop();
    let runs = desk.check();
    assert_eq!(ends(&runs[0]), (vec![Status::Cancelled, Status::Unknown], Some(CloseReason::Halted)));
}

/// The boundary to the agent: a client that runs as another user gets permits, and neither key nor store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_is_served_and_reaches_nothing_else() {
    let id = Command::new("id").arg("-u").output().unwrap();
    let setpriv = Command::new("setpriv").arg("--version").output();
    if id.stdout != b"0\n" || setpriv.is_err() {
        println!("skipped: only root can start a client as another user (and needs setpriv)");
        return;
    }
    let desk = Desk::new().await;
    // A folder that others may pass through, as /run is, and a copy of the client where they can read it.
    let open = |name: &str| {
        std::fs::set_permissions(desk.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open("");
    for name in ["sift_serve.py", "serve_client.py"] {
        let from = if name == "sift_serve.py" { "examples/serve" } else { "tests/kernel" };
        let from = format!("{}/{from}/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(from, desk.path(name)).unwrap();
        open(name);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let nobody: Vec<&str> =
        passwd.lines().find(|line| line.starts_with("nobody:")).unwrap().split(':').collect();
    let client = |served: &Served, part: &str| {
        let (user, group) = (format!("--reuid={}", nobody[2]), format!("--regid={}", nobody[3]));
        let kernel = desk.path("kernel");
        let mut command = Command::new("setpriv");
        // The system's own: one that is installed for this user is closed to others.
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.args([&user, &group, "--clear-groups", "--no-new-privs", "python3", "-I"]);
        command.args([&desk.path("serve_client.py"), &served.path]).arg(part);
        command.arg(kernel).arg(served.child.id().to_string());
        let output = command.output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // Without a group, it cannot even connect.
    let served = Served::start(&desk, &[]);
    assert_eq!(client(&served, "stranger").0, "cannot connect\n");
    // Where the file's mode is wrong, the kernel still knows who connects.
    std::fs::set_permissions(&served.path, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(client(&served, "stranger").0, "closed\n");
    served.stop();
    let served = Served::start(&desk, &["--group", nobody[3]]);
    assert_eq!(std::fs::metadata(&served.path).unwrap().permissions().mode() & 0o777, 0o660);
    let (out, error) = client(&served, "prisoner");
    assert!(out.ends_with("ok\n"), "{out}{error}");
    served.stop();
    assert_eq!(ends(&desk.check()[0]), (vec![Status::Ok], Some(CloseReason::Done)));
}
