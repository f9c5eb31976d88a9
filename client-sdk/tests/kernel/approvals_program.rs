//! `sift-kernel approvals` as its users run it, beside a kernel that serves.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};
use sift_spec::note::SignerKey;

use crate::harness::{auditor, boss, bundle_of, eventually, second_boss, wire_policy};
use crate::program::Desk;
use crate::serve::{Client, Served, signal};

/// A kernel that serves, with two supervisors and an auditor, who have key files.
pub(crate) struct Office {
    /// Ends before its folder is removed.
    _served: Served,
    pub(crate) desk: Desk,
    pub(crate) client: Client,
    run: String,
}

/// A held call.
pub(crate) struct Waits {
    pub(crate) name: String,
    pub(crate) handle: Value,
}

impl Office {
    pub(crate) async fn new() -> Self {
        let desk = Desk::new().await;
        let quick = r#"hold contains {"rule": "quick", "reason": "r", "role": "supervisor", "seconds": 2} if input.call.name == "quick""#;
        for (path, content) in bundle_of(&format!("{}{quick}\n", wire_policy()), "").files() {
            std::fs::write(desk.path("bundle").join(path), content).unwrap();
        }
        let mut config = std::fs::read_to_string(desk.path("kernel/kernel.toml")).unwrap();
        let people = [
            ("supervisor", "boss", boss()),
            ("supervisor", "second", second_boss()),
            ("auditor", "auditor", auditor()),
        ];
        for (role, file, key) in people {
            // As `keygen` says it.
            config += &format!("\n[[approver]]\n  role = \"{role}\"\n  vkey = \"{}\"\n", key.verifier());
            key_file(&desk, &format!("{file}.key"), &key);
        }
        std::fs::write(desk.path("kernel/kernel.toml"), config).unwrap();
        let served = Served::start(&desk, &[]);
        let mut client = served.connect();
        let run = client.open();
        Self { _served: served, desk, client, run }
    }

    /// Proposes a call that is held.
    pub(crate) fn hold(&mut self, tool: &str, args: &str) -> Waits {
        let tool = json!({ "name": tool, "id": "call_1", "args": args });
        let held = self.client.ask(json!({ "op": "propose", "run": self.run, "tool": tool }));
        assert_eq!(held["is"], "held", "{held}");
        Waits { name: format!("{}.{}", self.run, held["intent"]), handle: held["handle"].clone() }
    }

    /// Lets the kernel look for answers to a call; what it leads to comes to the client.
    pub(crate) fn await_answers(&mut self, waits: &Waits) {
        self.client.send(json!({ "op": "wait", "handle": waits.handle }));
    }

    pub(crate) fn approvals(&self, args: &[&str]) -> Output {
        self.desk.run(&[&["approvals", "--dir", "kernel"], args].concat())
    }

    fn watch(&self, json: &[&str]) -> Child {
        self.watch_into(json, Stdio::piped())
    }

    fn watch_into(&self, json: &[&str], stdout: impl Into<Stdio>) -> Child {
        let mut command = self.desk.command(&[json, &["approvals", "watch", "--dir", "kernel"]].concat());
        command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.desk.run(&[&["--json", "approvals", "--dir", "kernel"], args].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn shown(&self, waits: &Waits) -> String {
        self.json(&["show", &waits.name])["shown"].as_str().unwrap().to_owned()
    }

    /// Answers without a terminal.
    fn answer(&self, answer: &str, waits: &Waits, who: &str, role: &str) -> Output {
        let (key, shown) = (format!("{who}.key"), self.shown(waits));
        self.approvals(&[answer, &waits.name, "--key", &key, "--role", role, "--shown", &shown])
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.desk.path("kernel/approvals")).unwrap();
        files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

fn key_file(desk: &Desk, name: &str, key: &SignerKey) {
    std::fs::write(desk.path(name), key.to_secret_text().as_bytes()).unwrap();
    std::fs::set_permissions(desk.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// What a program said, if it ended as it should.
fn says(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = if code == 0 { &output.stdout } else { &output.stderr };
    String::from_utf8(text.clone()).unwrap()
}

/// What the client waits for is a denial, for want of approvals.
fn denied(office: &mut Office, why: &str) {
    let denied = office.client.read();
    assert_eq!((&denied["is"], &denied["unapproved"]), (&json!("denied"), &json!(true)), "{denied}");
    assert!(denied["reason"].as_str().unwrap().contains(why), "{denied}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvers_see_what_waits_and_a_refusal_ends_it() {
    let mut office = Office::new().await;
    assert_eq!(says(&office.approvals(&[]), 0), "Nothing waits for an approval.\n");
    let waits = office.hold("wire", "{\"to\":\"A\u{202e}B\u{200b}\"}");
    let listed = says(&office.approvals(&["list"]), 0);
    let line = format!("{}  use tool wire (id call_1)  by airline/gpt-4o, ", waits.name);
    assert!(listed.starts_with(&format!("{line}missing auditor, supervisor (2 people), ")), "{listed}");
    assert!(listed.contains(" s left\n"), "{listed}");
    // Hidden characters go by number, and nothing of them is left.
    let shown = says(&office.approvals(&["show", &waits.name]), 0);
    assert!(shown.contains("| {\"to\":\"A⟦U+202E⟧B⟦U+200B⟧\"}"), "{shown}");
    assert!(!shown.contains(['\u{202e}', '\u{200b}']));
    assert!(
        shown.contains("2 characters are not ASCII")
            && shown.contains(&format!("--shown {}\n", office.shown(&waits))),
        "{shown}"
    );

    office.await_answers(&waits);
    let role = says(&office.approvals(&["approve", &waits.name, "--key", "boss.key"]), 2);
    assert!(role.contains("--role") && role.contains("supervisor (2 people)"), "{role}");
    let done = says(&office.answer("approve", &waits, "boss", "supervisor"), 0);
    assert!(done.contains("Approval signed by boss@acme.example."), "{done}");
    eventually("it counts", || {
        says(&office.approvals(&[]), 0)
            .contains("approved by boss@acme.example as supervisor, missing auditor, supervisor, ")
    })
    .await;
    let row = office.json(&["list"])["waiting"][0].clone();
    assert_eq!(
        row["approved_by"],
        json!([{ "name": "boss@acme.example", "role": "supervisor", "listed": true }])
    );
    assert_eq!(row["missing"].as_array().unwrap().len(), 2, "{row}");
    assert!((1..=60_000).contains(&row["milliseconds_left"].as_u64().unwrap()), "{row}");
    // Whoever reads a kernel.toml without that key is told.
    let config = std::fs::read_to_string(office.desk.path("kernel/kernel.toml")).unwrap();
    let without = config.replace(&boss().verifier().to_string(), &second_boss().verifier().to_string());
    std::fs::write(office.desk.path("kernel/kernel.toml"), without).unwrap();
    assert!(says(&office.approvals(&[]), 0).contains("(NOT LISTED in kernel.toml)"));
    assert!(says(&office.approvals(&["show", &waits.name]), 0).contains("do not rely on them"));

    let done = says(&office.answer("refuse", &waits, "auditor", "auditor"), 0);
    assert!(done.contains("Refusal signed by auditor@acme.example."), "{done}");
    denied(&mut office, "an approver refused");
    assert_eq!(says(&office.approvals(&[]), 0), "Nothing waits for an approval.\n");
    let again = office.approvals(&["approve", &waits.name, "--key", "boss.key", "--role", "supervisor"]);
    assert!(says(&again, 2).contains("no call that waits has"), "{again:?}");
    assert_eq!(office.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_hears_of_a_request_when_it_comes_and_goes() {
    let mut office = Office::new().await;
    std::fs::write(office.desk.path("kernel/approvals/x.request"), "nonsense").unwrap();
    let (mut text, mut json) = (office.watch(&[]), office.watch(&["--json"]));
    let mut text_lines = BufReader::new(text.stdout.take().unwrap()).lines().map(Result::unwrap);
    let json_lines = BufReader::new(json.stdout.take().unwrap()).lines();
    let mut json_lines = json_lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let waits = office.hold("pay", "{\"id\": 1}");
    let line = text_lines.next().unwrap();
    assert!(line.starts_with(&format!("waits     {}  use tool pay", waits.name)), "{line}");
    let event = json_lines.next().unwrap();
    assert_eq!((&event["event"], &event["name"]), (&json!("waits"), &json!(waits.name)));
    // Nobody reads what this one says. It starts while there is something to say: it looks now and then, and
    // would say nothing of what came and went in between.
    let (reader, writer) = std::io::pipe().unwrap();
    // Before it starts, or its first words would find room.
    drop(reader);
    let unread = office.watch_into(&[], writer).wait_with_output().unwrap();
    assert_eq!(unread.status.code(), Some(0), "{unread:?}");
    office.await_answers(&waits);
    says(&office.answer("approve", &waits, "boss", "supervisor"), 0);
    assert_eq!(office.client.read()["is"], "permitted");
    assert!(text_lines.next().unwrap().starts_with(&format!("gone      {}", waits.name)));
    assert_eq!(json_lines.next().unwrap()["event"], "gone");
    // Not SIGINT: whoever is started in the background by a shell may have inherited that it is ignored.
    for mut child in [text, json] {
        assert!(child.try_wait().unwrap().is_none());
        signal("-TERM", child.id());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.signal(), Some(15));
        // It looked several times, and said once what is no request.
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(said.matches("passed over: ").count(), 1, "{said}");
        assert!(said.contains("x.request: not a request"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_in_time_and_by_its_own_name() {
    let mut office = Office::new().await;
    let waits = office.hold("pay", "{\"id\": 1}");
    // Whatever lies in the folder beside it.
    let at = |name: &str| office.desk.path("kernel/approvals").join(name);
    let genuine = at(&format!("{}.request", waits.name));
    let text = std::fs::read_to_string(&genuine).unwrap();
    std::fs::write(at("empty.request"), "").unwrap();
    std::fs::write(at("bytes.request"), [0xff, 0xfe, 0]).unwrap();
    // The message names the field.
    std::fs::write(at("field.request"), text.replacen("\"agent\"", "\"\\u001b[2K\\u202e\"", 1)).unwrap();
    std::fs::write(at("lie.request"), text.replacen("use tool pay", "use tool dry", 1)).unwrap();
    std::fs::copy(&genuine, at("01\u{1b}[2K.request")).unwrap();
    std::fs::create_dir(at("dir.request")).unwrap();
    std::os::unix::fs::symlink(&genuine, at("link.request")).unwrap();
    let output = office.approvals(&["list"]);
    assert_eq!(says(&output, 0).matches("use tool pay").count(), 1, "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("passed over: ").count(), 7, "{said}");
    assert!(!said.contains(['\u{1b}', '\u{202e}']) && said.contains("01⟦U+001B⟧[2K.request"), "{said}");
    assert!(said.contains("unknown field `⟦U+001B⟧[2K⟦U+202E⟧`"), "{said}");
    assert!(
        said.contains("do not approve it") && said.contains(&format!("holds the call {}", waits.name)),
        "{said}"
    );

    let quick = office.hold("quick", "{}");
    let shown = office.shown(&quick);
    eventually("its time is up", || says(&office.approvals(&[]), 0).contains("no time left")).await;
    for answer in ["approve", "refuse"] {
        let late = office.approvals(&[answer, &quick.name, "--key", "boss.key", "--shown", &shown]);
        let why = says(&late, 1);
        assert!(why.contains("too late: the deadline was 20") && why.contains("nothing was signed"), "{why}");
    }
    office.await_answers(&quick);
    denied(&mut office, "not all approvals came before the deadline");

    // The kernel does not look: twice and by others it can be said, and counts once.
    let bad = office.approvals(&["approve", &waits.name, "--key", "boss.key", "--shown", &shown]);
    assert!(says(&bad, 1).contains("digest of something else"), "{bad:?}");
    says(&office.answer("approve", &waits, "boss", "supervisor"), 0);
    says(&office.answer("approve", &waits, "boss", "supervisor"), 0);
    let full = says(&office.answer("refuse", &waits, "second", "supervisor"), 2);
    assert!(full.contains("is it running?"), "{full}");
    assert_eq!(office.files().iter().filter(|name| name.ends_with(".answer")).count(), 2);
    office.await_answers(&waits);
    assert_eq!(office.client.read()["is"], "permitted");
    // The first counted; the second is kept, marked as one that does not.
    let left: Vec<_> = office.files().into_iter().filter(|name| name.starts_with(&waits.name)).collect();
    assert_eq!(left, [format!("{}.2.rejected", waits.name)]);
    let gone = format!("kernel/approvals/{}.request", waits.name);
    let gone = office.desk.run(&["approve", &gone, "--key", "boss.key"]);
    assert!(says(&gone, 2).contains("No such file"), "{gone:?}");
    let nowhere = office.desk.run(&["approvals", "--dir", "bundle"]);
    assert!(says(&nowhere, 2).contains("give the directory of a kernel that has run"), "{nowhere:?}");
}
