//! Following a log that grows, forks, goes back, stands still, lies and hangs.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::follower::{PATIENCE, Scene, checkpoint_at, cosigned, entries, forked_at, seconds_now};
use common::lying::Lie;
use sift_spec::note::KeyType;

#[test]
fn every_head_is_proven_to_extend_the_last_and_remembered_whole() {
    let scene = Scene::new();
    let sizes = [0, 1, 2, 3, 8, 255, 256, 257, 511, 700];
    let mut before = 0;
    for size in sizes {
        scene.show(&entries(0, size));
        let round = scene.once(&[]);
        assert_eq!((round.code, round.findings().len()), (0, 0), "{round:?}");
        let head = round.of("head")[0];
        assert_eq!((head["size"].as_u64(), head["grown_from"].as_u64()), (Some(size as u64), Some(before)));
        // The same again is nothing new.
        let round = scene.once(&[]);
        assert_eq!((round.code, round.events.len()), (0, 0), "{round:?}");
        before = size as u64;
    }
    let history = fs::read_to_string(scene.path("dir/history")).unwrap();
    assert_eq!(history.lines().count(), 1 + sizes.len());
    for size in sizes {
        let note = serde_json::to_string(&checkpoint_at(&entries(0, size), size)).unwrap();
        assert!(history.contains(&note), "{size}");
    }
}

/// A larger, an equal, a smaller that was seen, a smaller that was not: each is proof, and anybody can check it.
#[test]
fn two_histories_are_proof_for_everybody_and_for_ever() {
    for (size, path) in
        [(600, "split-400-600-"), (400, "split-400-400-"), (300, "split-300-300-"), (350, "split-400-350-")]
    {
        let scene = Scene::new();
        for honest in [300, 400] {
            scene.show(&entries(0, honest));
            assert_eq!(scene.once(&[]).code, 0);
        }
        let fork = forked_at(100, size);
        scene.show(&fork);
        if size < 400 {
            // A smaller fork is told by the tiles of the larger tree, which the log has to serve.
            scene.show_at(&entries(0, 400), &checkpoint_at(&fork, size));
        }
        let round = scene.once(&[]);
        assert_eq!((round.code, round.findings()), (1, vec!["heads-inconsistent"]), "{size}: {round:?}");
        let evidence = round.evidence();
        assert!(evidence.file_name().unwrap().to_str().unwrap().starts_with(path), "{evidence:?}");
        let trust = scene.path("trust.txt");
        let trust = trust.to_str().unwrap();
        let mut args = vec!["consistency", "--trust", trust, "ours.checkpoint", "theirs.checkpoint"];
        if evidence.join("tile").is_dir() {
            args.extend(["--log", "."]);
        }
        let (code, said) = scene.verify(&evidence, &args);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("heads-inconsistent"), "{said}");
        // The honest history goes on, and nothing is forgotten or kept twice.
        scene.show(&entries(0, 500));
        let round = scene.once(&[]);
        assert_eq!((round.code, round.findings()), (1, vec!["heads-inconsistent"]), "{round:?}");
        assert_eq!(round.of("head")[0]["size"], 500);
        scene.show_at(&entries(0, 400), &checkpoint_at(&fork, size));
        scene.once(&[]);
        let kept = fs::read_dir(scene.path("dir/evidence")).unwrap().count();
        assert!(kept <= 2, "{kept}");
    }
}

#[test]
fn an_older_head_is_a_finding_that_accuses_nobody() {
    let scene = Scene::new();
    let all = entries(0, 600);
    for size in [200, 600] {
        scene.show_at(&all, &checkpoint_at(&all, size));
        assert_eq!(scene.once(&[]).code, 0);
    }
    // One that was seen, one that was not, and the empty one.
    for size in [200, 450, 0] {
        scene.show_at(&all, &checkpoint_at(&all, size));
        let round = scene.once(&[]);
        assert_eq!((round.code, round.findings()), (0, vec!["head-older"]), "{round:?}");
        assert_eq!(round.of("finding")[0]["severity"], "warns");
        let trust = scene.path("trust.txt");
        let log = scene.folder.path().read_dir().unwrap().flatten().map(|entry| entry.path());
        let log = log.filter(|path| path.join("checkpoint").exists()).last().unwrap();
        let (trust, log) = (trust.to_str().unwrap(), log.to_str().unwrap());
        let args = ["consistency", "--trust", trust, "ours.checkpoint", "theirs.checkpoint", "--log", log];
        assert_eq!(scene.verify(&round.evidence(), &args).0, 0);
    }
    // Where the log has lost its tiles, it is said that nothing tells.
    scene.show_at(&entries(0, 450), &checkpoint_at(&all, 449));
    let round = scene.once(&[]);
    assert_eq!(
        (round.code, round.findings(), round.of("trouble").len()),
        (2, vec!["head-older"], 1),
        "{round:?}"
    );
    // A log that was set back and goes on is a fork.
    scene.show(&forked_at(450, 700));
    assert_eq!(scene.once(&[]).findings(), ["heads-inconsistent"]);
}

#[test]
fn age_is_counted_from_growth_and_from_cosignatures() {
    let scene = Scene::new();
    let witnessed = common::trust_text()
        .replace("quorum none", &format!("witness w {}\nquorum none", common::witness_key().verifier()));
    fs::write(scene.path("trust.txt"), witnessed).unwrap();
    let log = entries(0, 20);
    scene.show(&log);
    let stale = ["--stale", "1"];
    assert_eq!(scene.once(&stale).code, 0);
    let end = Instant::now() + PATIENCE;
    let found = loop {
        let round = scene.once(&stale);
        if round.code == 1 {
            break round;
        }
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(found.findings(), ["head-stale"]);
    // Cosigned long ago it is as old; cosigned now it is not; and a time that is yet to come is not believed for ever.
    let note = checkpoint_at(&log, 20);
    for (seconds, code) in [(seconds_now() - 100, 1), (seconds_now() + 1, 0), (u64::MAX >> 1, 0)] {
        scene.show_at(&log, &cosigned(&note, seconds));
        assert_eq!(scene.once(&stale).code, code, "{seconds}");
    }
    scene.show(&log);
    assert_eq!(scene.once(&stale).code, 1);
    assert_eq!(scene.once(&["--stale", "0"]).code, 0);
    // A log that answers nothing ages as well.
    scene.log.lie("checkpoint", Lie::Status(500));
    assert_eq!(scene.once(&stale).findings(), ["head-stale"]);
    scene.log.be_honest();
    scene.show(&entries(0, 21));
    assert_eq!(scene.once(&stale).code, 0);
}

#[test]
fn what_is_not_vouched_for_is_held_against_the_log_all_the_same() {
    let scene = Scene::new();
    let witnessed = common::trust_text()
        .replace("quorum none", &format!("witness w {}\nquorum w", common::witness_key().verifier()));
    fs::write(scene.path("trust.txt"), witnessed).unwrap();
    let log = entries(0, 40);
    scene.show_at(&log, &cosigned(&checkpoint_at(&log, 10), seconds_now()));
    assert_eq!(scene.once(&[]).code, 0);
    // Signed by the log alone: not believed, and not forgotten.
    scene.show_at(&log, &checkpoint_at(&log, 30));
    let round = scene.once(&[]);
    assert_eq!((round.code, round.findings()), (1, vec!["not-witnessed"]));
    assert_eq!(round.of("head")[0]["believed"], false);
    // That nobody vouches for it is said also where its tiles are not to be had.
    scene.show_at(&log, &checkpoint_at(&log, 35));
    scene.log.lie("tile/", Lie::Status(404));
    let round = scene.once(&[]);
    assert_eq!((round.code, round.findings(), round.of("trouble").len()), (1, vec!["not-witnessed"], 1));
    scene.log.be_honest();
    // Between the two, and cosigned: believed, and no older than what is believed.
    scene.show_at(&log, &cosigned(&checkpoint_at(&log, 20), seconds_now()));
    let round = scene.once(&[]);
    assert_eq!((round.code, round.findings().len()), (0, 0), "{round:?}");
    let fork = forked_at(15, 35);
    scene.show_at(&fork, &cosigned(&checkpoint_at(&fork, 35), seconds_now()));
    assert_eq!(scene.once(&[]).findings(), ["heads-inconsistent"]);
    // A cosignature that is forged rejects the head, and is no reason not to look at it.
    let mut forged = cosigned(&checkpoint_at(&log, 40), seconds_now()).into_bytes();
    let at = forged.len() - 10;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    scene.show_at(&log, &String::from_utf8(forged).unwrap());
    let round = scene.once(&[]);
    assert!(round.findings().contains(&"checkpoint-invalid"), "{round:?}");
    assert_eq!(round.of("head")[0]["size"], 40);
}

#[test]
fn a_log_that_serves_nonsense_is_not_believed_and_costs_nothing() {
    let scene = Scene::new();
    scene.show(&entries(0, 300));
    assert_eq!(scene.once(&[]).code, 0);
    let before = fs::read(scene.path("dir/history")).unwrap();
    scene.show(&entries(0, 900));
    let stranger = common::key(common::LOG, KeyType::Ed25519, 99);
    let head = entries(0, 900).head();
    let elsewhere = Scene::new();
    elsewhere.show(&entries(0, 900));
    for (path, lie, code, found) in [
        (
            "checkpoint",
            Lie::Bytes(common::checkpoint(head, &stranger).into_bytes()),
            1,
            Some("checkpoint-invalid"),
        ),
        ("checkpoint", Lie::Bytes(b"nothing".to_vec()), 1, Some("checkpoint-invalid")),
        ("checkpoint", Lie::Bytes(vec![b'x'; 1 << 20]), 2, None),
        ("checkpoint", Lie::Endless, 2, None),
        ("checkpoint", Lie::Cut, 2, None),
        ("checkpoint", Lie::Status(404), 2, None),
        ("checkpoint", Lie::Status(503), 2, None),
        ("checkpoint", Lie::Redirect(format!("{}/checkpoint", elsewhere.log.url)), 2, None),
        ("checkpoint", Lie::Hang, 2, None),
        ("checkpoint", Lie::Drip, 2, None),
        ("tile/", Lie::Drip, 2, None),
        ("tile/0/001", Lie::Bytes(vec![7; 8192]), 1, Some("tile-differs")),
        ("tile/0/", Lie::Bytes(vec![7; 31]), 2, None),
        ("tile/1/", Lie::Endless, 2, None),
        ("tile/", Lie::Status(404), 2, None),
        ("tile/", Lie::Redirect(elsewhere.log.url.clone()), 2, None),
        ("tile/", Lie::Hang, 2, None),
    ] {
        scene.log.lie(path, lie.clone());
        let begun = Instant::now();
        let round = scene.once(&[]);
        // With a patience of one second, twice.
        assert!(begun.elapsed() < Duration::from_secs(15), "{lie:?}: {:?}", begun.elapsed());
        let lie = format!("{lie:?}").chars().take(60).collect::<String>();
        assert_eq!((round.code, round.findings().first().copied()), (code, found), "{path} {lie}: {round:?}");
        assert_eq!(fs::read(scene.path("dir/history")).unwrap(), before, "{path} {lie}");
        println!("{path:11} {lie:60} exit {code}");
        scene.log.be_honest();
    }
    assert_eq!(elsewhere.log.asked(), Vec::<String>::new(), "a daemon is not sent around");
    assert_eq!(scene.once(&[]).code, 0);
}

#[test]
fn one_at_a_time_has_a_directory_and_a_signal_ends_it_even_in_a_log_that_hangs() {
    let scene = Scene::new();
    scene.show(&entries(0, 10));
    let daemon = scene.start(&["--every", "1"]);
    daemon.until_size("head", 10);
    let second = scene.once(&[]);
    assert_eq!(second.code, 2, "{second:?}");
    assert!(second.said.contains("is in use"), "{}", second.said);
    scene.show(&entries(0, 11));
    daemon.until_size("head", 11);
    // Trouble is said once, and when it is over.
    scene.log.lie("checkpoint", Lie::Status(500));
    daemon.until_event("trouble");
    scene.log.be_honest();
    daemon.until_event("recovered");
    scene.log.lie("checkpoint", Lie::Hang);
    daemon.until_event("trouble");
    let begun = Instant::now();
    assert_eq!(daemon.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // A fork does not end it, and is what it ends with.
    scene.log.be_honest();
    let daemon = scene.start(&["--every", "1"]);
    daemon.until_event("started");
    scene.show(&forked_at(5, 12));
    daemon.until("a fork", |told| told["code"] == "heads-inconsistent");
    scene.show(&entries(0, 13));
    daemon.until_size("head", 13);
    assert_eq!(daemon.stop(), 1);
}

#[test]
fn what_is_damaged_is_refused_and_what_was_not_finished_is_not() {
    let scene = Scene::new();
    for size in [5, 9] {
        scene.show(&entries(0, size));
        assert_eq!(scene.once(&[]).code, 0);
    }
    let path = scene.path("dir/history");
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    // Flipped: refused, and left as it is.
    for at in [0, 20, 30, 100, last - 1, last, last + 10, whole.len() - 20, whole.len() - 2, whole.len() - 1]
    {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&path, &flipped).unwrap();
        let round = scene.once(&[]);
        assert_eq!(round.code, 2, "byte {at}: {round:?}");
        let said = round.said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("is damaged at byte") && said.contains("keep this directory"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), flipped);
    }
    // Cut within the last line: what was never answered for is taken away, and seen again.
    for at in [last, last + 1, last + 65, last + 200, whole.len() - 1] {
        fs::write(&path, &whole[..at]).unwrap();
        let round = scene.once(&[]);
        assert_eq!(round.code, 0, "cut at {at}: {round:?}");
        assert_eq!(round.of("head").len(), usize::from(at < whole.len() - 1));
        assert_eq!(fs::read(&path).unwrap().len(), whole.len());
    }
    // Cut within its first line, as when it was made.
    for at in [0, 1, 14] {
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(scene.once(&[]).code, 0);
    }
    fs::write(&path, b"something else\n").unwrap();
    assert_eq!(scene.once(&[]).code, 2);
}

#[test]
fn which_log_is_said_or_asked_for() {
    let scene = Scene::new();
    scene.show(&entries(0, 4));
    let run = |trust: String, log: bool| {
        fs::write(scene.path("trust.txt"), trust).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sift-verify"));
        command.args(["follow", "--once", "--trust"]).arg(scene.path("trust.txt"));
        command.arg("--dir").arg(scene.path("dir"));
        if log {
            command.args(["--log", &scene.log.url]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        (output.status.code().unwrap(), said)
    };
    let ours = common::log_key().verifier().to_string();
    let other = common::key("other.example/log", KeyType::Ed25519, 50).verifier().to_string();
    let url = format!("{}/", scene.log.url);
    let (code, said) = run(format!("log {ours}\nquorum none\n"), false);
    assert!(code == 2 && said.contains("give --log"), "{said}");
    assert_eq!(run(format!("log {ours} {url}\nquorum none\n"), false).0, 0);
    let (code, said) = run(format!("log {ours}\nlog {other}\nquorum none\n"), true);
    assert!(code == 2 && said.contains("end the line of the one to follow with its URL"), "{said}");
    assert_eq!(run(format!("log {ours} {url}\nlog {other}\nquorum none\n"), true).0, 0);
    // The head of another log at this place is none of this one.
    assert_eq!(run(format!("log {ours}\nlog {other} {url}\nquorum none\n"), true).0, 1);
}

/// A feed of these checkpoints, each with its size.
fn feed(notes: &[(usize, String)]) -> Lie {
    let event = |(size, note): &(usize, String)| {
        let note = serde_json::to_string(note).unwrap();
        format!("event: checkpoint\nid: {size}\ndata: {{\"size\":{size},\"note\":{note}}}\n\n")
    };
    Lie::Stream(notes.iter().map(event).collect::<String>().into_bytes())
}

const STREAM: &str = "v1/checkpoints/stream";

#[test]
fn a_feed_is_faster_than_polling_and_is_believed_no_more() {
    let scene = Scene::new();
    let (log, fork) = (entries(0, 90), forked_at(30, 90));
    let note = |size: usize| (size, checkpoint_at(&log, size));
    let show = |served: usize| {
        // Partial tiles of all sizes that are shown.
        scene.show_at(&log, &note(served).1);
        let shown = scene.log.root();
        for size in [20, 40, 60] {
            let part = common::Sealed { entries: log.entries[..size].to_vec(), in_pack: Vec::new() };
            common::tiles::write(&part, &shown);
        }
        fs::write(shown.join("checkpoint"), note(served).1).unwrap();
    };
    show(20);
    scene.log.lie(STREAM, feed(&[note(40), note(60)]));
    let daemon = scene.start(&["--every", "3600"]);
    daemon.until("an open feed", |told| told["event"] == "feed" && told["open"] == true);
    let head = daemon.until_size("head", 60);
    assert_eq!((head["from"].as_str(), head["grown_from"].as_u64()), (Some("feed"), Some(40)));
    // The stream stays silent; told to stop, the follower does.
    assert_eq!(daemon.stop(), 0);
    // It is resumed from where it was; and what it says is held against all that was seen.
    scene.log.asked();
    scene.log.lie(STREAM, feed(&[(50, checkpoint_at(&fork, 60))]));
    let daemon = scene.start(&["--every", "3600"]);
    daemon.until("a fork", |told| told["code"] == "heads-inconsistent");
    let ended = daemon.until("an end", |told| told["event"] == "feed" && told["open"] == false);
    assert!(ended["detail"].as_str().unwrap().contains("no larger"), "{ended}");
    assert!(scene.log.asked().contains(&format!("{STREAM}?after=60")));
    assert_eq!(daemon.stop(), 1);
}

#[test]
fn a_feed_that_lies_or_ends_does_no_harm() {
    let scene = Scene::new();
    let log = entries(0, 90);
    scene.show_at(&log, &checkpoint_at(&log, 20));
    let stranger = common::checkpoint(log.head(), &common::key(common::LOG, KeyType::Ed25519, 99));
    for (lie, said) in [
        (Lie::Status(404), "has none"),
        (Lie::Redirect("http://127.0.0.1:1/".to_owned()), "has none"),
        (Lie::Bytes(b"{}".to_vec()), "has none"),
        (Lie::Status(429), "429"),
        (Lie::Status(503), "503"),
        (Lie::Stream(b"data: nothing\n\n".to_vec()), "no checkpoint"),
        (Lie::Stream(vec![b'x'; 1 << 20]), "no checkpoint"),
        (feed(&[(90, stranger)]), "did not sign"),
        (feed(&[(90, "x\n".to_owned())]), "did not sign"),
        (feed(&[(20, checkpoint_at(&log, 20)), (20, checkpoint_at(&log, 20))]), "no larger"),
    ] {
        scene.log.lie(STREAM, lie.clone());
        let daemon = scene.start(&["--every", "1"]);
        let ended = daemon.until("an end", |told| told["event"] == "feed" && told["open"] == false);
        assert!(ended["detail"].as_str().unwrap().contains(said), "{ended}");
        // Polling goes on, whatever the feed does.
        scene.log.asked();
        let end = Instant::now() + PATIENCE;
        while !scene.log.asked().contains(&"checkpoint".to_owned()) {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(daemon.stop(), 0);
    }
    let daemon = scene.start(&["--no-feed"]);
    scene.log.asked();
    daemon.until_event("started");
    assert_eq!(daemon.stop(), 0);
    assert!(!scene.log.asked().iter().any(|path| path.starts_with(STREAM)));
}
