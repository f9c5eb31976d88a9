//! The field's own witnesses, unchanged, cosigning a running log: `litewitness` of Torchwood and `omniwitness` of
//! transparency.dev, each with its store on disk, killed and started again.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use sift_server::witness::WitnessConfig;
use sift_spec::api::{MEDIA_NOTE, ProblemKind};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::note::{KeyType, NOTE_BYTES_MAX, Note, VerifierKey};
use sift_spec::trust::TrustPolicy;
use sift_tests::{TestLog, check_log, new_key, program};

const LITEWITNESS: &str = "filippo.io/torchwood/cmd/litewitness@v0.9.0";
const OMNIWITNESS: &str = "github.com/transparency-dev/witness/cmd/omniwitness";
const OMNIWITNESS_VERSION: &str = "v0.0.0-20260720115447-2e1c6971d19e";

/// How long a program may take to start, or a condition to come true.
const PATIENCE: Duration = Duration::from_secs(90);

/// A witness's program with its folder, killed when dropped.
struct Program {
    command: Vec<String>,
    address: String,
    child: Child,
    agent: Option<Child>,
}

impl Program {
    /// Starts it and waits until its port is open.
    fn start(command: Vec<String>, address: String, agent: Option<Child>) -> (Self, Receiver<String>) {
        let (child, lines) = spawn(&command, &address);
        (Self { command, address, child, agent }, lines)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = spawn(&self.command, &self.address).0;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        for child in [Some(&mut self.child), self.agent.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command until its port is open; gives what it prints.
fn spawn(command: &[String], address: &str) -> (Child, Receiver<String>) {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", command[0]));
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(send.send(line))));
    let started = std::time::Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        let ended = child.try_wait().unwrap();
        let printed: Vec<String> = if ended.is_some() { lines.iter().collect() } else { Vec::new() };
        assert!(ended.is_none(), "{} ended: {}", command[0], printed.join("\n"));
        assert!(started.elapsed() < PATIENCE, "{} did not open {address}", command[0]);
        std::thread::sleep(Duration::from_millis(50));
    }
    (child, lines)
}

/// An address that is free now. The programs take no port 0.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &said
}

/// Installs both programs; `None` where there is no Go, no ssh-agent or no Python to run them with.
fn install() -> Option<PathBuf> {
    for tool in [["go", "version"], ["ssh-keygen", "-?"], ["ssh-agent", "-?"], ["python3", "--version"]] {
        if Command::new(tool[0]).arg(tool[1]).output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "{} is missing", tool[0]);
            println!("skipped: there is no {} for {LITEWITNESS} and {OMNIWITNESS}", tool[0]);
            return None;
        }
    }
    let bin = std::env::temp_dir().join("sift-tests-go");
    run(Command::new("go").args(["install", LITEWITNESS]).env("GOBIN", &bin));
    let version = format!("{OMNIWITNESS}@{OMNIWITNESS_VERSION}");
    let installed = Command::new("go").args(["install", &version]).env("GOBIN", &bin).output().unwrap();
    if !installed.status.success() {
        let said = String::from_utf8_lossy(&installed.stderr);
        println!("go install {version}: {said}");
        assert!(said.contains("transparency-dev/merkle"), "{said}");
        with_released_merkle(&bin);
    }
    Some(bin)
}

/// Builds omniwitness with the last release of its Merkle library, where the proxy has not got the commit that it names.
/// That release has all that `add-checkpoint` uses; the one function that it lacks serves `sign-subtree`, which a log
/// does not ask for, and refuses here.
fn with_released_merkle(bin: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let release = run(Command::new("go").args([
        "mod",
        "download",
        "-json",
        "github.com/transparency-dev/merkle@v0.0.2",
    ]));
    let release: serde_json::Value = serde_json::from_str(&release).unwrap();
    let merkle = dir.path().join("merkle");
    run(Command::new("cp").args(["-r", release["Dir"].as_str().unwrap()]).arg(&merkle));
    run(Command::new("chmod").args(["-R", "u+w"]).arg(&merkle));
    std::fs::write(
        merkle.join("proof/subtree.go"),
        "package proof\n\nimport (\n\t\"errors\"\n\n\t\"github.com/transparency-dev/merkle\"\n)\n\n\
         func VerifySubtreeConsistency(merkle.LogHasher, uint64, uint64, uint64, [][]byte, []byte, []byte) error {\n\
         \treturn errors.New(\"not in this build\")\n}\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("go.mod"),
        format!(
            "module sift.test/omniwitness\n\ngo 1.25.0\n\nrequire github.com/transparency-dev/witness {OMNIWITNESS_VERSION}\n\n\
             replace github.com/transparency-dev/merkle => ./merkle\n"
        ),
    )
    .unwrap();
    let mut install = Command::new("go");
    run(install.args(["install", "-mod=mod", OMNIWITNESS]).current_dir(&dir).env("GOBIN", bin));
}

/// A litewitness that knows the log. Its key lies in an ssh-agent of its own.
fn litewitness(bin: &Path, dir: &Path, log: &VerifierKey) -> (Program, VerifierKey) {
    std::fs::create_dir_all(dir).unwrap();
    let key = dir.join("key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let print = run(Command::new("ssh-keygen").arg("-lf").arg(&key));
    let print = print.split_whitespace().nth(1).unwrap().to_owned();
    let socket = dir.join("agent");
    let agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let started = std::time::Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < PATIENCE, "no ssh-agent");
        std::thread::sleep(Duration::from_millis(20));
    }
    run(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket));
    let (address, db) = (free_address(), dir.join("litewitness.db"));
    let text = |path: &Path| path.display().to_string();
    let command = vec![
        text(&bin.join("litewitness")),
        format!("-db={}", text(&db)),
        format!("-ssh-agent={}", text(&socket)),
        "-name=lite.example/witness".to_owned(),
        format!("-key={print}"),
        format!("-listen={address}"),
    ];
    let (program, lines) = Program::start(command, address, Some(agent));
    let mut vkey = None;
    while vkey.is_none() {
        let line = lines.recv_timeout(PATIENCE).expect("a line with the witness's key");
        vkey = line.split_once("vkey=").map(|(_, vkey)| vkey.trim().parse().expect("a vkey"));
    }
    let vkey = vkey.expect("a vkey");
    // The rows that `witnessctl add-log` and `add-key` write. Building that program takes libraries of another log.
    let insert = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        db.execute('INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)', (sys.argv[2], sys.argv[4]))\n\
        db.execute('INSERT INTO key (origin, key) VALUES (?, ?)', (sys.argv[2], sys.argv[3]))\n\
        db.commit()\n";
    let empty = sift_spec::hash::EMPTY_ROOT.to_string();
    let (origin, log) = (log.name().to_string(), log.to_string());
    run(Command::new("python3").args(["-c", insert, &text(&db), &origin, &log, &empty]));
    (program, vkey)
}

/// An omniwitness that knows the log.
fn omniwitness(bin: &Path, dir: &Path, log: &VerifierKey) -> (Program, VerifierKey) {
    std::fs::create_dir_all(dir).unwrap();
    let key = new_key("omni.example/witness");
    std::fs::write(dir.join("key"), key.to_secret_text().as_str()).unwrap();
    let logs = format!(
        "Logs:\n  - Origin: {}\n    URL: http://127.0.0.1:1/\n    PublicKey: {log}\n    Feeder: none\n",
        log.name()
    );
    std::fs::write(dir.join("logs.yaml"), logs).unwrap();
    let (address, path) = (free_address(), |name: &str| dir.join(name).display().to_string());
    let command = vec![
        bin.join("omniwitness").display().to_string(),
        "-logtostderr".to_owned(),
        format!("-listen={address}"),
        "-metrics_listen=".to_owned(),
        format!("-private_key_path={}", path("key")),
        format!("-db_file={}", path("omniwitness.db")),
        format!("-additional_logs={}", path("logs.yaml")),
    ];
    let (program, _) = Program::start(command, address, None);
    let public = key.verifier().public();
    let vkey = VerifierKey::new(key.verifier().name().clone(), KeyType::Cosignature, &public).unwrap();
    (program, vkey)
}

fn size_of(note: &[u8]) -> u64 {
    let note = Note::parse(note, NOTE_BYTES_MAX).unwrap();
    Checkpoint::parse(note.text).unwrap().head.size.get()
}

#[tokio::test(flavor = "multi_thread")]
async fn litewitness_and_omniwitness_cosign_a_running_log() {
    let Some(bin) = tokio::task::spawn_blocking(install).await.unwrap() else { return };
    let mut log = TestLog::start().await;
    log.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut lite, lite_key) = litewitness(&bin, &folder.path().join("lite"), log.key());
    let (mut omni, omni_key) = omniwitness(&bin, &folder.path().join("omni"), log.key());
    println!("{lite_key}\n{omni_key}");
    let policy = log.dir().join("witnessed.policy");
    let text = format!(
        "log {}\n#sift:operator {}\nwitness lite {lite_key} http://{}\nwitness omni {omni_key} http://{}/\n\
         group both all lite omni\nquorum both\n",
        log.key(),
        log.operator_key(),
        lite.address,
        omni.address,
    );
    std::fs::write(&policy, &text).unwrap();
    let trust = TrustPolicy::parse(&text).unwrap();
    let mut section = WitnessConfig::new(policy.clone());
    (section.interval_ms, section.wait_seconds) = (0, 2);
    log.config_mut().witnesses = Some(section);
    log.set_trust(trust.clone());
    log.restart().await.unwrap();
    let writer = log.writer("test/kernel").await;

    // 1. A receipt that both cosigned, verified by the verifier with the policy.
    let entry = writer.entries(&writer.run(0)).remove(0);
    let answer = log.http.post("/v1/records?wait=witnessed", MEDIA_NOTE, entry.clone()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    for (name, bytes) in [("entry", &entry), ("receipt", &answer.body)] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let mut verify = Command::new(program("sift-verify"));
    verify.arg("proof").arg("--trust").arg(&policy);
    verify.arg("--entry").arg(folder.path().join("entry"));
    verify.arg("--receipt").arg(folder.path().join("receipt"));
    println!("{}", run(&mut verify));

    // 2. Either of them gone: nothing new is published, everything is written. Back again: it is published.
    for name in ["lite", "omni"] {
        let witness = if name == "lite" { &mut lite } else { &mut omni };
        let before = log.http.get("/checkpoint").await.unwrap().body;
        witness.kill();
        for entry in writer.entries(&writer.run(150)) {
            assert_eq!(log.http.add(&entry).await.unwrap().status, 200, "without {name}");
        }
        let entry = writer.entries(&writer.run(0)).remove(0);
        let answer = log.http.post("/v1/records?wait=witnessed", MEDIA_NOTE, entry.clone()).await.unwrap();
        let problem = answer.problem();
        assert_eq!(problem.kind, ProblemKind::NotWitnessed, "without {name}");
        assert_eq!(log.http.get("/checkpoint").await.unwrap().body, before, "without {name}");
        witness.restart();
        let covered = async {
            loop {
                let answer =
                    log.http.post("/v1/records?wait=witnessed", MEDIA_NOTE, entry.clone()).await.unwrap();
                if answer.status == 200 {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, covered)
            .await
            .unwrap_or_else(|_| panic!("{name} is back, and nothing comes"));
        let note = log.http.get("/checkpoint").await.unwrap().body;
        println!("{name} was gone: published {} and then {}", size_of(&before), size_of(&note));
        assert!(problem.index.is_some_and(|index| size_of(&note) > index.get()));
    }
    let (checkpoint, _) = check_log(&log.http, &trust).await;
    assert!(checkpoint.head.size.get() > 600, "three tiles and both of their edges");

    // 3. An older copy of the store does not start: they remember what this one forgot.
    log.stop().await;
    let old = tempfile::tempdir().unwrap();
    copy(log.data(), old.path());
    log.restart().await.unwrap();
    let entry = writer.entries(&writer.run(0)).remove(0);
    let answer = log.http.post("/v1/records?wait=witnessed", MEDIA_NOTE, entry).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    log.stop().await;
    std::fs::remove_dir_all(log.data()).unwrap();
    copy(old.path(), log.data());
    std::fs::remove_file(log.dir().join("data.head")).unwrap();
    let refused = log.restart().await.unwrap_err().to_string();
    println!("{refused}");
    assert!(refused.contains("has cosigned a tree of"), "{refused}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}
