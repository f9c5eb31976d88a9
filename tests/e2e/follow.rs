//! A regulator at a real log: `sift-verify follow` hears its feed, cosigns for it, mirrors it, and is not fooled by it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sift_server::witness::WitnessConfig;
use sift_spec::api::{MEDIA_NOTE, ProblemKind};
use sift_spec::note::VerifierKey;
use sift_spec::trust::TrustPolicy;
use sift_tests::{Follower, Http, TestLog, Writer, check_log, go_build, go_install, new_key, program};

const ONESHOT: &str = "github.com/transparency-dev/tessera/cmd/examples/posix-oneshot@v1.0.4";
const FSCK: &str = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4";

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the verifier on a mirror, with nobody to ask.
fn audit(trust: &Path, mirror: &Path) -> (i32, String) {
    let mut command = Command::new(program("sift-verify"));
    let output = command.arg("log").arg("--trust").arg(trust).arg(mirror).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A follower of a log, in a folder of its own.
struct Regulator {
    folder: tempfile::TempDir,
    key: VerifierKey,
    /// Where it listened the first time, and does ever after.
    listen: Option<String>,
}

impl Regulator {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Follower::witness_key("regulator.example/witness", &folder.path().join("witness.key"));
        Self { folder, key, listen: None }
    }

    fn start(&mut self, trust: &Path, url: Option<&str>) -> Follower {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (trust, dir, key) = (trust.display().to_string(), path("dir"), path("witness.key"));
        let listen = self.listen.clone().unwrap_or("127.0.0.1:0".to_owned());
        let mut args = vec!["--trust", &trust, "--dir", &dir, "--witness-key", &key, "--listen", &listen];
        args.extend(url.iter().flat_map(|url| ["--log", url, "--mirror", "--every", "1", "--patience", "5"]));
        let follower = Follower::start(Follower::command(), &args).unwrap();
        self.listen.clone_from(&follower.listen);
        follower
    }
}

/// Trust file and configuration of a log with this witness as its quorum.
fn ask_for_cosignatures(log: &mut TestLog, regulator: &Regulator) -> std::path::PathBuf {
    let (key, address) = (&regulator.key, regulator.listen.as_ref().unwrap());
    let text = format!(
        "log {}\n#sift:operator {}\nwitness regulator {key} http://{address}/\nquorum regulator\n",
        log.key(),
        log.operator_key()
    );
    let path = log.dir().join("witnessed.policy");
    std::fs::write(&path, &text).unwrap();
    let mut section = WitnessConfig::new(path.clone());
    (section.interval_ms, section.wait_seconds) = (0, 2);
    log.config_mut().witnesses = Some(section);
    log.set_trust(TrustPolicy::parse(&text).unwrap());
    path
}

async fn add_witnessed(http: &Http, entry: &[u8]) -> sift_tests::Raw {
    http.post("/v1/records?wait=witnessed", MEDIA_NOTE, entry.to_vec()).await.unwrap()
}

/// Adds a run and waits until it is cosigned and published; gives the size of the tree, at least.
async fn grow(http: &Http, writer: &Writer, calls: u64) -> u64 {
    let entries = writer.entries(&writer.run(calls));
    http.add_all(&entries).await.unwrap();
    let covered = async {
        loop {
            let answer = add_witnessed(http, entries.last().unwrap()).await;
            if answer.status == 200 {
                return sift_spec::receipt::Receipt::parse(&answer.body).unwrap().index.get() + 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE, covered).await.expect("cosigned")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regulator_follows_cosigns_and_mirrors_a_running_log() {
    let mut log = TestLog::start().await;
    log.stop().await;
    let mut regulator = Regulator::new();
    // Once, to learn the address that the trust file names.
    let plain = log.dir().join(sift_server::init::TRUST_FILE);
    let first = regulator.start(&plain, Some("http://127.0.0.1:1"));
    let trust_file = ask_for_cosignatures(&mut log, &regulator);
    log.restart().await.unwrap();
    assert_eq!(first.stop(), 0);
    let url = log.http.url().to_owned();
    let mut follower = regulator.start(&trust_file, Some(&url));
    let writer = log.writer("test/kernel").await;
    let mirror = regulator.folder.path().join("dir/mirror");

    // 1. It cosigns before the log publishes, hears what is published, and copies it.
    let size = grow(&log.http, &writer, 100).await;
    let head = follower.until("head", size);
    println!("{head}");
    assert_eq!((head["believed"].as_bool(), head["witnesses"][0].as_str()), (Some(true), Some("regulator")));
    follower.until("mirrored", size);
    let (code, said) = audit(&trust_file, &mirror);
    assert_eq!(code, 0, "{said}");

    // 2. Killed, nothing new is published and all is written; back, it goes on where it was.
    for round in 0..3_u64 {
        follower.kill();
        let entry = writer.entries(&writer.run(0)).remove(0);
        assert_eq!(add_witnessed(&log.http, &entry).await.problem().kind, ProblemKind::NotWitnessed);
        follower = regulator.start(&trust_file, Some(&url));
        let size = grow(&log.http, &writer, 100 + round).await;
        follower.until("head", size);
        follower.until("mirrored", size);
    }
    let (checkpoint, entries) = check_log(&log.http, &log.trust()).await;
    let (code, said) = audit(&trust_file, &mirror);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("{} entries hashed again", entries.len())), "{said}");
    assert!(checkpoint.head.size.get() > 800);

    // 3. The log's own copy from before is refused by the log itself, on this witness's word.
    log.stop().await;
    let old = tempfile::tempdir().unwrap();
    copy(log.data(), old.path());
    log.restart().await.unwrap();
    grow(&log.http, &writer, 1).await;
    log.stop().await;
    std::fs::remove_dir_all(log.data()).unwrap();
    copy(old.path(), log.data());
    std::fs::remove_file(log.dir().join("data.head")).unwrap();
    let refused = log.restart().await.unwrap_err().to_string();
    println!("{refused}");
    assert!(refused.contains("has cosigned a tree of"), "{refused}");
    assert_eq!(follower.stop(), 0);
}

/// Two copies of one log, with one key: both sign what the other does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_shows_two_histories_is_caught_and_gets_no_more_cosignatures() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.http.add_all(&writer.entries(&writer.run(20))).await.unwrap();
    log.stop().await;
    let copied = tempfile::tempdir().unwrap();
    copy(log.data(), copied.path());
    log.restart().await.unwrap();
    let mut regulator = Regulator::new();
    let plain = log.dir().join(sift_server::init::TRUST_FILE);
    log.http.add_all(&writer.entries(&writer.run(30))).await.unwrap();
    let url = log.http.url().to_owned();
    let follower = regulator.start(&plain, Some(&url));
    let size = 2 + 42 + 62;
    follower.until("head", size);
    follower.until("mirrored", size);
    assert_eq!(follower.stop(), 0);
    log.stop().await;
    // The other copy goes on in another way; its operator has deleted what would have warned it.
    std::fs::remove_dir_all(log.data()).unwrap();
    copy(copied.path(), log.data());
    let _ = std::fs::remove_file(log.dir().join("data.head"));
    log.restart().await.unwrap();
    log.http.add_all(&writer.entries(&writer.run(50))).await.unwrap();
    let url = log.http.url().to_owned();
    let follower = regulator.start(&plain, Some(&url));
    let found = follower.wait(|told| told["code"] == "heads-inconsistent").expect("a finding");
    println!("{found}");
    // Anybody can see it, with nothing but the trust file.
    let evidence = Path::new(found["evidence"].as_str().unwrap()).to_owned();
    let mut verify = Command::new(program("sift-verify"));
    verify.current_dir(&evidence).arg("consistency").arg("--trust").arg(&plain);
    let output = verify.args(["ours.checkpoint", "theirs.checkpoint", "--log", "."]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("heads-inconsistent"), "{said}");
    // As its witness it signs nothing of it any more, and the log that asks stops.
    log.stop().await;
    ask_for_cosignatures(&mut log, &regulator);
    let refused = log.restart().await.expect_err("a witness that refuses").to_string();
    println!("{refused}");
    assert!(refused.contains("cosigned a tree of"), "{refused}");
    // The mirror is still the history that was seen first.
    let (code, said) = audit(&plain, &regulator.folder.path().join("dir/mirror"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("{size} entries hashed again")), "{said}");
    assert_eq!(follower.stop(), 1);
}

/// Go's own code for trees and notes, and Torchwood's for cosignatures, find a witness in it.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_find_a_witness_in_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/strangers/witness");
    let Some(stranger) = tokio::task::spawn_blocking(move || go_build(&source)).await.unwrap() else {
        return;
    };
    let (mut regulator, log) = (Regulator::new(), new_key("stranger.example/log"));
    let trust = regulator.folder.path().join("trust.txt");
    std::fs::write(&trust, format!("log {}\nquorum none\n", log.verifier())).unwrap();
    let follower = regulator.start(&trust, None);
    let url = format!("http://{}", regulator.listen.as_ref().unwrap());
    let run = |key: &VerifierKey| {
        let mut command = Command::new(&stranger);
        command.args(["-url", &url, "-witness", &key.to_string(), "-log", &log.to_secret_text()]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said + &String::from_utf8_lossy(&output.stderr))
    };
    let (fine, said) = run(&regulator.key);
    println!("{said}");
    assert!(fine && said.lines().count() == 19, "{said}");
    assert_eq!(follower.stop(), 0);
    // And they do find what is wrong: another witness's key.
    std::fs::remove_dir_all(regulator.folder.path().join("dir")).unwrap();
    let follower = regulator.start(&trust, None);
    let other =
        Follower::witness_key("regulator.example/witness", &regulator.folder.path().join("other.key"));
    let (fine, said) = run(&other);
    assert!(!fine && said.contains("the first checkpoint"), "{said}");
    assert_eq!(follower.stop(), 0);
}

/// A log that somebody else's program wrote is followed and mirrored, and their checker finds the mirror to be their log.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_log_is_followed_and_their_checker_accepts_the_mirror() {
    let programs = tokio::task::spawn_blocking(|| Some((go_install(ONESHOT)?, go_install(FSCK)?)));
    let Some((oneshot, fsck)) = programs.await.unwrap() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = new_key("stranger.example/log");
    std::fs::write(path("key"), key.to_secret_text().as_str()).unwrap();
    std::fs::write(path("vkey"), key.verifier().to_string()).unwrap();
    std::fs::write(path("trust.txt"), format!("log {}\nquorum none\n", key.verifier())).unwrap();
    let run = |program: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said + &String::from_utf8_lossy(&output.stderr))
    };
    let (storage, private) =
        (format!("--storage_dir={}", path("log")), format!("--private_key={}", path("key")));
    let mut size = 0;
    for (round, count) in [3, 253, 1, 600].into_iter().enumerate() {
        let entries = path(&format!("entries-{round}"));
        std::fs::create_dir(&entries).unwrap();
        for n in 0..count {
            std::fs::write(Path::new(&entries).join(format!("{n}")), format!("entry {round} {n}")).unwrap();
        }
        let (fine, said) = run(&oneshot, &[&storage, &private, &format!("--entries={entries}/*")]);
        assert!(fine, "{said}");
        size += count;
        let (trust, log, dir) = (path("trust.txt"), path("log"), path("dir"));
        let follow =
            ["follow", "--trust", &trust, "--log", &log, "--dir", &dir, "--mirror", "--once", "--json"];
        let (fine, said) = run(&program("sift-verify"), &follow);
        assert!(
            fine && said.contains(&format!(
                "\"event\":\"mirrored\",\"origin\":\"stranger.example/log\",\"size\":{size},"
            )),
            "{said}"
        );
        let (url, public) = (
            format!("--storage_url=file://{}/", path("dir/mirror")),
            format!("--public_key={}", path("vkey")),
        );
        let (fine, said) = run(&fsck, &[&url, &public, "--ui=false", "-N=2"]);
        assert!(fine && said.contains("Successfully fsck'd log"), "{said}");
        println!("{size} entries of a stranger's log, mirrored and checked by its own checker");
    }
    // And it does find what is wrong.
    let bundle = Path::new(&path("dir/mirror")).join("tile/entries/001");
    let mut bytes = std::fs::read(&bundle).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&bundle, bytes).unwrap();
    let (url, public) =
        (format!("--storage_url=file://{}/", path("dir/mirror")), format!("--public_key={}", path("vkey")));
    assert!(!run(&fsck, &[&url, &public, "--ui=false", "-N=2"]).1.contains("Successfully"));
}

/// A log that asks readers for a token: heads, tiles and feed come with it, and the token is in nothing that is said or
/// kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_asks_for_a_token_is_followed_with_it() {
    let log = crate::access::closed().await;
    let writer = log.writer("test/kernel").await;
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.display().to_string();
    let (trust, dir) = (log.dir().join(sift_server::init::TRUST_FILE), folder.path().join("dir"));
    let token_file = log.connect.token_file.clone().unwrap();
    let (trust_text, dir_text, token_text) = (text(&trust), text(&dir), text(&token_file));
    let args =
        ["--trust", &trust_text, "--dir", &dir_text, "--log", log.http.url(), "--mirror", "--every", "3600"];
    // Without it there is trouble, and no finding.
    let stranger = Follower::start(Follower::command(), &args).unwrap();
    let told = stranger.wait(|told| told["event"] == "trouble").unwrap();
    assert!(told["detail"].as_str().unwrap().contains("401"), "{told}");
    assert_eq!(stranger.stop(), 0);
    let follower =
        Follower::start(Follower::command(), &[&args[..], &["--token-file", &token_text]].concat()).unwrap();
    follower.until("head", 2);
    log.http.add_all(&writer.entries(&writer.run(20))).await.unwrap();
    let head = follower.until("head", 44);
    assert_eq!(head["from"], "feed");
    follower.until("mirrored", 44);
    assert_eq!(follower.stop(), 0);
    let (code, said) = audit(&trust, &dir.join("mirror"));
    assert_eq!(code, 0, "{said}");
    let token = std::fs::read_to_string(token_file).unwrap();
    let history = std::fs::read_to_string(dir.join("history")).unwrap();
    assert!(!history.contains(token.trim()) && !said.contains(token.trim()));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}
