//! Two kernels in two processes, with directories and keys of their own: what one delegates, the other uses.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sift_client::config::{CONFIG_FILE, KEY_FILE};
use sift_spec::record::{Body, Outcome, Status};

use crate::program::Desk;
use crate::serve::{Client, Served, kind};

/// A kernel as a process, with its key's name and vkey.
struct Office {
    desk: Desk,
    name: String,
    vkey: String,
}

impl Office {
    async fn new(name: &str) -> Self {
        let desk = Desk::named(name).await;
        let key = sift_client::signer::read_key(&desk.path("kernel").join(KEY_FILE)).unwrap();
        Self { desk, name: name.to_owned(), vkey: key.verifier().to_string() }
    }

    fn knows(&self, other: &Self) {
        let path = self.desk.path("kernel").join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let entry = format!("\n[[kernel]]\nvkey = \"{}\"\nagents = [\"airline/*\"]\n", other.vkey);
        std::fs::write(&path, text + &entry).unwrap();
    }
}

async fn offices() -> (Office, Office) {
    let (above, below) = (Office::new("acme.example/above").await, Office::new("acme.example/below").await);
    above.knows(&below);
    below.knows(&above);
    (above, below)
}

/// Proposes a sub-agent with `calls` tool calls at another kernel; its handle, and the note.
fn delegate(client: &mut Client, run: &str, to: &Office, calls: u64) -> (Value, String) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let budget = json!({ "tool_calls": calls });
    let delegate = json!({ "kernel": to.name, "budget": budget, "deadline": now + 600_000 });
    let agent = json!({ "name": "airline/helper", "task": "help", "delegate": delegate });
    let started = client.ask(json!({ "op": "propose", "run": run, "agent": agent, "start": true }));
    assert_eq!(started["is"], "started", "{started}");
    assert!(started.get("child").is_none(), "nobody opens it here");
    let handle = started["handle"].clone();
    let delegated = client.ask(json!({ "op": "delegate", "handle": handle }));
    assert_eq!(delegated["is"], "delegated", "{delegated}");
    assert_eq!(kind(&client.ask(json!({ "op": "delegate", "handle": handle }))), "wrong_state");
    (handle, delegated["note"].as_str().unwrap().to_owned())
}

fn open(note: &str) -> Value {
    json!({ "op": "open", "agent": "airline/helper", "delegation": note })
}

fn call(client: &mut Client, run: &str) -> bool {
    let started = client.tool(run, "read", true);
    if started["is"] == "denied" {
        return false;
    }
    let finish = json!({ "op": "finish", "handle": started["handle"], "status": "ok", "result": "{}" });
    assert_eq!(client.ask(finish)["is"], "finished");
    true
}

/// Calls until the first that is denied.
fn calls(client: &mut Client, run: &str) -> u64 {
    (0..100).take_while(|_| call(client, run)).count() as u64
}

fn outcomes(desk: &Desk) -> Vec<Outcome> {
    let bodies = desk.check().into_iter().flatten();
    bodies.filter_map(|body| if let Body::Outcome(outcome) = body { Some(*outcome) } else { None }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_delegates_another_uses_and_not_more() {
    let (above, below) = offices().await;
    let (first, second) = (Served::start(&above.desk, &[]), Served::start(&below.desk, &[]));
    let (mut parent, mut child) = (first.connect(), second.connect());
    let run = parent.open();
    let (handle, note) = delegate(&mut parent, &run, &below, 7);
    let forged = note.replace("\"tool_calls\":7", "\"tool_calls\":9");
    assert_eq!(kind(&child.ask(open(&forged))), "refused");
    assert_eq!(kind(&parent.ask(open(&note))), "refused", "it is not for the kernel that signed it");
    let opened = child.ask(open(&note));
    assert_eq!(opened["is"], "opened", "{opened}");
    assert_eq!(kind(&child.ask(open(&note))), "refused", "once");
    let below_run = opened["run"].as_str().unwrap().to_owned();
    assert!((0..3).all(|_| call(&mut child, &below_run)));
    // 50 is the limit of the run above, of which 7 are held.
    assert_eq!(calls(&mut parent, &run), 43);
    let closed = child.ask(json!({ "op": "close", "run": below_run }));
    let close = closed["close"].as_str().unwrap();
    let finish =
        json!({ "op": "finish", "handle": handle, "status": "ok", "result": "helped", "close": close });
    let finished = parent.ask(finish);
    assert_eq!(finished["settled"], json!({ "agents": 1, "tool_calls": 3 }), "{finished}");
    assert_eq!(calls(&mut parent, &run), 4);
    let closed = parent.ask(json!({ "op": "close", "run": run }));
    assert_eq!(closed["settled"]["tool_calls"], 50);
    assert!(closed.get("close").is_none(), "nobody delegated it");
    first.stop();
    second.stop();
    assert!(outcomes(&above.desk).iter().any(|outcome| outcome.close.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_is_killed_before_or_after_it_opens_costs_what_was_held() {
    let (above, below) = offices().await;
    let first = Served::start(&above.desk, &[]);
    let mut parent = first.connect();
    let run = parent.open();
    for opens in [false, true] {
        let (handle, note) = delegate(&mut parent, &run, &below, 5);
        let second = Served::start(&below.desk, &[]);
        let mut child = second.connect();
        let mut used = 0;
        if opens {
            let opened = child.ask(open(&note));
            let run = opened["run"].as_str().unwrap();
            assert!((0..2).all(|_| call(&mut child, run)));
            assert_eq!(child.tool(run, "read", true)["is"], "started", "under way when it is killed");
            used = 3;
        }
        second.signal("-KILL");
        drop(second);
        // Nobody brings a close: the whole hold counts.
        let finish = json!({ "op": "finish", "handle": handle, "status": "unknown", "why": "it died" });
        let finished = parent.ask(finish);
        assert_eq!(finished["settled"], json!({ "agents": 1, "tool_calls": 5 }), "{finished}");
        // The kernel that comes back knows whether the note was used: once, killed or not.
        let second = Served::start(&below.desk, &[]);
        let again = second.connect().ask(open(&note));
        assert_eq!(again["is"] == "opened", !opens, "{again}");
        second.stop();
        let calls = outcomes(&below.desk);
        assert_eq!(calls.len(), used);
        assert_eq!(calls.iter().filter(|call| call.status == Status::Unknown).count(), usize::from(opens));
    }
    // 50 less two holds of 5, whatever came of them.
    assert_eq!(calls(&mut parent, &run), 40);
    first.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_is_killed_while_it_delegates_keeps_the_hold_as_unknown() {
    let (above, below) = offices().await;
    let first = Served::start(&above.desk, &[]);
    let mut parent = first.connect();
    let run = parent.open();
    let (_, note) = delegate(&mut parent, &run, &below, 5);
    first.signal("-KILL");
    drop(first);
    // What it signed still counts: it is held, and what is held is settled.
    let second = Served::start(&below.desk, &[]);
    let mut child = second.connect();
    let opened = child.ask(open(&note));
    let below_run = opened["run"].as_str().unwrap().to_owned();
    assert_eq!(calls(&mut child, &below_run), 5);
    second.stop();
    Served::start(&above.desk, &[]).stop();
    let ends = outcomes(&above.desk);
    let [end] = ends.as_slice() else { panic!("{ends:?}") };
    let settled = serde_json::to_value(end.settled).unwrap();
    assert_eq!((end.status, settled), (Status::Unknown, json!({ "agents": 1, "tool_calls": 5 })));
}
