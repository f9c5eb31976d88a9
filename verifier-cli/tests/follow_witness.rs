//! The witness: every case of C2SP tlog-witness, two callers at once, what it saw itself, and what it remembers when it
//! is killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::follower::{Daemon, Scene, checkpoint_at, entries, forked_at, request};
use common::http::{Answer, exchange, get, post, try_post};
use common::{LOG, Sealed, log_key};
use sift_spec::checkpoint::{Checkpoint, verify_cosignature};
use sift_spec::hash::origin_digest;
use sift_spec::note::{KeyType, NOTE_BYTES_MAX, Note, SignatureLine, VerifierKey};
use sift_spec::proof::TreeHead;
use sift_spec::types::{Hash, TreeSize};

/// A witness of the test log that follows nothing.
struct Witness {
    daemon: Daemon,
    address: String,
    key: VerifierKey,
}

const NAME: &str = "regulator.example/witness";

fn command(scene: &Scene, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sift-verify"));
    command.arg("follow").arg("--trust").arg(scene.path("trust.txt")).arg("--dir").arg(scene.path("dir"));
    command.arg("--witness-key").arg(scene.path("witness.key"));
    command.args(["--listen", "127.0.0.1:0", "--json"]).args(more);
    command
}

/// Its key, made the first time.
fn key(scene: &Scene) -> VerifierKey {
    let path = scene.path("witness.key");
    if !path.exists() {
        let (code, said) =
            scene.verify(scene.folder.path(), &["witness-key", "--name", NAME, "--out", "witness.key"]);
        assert_eq!(code, 0, "{said}");
        let vkey = said.split_whitespace().find(|word| word.starts_with(&format!("{NAME}+"))).unwrap();
        fs::write(scene.path("witness.vkey"), vkey).unwrap();
    }
    fs::read_to_string(scene.path("witness.vkey")).unwrap().parse().unwrap()
}

impl Witness {
    fn start(scene: &Scene, more: &[&str]) -> Self {
        let key = key(scene);
        let daemon = Daemon::start(command(scene, more));
        let address = daemon.until_event("started")["listen"].as_str().unwrap().to_owned();
        Self { daemon, address, key }
    }

    fn add(&self, body: &str) -> Answer {
        post(&self.address, "/add-checkpoint", body.as_bytes())
    }

    /// Sends a log at a size with the right proof from another.
    fn send(&self, sealed: &Sealed, old: usize, new: usize) -> Answer {
        self.add(&request(sealed, old, new))
    }

    /// The size that it cosigned last.
    fn size(&self) -> u64 {
        let answer = self.send(&entries(0, 999), 998, 999);
        assert_eq!((answer.status, answer.media.as_str()), (409, "text/x.tlog.size"));
        answer.body.strip_suffix('\n').unwrap().parse().unwrap()
    }

    /// Whether an answer is a good cosignature of this note.
    fn has_cosigned(&self, note: &str, answer: &Answer) -> bool {
        let text = Note::parse(note.as_bytes(), NOTE_BYTES_MAX).unwrap().text;
        let line = answer.body.strip_suffix('\n').and_then(SignatureLine::parse);
        let time = line.and_then(|line| verify_cosignature(text, &self.key, &line));
        answer.status == 200 && time.is_some_and(|time| time > 1_700_000_000)
    }
}

/// The facts that torchwood's litewitness, Azul's witness and sigsum-go are tested by, and some more.
#[test]
fn every_case_of_the_specification() {
    let scene = Scene::new();
    let witness = Witness::start(&scene, &[]);
    let log = entries(0, 20);
    let monitoring = format!("/{}/checkpoint", origin_digest(LOG).hex());
    let mut table = Vec::new();
    let mut expect = |what: &'static str, answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        table.push(format!("{status}  {what}"));
    };
    expect("monitoring, before anything was cosigned", &get(&witness.address, &monitoring), 404);
    expect("a stale old size, before anything was cosigned", &witness.send(&log, 3, 4), 409);
    let first = witness.send(&log, 0, 1);
    expect("the first checkpoint", &first, 200);
    assert!(witness.has_cosigned(&checkpoint_at(&log, 1), &first), "{first:?}");
    assert!(first.body.starts_with(&format!("\u{2014} {NAME} ")));
    let second = witness.send(&log, 1, 5);
    expect("the next, with its proof", &second, 200);
    assert!(witness.has_cosigned(&checkpoint_at(&log, 5), &second));
    expect("the same again", &witness.send(&log, 5, 5), 200);
    let stale = witness.send(&log, 1, 8);
    expect("a stale old size", &stale, 409);
    assert_eq!((stale.media.as_str(), stale.body.as_str()), ("text/x.tlog.size", "5\n"));
    let asked = witness.send(&log, 0, 8);
    expect("old 0, to learn the size", &asked, 409);
    assert_eq!(asked.body, "5\n");
    let note = checkpoint_at(&log, 8);
    let signed_by =
        |name: &str, seed: u8| common::checkpoint(log.head(), &common::key(name, KeyType::Ed25519, seed));
    let other = Checkpoint::new("other.example/log".parse().unwrap(), log.head()).unwrap();
    let other = other.sign(&common::key("other.example/log", KeyType::Ed25519, 60));
    expect("an unknown origin", &witness.add(&format!("old 0\n\n{other}")), 404);
    expect("a key that is not trusted", &witness.add(&format!("old 5\n\n{}", signed_by(LOG, 61))), 403);
    let (mut bytes, at) = (note.clone().into_bytes(), note.len() - 12);
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    let garbage = String::from_utf8(bytes).unwrap();
    expect("a trusted key's line that does not verify", &witness.add(&format!("old 5\n\n{garbage}")), 403);
    let twice = format!("{note}{}", signed_by(LOG, 62).lines().last().unwrap());
    let good = request(&log, 5, 8);
    let proof = good.split_once("\n\n").unwrap().0;
    expect(
        "a proof of wrong hashes",
        &witness.add(&format!("old 5\n{}\n\n{note}", Hash::from_bytes([7; 32]))),
        422,
    );
    expect("no proof", &witness.add(&format!("old 5\n\n{note}")), 422);
    expect(
        "one hash too many",
        &witness.add(&format!("{proof}\n{}\n\n{note}", Hash::from_bytes([7; 32]))),
        422,
    );
    expect(
        "a proof for the same size",
        &witness.add(&format!("old 5\n{}\n\n{}", Hash::from_bytes([7; 32]), checkpoint_at(&log, 5))),
        422,
    );
    expect("an old size beyond the checkpoint", &witness.add(&format!("old 9\n\n{note}")), 400);
    for (what, body) in [
        ("no empty line", "old 5\n".to_owned()),
        ("nothing", String::new()),
        ("no old line", format!("\n\n{note}")),
        ("a size with a leading zero", good.replacen("old 5", "old 05", 1)),
        ("a negative size", good.replacen("old 5", "old -5", 1)),
        ("two spaces", good.replacen("old 5", "old  5", 1)),
        ("carriage returns", good.replace('\n', "\r\n")),
        ("a hash that is none", good.replacen("old 5\n", "old 5\nAAAA\n", 1)),
        ("64 hashes", format!("old 5\n{}\n{note}", format!("{}\n", Hash::from_bytes([7; 32])).repeat(64))),
        ("no signature", format!("old 5\n\n{}", note.split_once("\n\n").unwrap().0)),
        (
            "a signed note that is no checkpoint",
            format!("old 5\n\n{}", log_key().sign_note(&format!("{LOG}\n8\n"))),
        ),
    ] {
        expect(what, &witness.add(&body), 400);
    }
    expect("bytes that are no text", &post(&witness.address, "/add-checkpoint", &[0xff; 300]), 400);
    expect("a megabyte", &post(&witness.address, "/add-checkpoint", &vec![b'x'; 1 << 20]), 413);
    expect("another method", &get(&witness.address, "/add-checkpoint"), 405);
    expect("another path", &post(&witness.address, "/sign-subtree", b""), 404);
    assert_eq!(witness.size(), 5, "none of this moved it");
    // Lines of others, in our own name too, are nobody's business and are not passed on.
    let ours = SignatureLine::parse(first.body.trim_end()).unwrap();
    let forged = format!("{}{}{}\n", good, first.body, twice.lines().last().unwrap());
    assert_eq!(ours.name, NAME);
    let answer = witness.add(&forged);
    expect("lines of unknown keys, and in the witness's own name", &answer, 200);
    assert!(witness.has_cosigned(&note, &answer));
    let latest = get(&witness.address, &monitoring);
    expect("monitoring", &latest, 200);
    assert_eq!(latest.body, format!("{note}{}", answer.body));
    // A quorum of this witness believes what it serves.
    let quorum = common::trust_text().replace("quorum none", &format!("witness w {}\nquorum w", witness.key));
    fs::write(scene.path("quorum.txt"), quorum).unwrap();
    fs::write(scene.path("latest"), &latest.body).unwrap();
    let (code, said) =
        scene.verify(scene.folder.path(), &["consistency", "--trust", "quorum.txt", "latest", "latest"]);
    assert_eq!(code, 0, "{said}");
    // Another tree of a size that was cosigned is proof, and the end of this log.
    let fork = forked_at(4, 20);
    let empty_root = Checkpoint {
        origin: LOG.parse().unwrap(),
        head: TreeHead { size: TreeSize::ZERO, root: Hash::from_bytes([7; 32]) },
        extensions: Vec::new(),
    };
    let empty = empty_root.sign(&log_key());
    expect("size 0 with a root", &witness.add(&format!("old 0\n\n{empty}")), 422);
    expect("another root of the same size", &witness.send(&fork, 8, 8), 422);
    let found = witness.daemon.until("the split", |told| told["code"] == "heads-inconsistent");
    let evidence = found["evidence"].as_str().unwrap().to_owned();
    let trust = scene.path("trust.txt");
    let args = ["consistency", "--trust", trust.to_str().unwrap(), "ours.checkpoint", "theirs.checkpoint"];
    assert_eq!(scene.verify(evidence.as_ref(), &args).0, 1);
    expect("anything after that", &witness.send(&log, 8, 9), 422);
    expect("even the same again", &witness.send(&log, 8, 8), 422);
    println!("{}", table.join("\n"));
    assert_eq!(witness.daemon.stop(), 1);
    let again = Witness::start(&scene, &[]);
    assert_eq!(again.send(&log, 8, 9).status, 422, "and it is remembered");
}

#[test]
fn a_proof_from_nothing_is_refused_and_a_tree_of_nothing_is_not() {
    let scene = Scene::new();
    let witness = Witness::start(&scene, &[]);
    let log = entries(0, 9);
    let hash = Hash::from_bytes([1; 32]);
    assert_eq!(witness.add(&format!("old 0\n{hash}\n\n{}", checkpoint_at(&log, 4))).status, 422);
    assert_eq!(witness.send(&log, 0, 0).status, 200);
    assert_eq!(witness.add(&format!("old 0\n{hash}\n\n{}", checkpoint_at(&log, 4))).status, 422);
    assert_eq!(witness.send(&log, 0, 4).status, 200);
    assert_eq!(witness.size(), 4);
}

/// Callers with two histories at once: whatever is cosigned is of one.
#[test]
fn many_callers_at_once_get_one_history() {
    for round in 0..4_usize {
        let scene = Scene::new();
        let witness = Witness::start(&scene, &[]);
        let base = entries(0, 60);
        assert_eq!(witness.send(&base, 0, 10).status, 200);
        let callers = 64_usize;
        let barrier = Arc::new(Barrier::new(callers));
        let threads: Vec<_> = (0..callers)
            .map(|caller| {
                let (address, barrier) = (witness.address.clone(), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    let history = caller % 2;
                    let log = if history == 0 { entries(0, 60) } else { forked_at(11 + round, 60) };
                    let new = 20 + caller / 2;
                    let body = request(&log, 10, new);
                    barrier.wait();
                    (history, new, post(&address, "/add-checkpoint", body.as_bytes()).status)
                })
            })
            .collect();
        let answers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let cosigned: Vec<_> = answers.iter().filter(|(_, _, status)| *status == 200).collect();
        assert_eq!(cosigned.len(), 1, "{answers:?}");
        assert!(answers.iter().all(|(_, _, status)| [200, 409].contains(status)), "{answers:?}");
        assert_eq!(witness.size(), cosigned[0].1 as u64);
        println!("{callers} callers: history {} at {}", cosigned[0].0, cosigned[0].1);
    }
}

/// The same request over and over writes nothing; each answer has a good cosignature.
#[test]
fn asking_again_fills_no_disk() {
    let scene = Scene::new();
    let witness = Witness::start(&scene, &[]);
    let log = entries(0, 30);
    assert_eq!(witness.send(&log, 0, 30).status, 200);
    let before = fs::read(scene.path("dir/history")).unwrap();
    for _ in 0..100 {
        let answer = witness.send(&log, 30, 30);
        assert!(witness.has_cosigned(&checkpoint_at(&log, 30), &answer));
        assert_eq!(witness.send(&log, 0, 30).status, 409);
        assert_eq!(witness.add("old 30\n\nx").status, 400);
    }
    assert_eq!(fs::read(scene.path("dir/history")).unwrap(), before);
    // Whoever sends half a request, or none, holds nobody up for long.
    let idle: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&witness.address).unwrap()).collect();
    let slow = b"POST /add-checkpoint HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nold ";
    let mut half = std::net::TcpStream::connect(&witness.address).unwrap();
    std::io::Write::write_all(&mut half, slow).unwrap();
    assert_eq!(witness.send(&log, 30, 30).status, 200);
    drop(idle);
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let status = exchange(&witness.address, many_headers.as_bytes()).map(|answer| answer.status);
    assert!(status.is_none_or(|status| status >= 400), "{status:?}");
    assert_eq!(witness.send(&log, 30, 30).status, 200);
}

/// What was seen by polling counts for what is cosigned, and the other way round.
#[test]
fn what_it_sees_and_what_it_is_sent_is_one_history() {
    let scene = Scene::new();
    let (log, fork) = (entries(0, 400), forked_at(250, 400));
    scene.show_at(&log, &checkpoint_at(&log, 300));
    let following = ["--every", "1", "--log", &scene.log.url.clone(), "--patience", "1"];
    let witness = Witness::start(&scene, &following);
    witness.daemon.until_size("head", 300);
    // It cosigned what it saw.
    assert_eq!(witness.size(), 300);
    let monitoring = format!("/{}/checkpoint", origin_digest(LOG).hex());
    assert!(get(&witness.address, &monitoring).body.contains(NAME));
    assert_eq!(witness.send(&log, 300, 310).status, 200);
    // A fork of what it saw is not cosigned; and as the log's own tiles say so, it is proof.
    assert_eq!(witness.add(&request(&fork, 310, 350)).status, 422);
    scene.show_at(&fork, &checkpoint_at(&log, 300));
    // Not more often than once a second is a head looked into for whoever sends it.
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(witness.add(&request(&fork, 310, 400)).status, 422);
    let told = witness.daemon.until("the split", |told| told["code"] == "heads-inconsistent");
    let trust = scene.path("trust.txt");
    let args = [
        "consistency",
        "--trust",
        trust.to_str().unwrap(),
        "ours.checkpoint",
        "theirs.checkpoint",
        "--log",
        ".",
    ];
    let (code, said) = scene.verify(told["evidence"].as_str().unwrap().as_ref(), &args);
    assert!(code == 1 && said.contains("heads-inconsistent"), "{said}");
    assert_eq!(witness.send(&log, 310, 320).status, 422);
    assert_eq!(witness.daemon.stop(), 1);
}

/// A head that was sent and is not published yet is ahead of what is served: that is no finding. What is served then is
/// held against it.
#[test]
fn a_head_that_was_sent_is_ahead_of_what_is_published() {
    let scene = Scene::new();
    let key = key(&scene);
    let quorum = common::trust_text().replace("quorum none", &format!("witness w {key}\nquorum w"));
    fs::write(scene.path("trust.txt"), quorum).unwrap();
    let log = entries(0, 60);
    let url = scene.log.url.clone();
    let witness = Witness::start(&scene, &["--every", "1", "--log", &url, "--patience", "1"]);
    // The trust file's quorum is this very witness, and it cosigns what nobody vouches for yet.
    let publish = |size: usize, answer: &Answer| {
        let note = checkpoint_at(&log, size) + &answer.body;
        scene.show_at(&Sealed { entries: log.entries[..size].to_vec(), in_pack: Vec::new() }, &note);
    };
    let first = witness.send(&log, 0, 20);
    assert_eq!(witness.send(&log, 20, 33).status, 200);
    let last = witness.send(&log, 33, 47);
    publish(20, &first);
    witness.daemon.until_size("head", 20);
    publish(47, &last);
    witness.daemon.until_size("head", 47);
    assert_eq!(witness.daemon.stop(), 0);
}

/// A fork that is published while the anchor is ahead, and so not told at once, is told by what is published next.
#[test]
fn a_fork_behind_the_anchor_is_found_out_later() {
    let scene = Scene::new();
    let (log, fork) = (entries(0, 70), forked_at(25, 70));
    let part =
        |of: &Sealed, size: usize| Sealed { entries: of.entries[..size].to_vec(), in_pack: Vec::new() };
    let url = scene.log.url.clone();
    let witness = Witness::start(&scene, &["--every", "1", "--log", &url, "--patience", "1"]);
    assert_eq!(witness.send(&log, 0, 20).status, 200);
    assert_eq!(witness.send(&log, 20, 47).status, 200);
    scene.show(&part(&log, 20));
    witness.daemon.until_size("head", 20);
    // Of the same size as nothing that was seen, and the log has no tiles of the anchor's tree yet.
    scene.show(&part(&fork, 33));
    witness.daemon.until_size("head", 33);
    scene.show(&part(&log, 60));
    let found = witness.daemon.until("the fork", |told| told["code"] == "heads-inconsistent");
    let evidence = found["evidence"].as_str().unwrap().to_owned();
    assert!(evidence.contains("split-33-60-"), "{evidence}");
    let trust = scene.path("trust.txt");
    let args = [
        "consistency",
        "--trust",
        trust.to_str().unwrap(),
        "ours.checkpoint",
        "theirs.checkpoint",
        "--log",
        ".",
    ];
    assert_eq!(scene.verify(evidence.as_ref(), &args).0, 1);
    assert_eq!(witness.send(&log, 47, 60).status, 422);
    assert_eq!(witness.daemon.stop(), 1);
}

#[test]
fn keys_that_are_none_of_a_witness_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::new();
    key(&scene);
    let refused = || {
        let output = command(&scene, &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let path = scene.path("witness.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused().contains("chmod 600"), "{}", refused());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, common::key(NAME, KeyType::Ed25519, 9).to_secret_text().as_str()).unwrap();
    assert!(refused().contains("make one with sift-verify witness-key"));
    fs::write(&path, common::key(LOG, KeyType::Cosignature, 1).to_secret_text().as_str()).unwrap();
    assert!(refused().contains("must not be its own witness"));
    fs::write(&path, "PRIVATE+KEY+secret").unwrap();
    assert!(!refused().contains("secret+") && !refused().contains("KEY+secret"), "{}", refused());
    let (code, said) =
        scene.verify(scene.folder.path(), &["witness-key", "--name", NAME, "--out", "witness.key"]);
    assert_eq!(code, 2, "a key is never overwritten: {said}");
}

/// Killed at any moment, with callers at work: what was answered is remembered, and no fork of it is ever cosigned.
#[test]
fn what_was_answered_survives_a_kill() {
    let scene = Scene::new();
    let log = entries(0, 999);
    let mut last = 0_usize;
    let mut answered = 0;
    for round in 0..12_u64 {
        let witness = Witness::start(&scene, &[]);
        let stated = witness.size() as usize;
        assert!(stated >= last, "{stated} after {last} was answered");
        let address = witness.address.clone();
        let caller = std::thread::spawn({
            let log = log.clone();
            move || {
                let mut at = stated;
                while at + 1 < 900 {
                    match try_post(&address, "/add-checkpoint", request(&log, at, at + 1).as_bytes()) {
                        Some(answer) if answer.status == 200 => at += 1,
                        _ => break,
                    }
                }
                at
            }
        });
        std::thread::sleep(Duration::from_millis(5 + 7 * round));
        witness.daemon.kill();
        let reached = caller.join().unwrap();
        (answered, last) = (answered + reached - stated, reached);
    }
    println!("{answered} cosignatures, killed 12 times, at {last}");
    assert!(answered > 0);
    let witness = Witness::start(&scene, &[]);
    let stated = witness.size() as usize;
    let fork = forked_at(3, 999);
    assert_eq!(witness.send(&fork, stated, stated).status, 422);
    assert_eq!(witness.send(&log, stated, stated + 1).status, 422);
}

/// A directory that was copied back, or made anew for an old key: the log's own checkpoint shows what was forgotten.
#[test]
fn a_witness_that_forgot_never_signs_again() {
    let scene = Scene::new();
    let log = entries(0, 60);
    let url = scene.log.url.clone();
    let following = ["--every", "1", "--log", &url, "--patience", "1"];
    let witness = Witness::start(&scene, &following);
    assert_eq!(witness.send(&log, 0, 20).status, 200);
    witness.daemon.kill();
    let backup = fs::read(scene.path("dir/history")).unwrap();
    let witness = Witness::start(&scene, &following);
    let answer = witness.send(&log, 20, 40);
    assert_eq!(answer.status, 200);
    witness.daemon.kill();
    scene.show_at(&log, &(checkpoint_at(&log, 40) + &answer.body));
    for history in [Some(&backup), None] {
        match history {
            Some(bytes) => fs::write(scene.path("dir/history"), bytes).unwrap(),
            None => fs::remove_dir_all(scene.path("dir")).unwrap(),
        }
        let witness = Witness::start(&scene, &following);
        let told = witness.daemon.until_event("trouble")["detail"].as_str().unwrap().to_owned();
        assert!(told.contains("it is an old copy, or the key is used elsewhere too"), "{told}");
        let refused = witness.send(&log, 40, 50);
        assert!(refused.status == 503 && refused.body.contains("has forgotten"), "{refused:?}");
        assert_eq!(witness.daemon.stop(), 2);
        // That is remembered, whatever the log serves now; and it watches on.
        scene.show_at(&log, &checkpoint_at(&log, 45));
        let witness = Witness::start(&scene, &following);
        witness.daemon.until_size("head", 45);
        assert_eq!(witness.send(&log, 45, 50).status, 503);
        assert_eq!(witness.daemon.stop(), 2);
        scene.show_at(&log, &(checkpoint_at(&log, 40) + &answer.body));
    }
    // What it does remember is no such thing.
    fs::remove_dir_all(scene.path("dir")).unwrap();
    fs::remove_file(scene.path("witness.key")).unwrap();
    scene.show_at(&log, &checkpoint_at(&log, 10));
    let witness = Witness::start(&scene, &following);
    let answer = witness.send(&log, 10, 30);
    scene.show_at(&log, &(checkpoint_at(&log, 30) + &answer.body));
    witness.daemon.until_size("head", 30);
    assert_eq!(witness.send(&log, 30, 50).status, 200);
    assert_eq!(witness.daemon.stop(), 0);
}
