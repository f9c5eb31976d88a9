//! The command line as transcripts: arguments, exit code, output. `tests/cmd/*.txt` hold them; run the tests with
//! `SIFT_BLESS=1` to write what the program prints now, and read the difference before you commit it.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use common::kernel::{BUDGET, FACTS, POLICY, PRICES, beat, honest};
use common::{Draft, index, schema, tiles};
use sift_spec::evidence::Pack;
use sift_spec::proof::{TreeHead, prove_consistency, prove_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::types::TreeSize;
use tempfile::TempDir;

/// Files that the transcripts speak of. Keys, salts and times are fixed, so every byte is.
fn set_up(dir: &Path) {
    let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    let (scenario, sealed) = (honest(), honest().seal());
    put("trust.txt", common::trust_text().as_bytes());
    put("witnessed.txt", common::trust_text().replace("quorum none", &witness_lines()).as_bytes());
    let without_operator: Vec<String> =
        common::trust_text().lines().filter(|line| !line.starts_with("#sift")).map(str::to_owned).collect();
    put("no-operator.txt", (without_operator.join("\n") + "\n").as_bytes());
    put("no-quorum.txt", common::trust_text().replace("quorum none", "").as_bytes());

    let pack = scenario.pack();
    put("run.sift", &pack.write().unwrap());
    put("cut.sift", &pack.write().unwrap()[..1000]);
    let mut edited = pack.clone();
    let step = edited.entries.get_mut(&index(3 + 8)).unwrap();
    *step = String::from_utf8(step.clone()).unwrap().replace("accounts stay", "accounts went").into_bytes();
    put("edited.sift", &edited.write().unwrap());
    let mut shortened = scenario.clone();
    shortened.drafts[16].dropped = true;
    put("shortened.sift", &shortened.pack().write().unwrap());
    put("withheld.sift", &Pack { objects: Default::default(), ..pack }.write().unwrap());

    fs::create_dir(dir.join("packs")).unwrap();
    put("packs/a.sift", &scenario.pack().write().unwrap());
    put("packs/b.sift", &edited.write().unwrap());
    put("packs/c.sift", &scenario.pack().write().unwrap());
    for folder in ["new-policy", "bad-policy", "no-policy"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    let changed = [
        ("\"rule\": \"lookup\"", "\"rule\": \"lookup\", \"reason\": \"it reads\""),
        (
            "deny contains {\"rule\": \"delete\", \"reason\": \"accounts stay\"}",
            "allow contains {\"rule\": \"delete\"}",
        ),
        (
            "\"role\": \"supervisor\", \"seconds\": 600} if",
            "\"role\": \"supervisor\", \"seconds\": 60, \"count\": 2} if",
        ),
    ];
    let policy = changed.iter().fold(POLICY.to_owned(), |text, (from, to)| text.replace(from, to));
    put("new-policy/policy.rego", policy.as_bytes());
    put("new-policy/budget.toml", BUDGET.replace("identical_calls = 2", "identical_calls = 1").as_bytes());
    put("new-policy/prices.toml", PRICES.as_bytes());
    put("new-policy/facts.toml", FACTS.as_bytes());
    put("bad-policy/policy.rego", b"package sift\nallow contains {\"rule\": \"x\"} if input.call.\n");

    let tree = sealed.tree();
    let proof = prove_inclusion(index(0), tree.size(), &tree).unwrap();
    let receipt = Receipt { extra: None, index: index(0), proof, checkpoint: sealed.checkpoint() };
    put("0.note", &sealed.entries[0]);
    put("large.note", &vec![b'x'; 1 << 20]);
    put("0.tlog-proof", receipt.to_string().as_bytes());
    let proof = prove_inclusion(index(3), tree.size(), &tree).unwrap();
    let receipt = Receipt { extra: None, index: index(3), proof, checkpoint: sealed.checkpoint() };
    put("3.note", &sealed.entries[3]);
    put("3.tlog-proof", receipt.to_string().as_bytes());

    let mut fork = sealed.clone();
    fork.entries[12] = b"another history".to_vec();
    let old = TreeSize::new(7).unwrap();
    let head = TreeHead { size: old, root: tree.root(old).unwrap() };
    put("old.checkpoint", common::checkpoint(head, &common::log_key()).as_bytes());
    put("new.checkpoint", sealed.checkpoint().as_bytes());
    put("forked.checkpoint", fork.checkpoint().as_bytes());
    let proof = prove_consistency(old, tree.size(), &tree).unwrap();
    let lines: String = proof.0.iter().map(|hash| format!("{hash}\n")).collect();
    put("old-new.proof", lines.as_bytes());

    // The same kernel and log, telling another story from the last call on.
    let mut other = scenario.clone();
    other.drafts[15] = Draft::new(beat(15), other.drafts[15].time);
    let lost = scenario.drafts[15].commitments();
    other.objects.retain(|digest, _| !lost.contains(digest));
    put("other.sift", &other.pack().write().unwrap());
    tiles::write(&other.seal(), &dir.join("other-mirror"));
    let mut early = sealed.clone();
    early.entries.truncate(14);
    early.in_pack.retain(|at| *at < 14);
    tiles::write(&early, &dir.join("early-mirror"));
    tiles::write(&sealed, &dir.join("mirror"));
    let mut stored = sealed.clone();
    common::spoil_signature(&mut stored.entries[19]);
    tiles::write(&stored, &dir.join("edited-mirror"));
    fs::write(dir.join("edited-mirror/checkpoint"), sealed.checkpoint()).unwrap();
    tiles::write(&sealed, &dir.join("incomplete-mirror"));
    let bundle = format!("incomplete-mirror/tile/entries/000.p/{}", sealed.entries.len());
    fs::remove_file(dir.join(bundle)).unwrap();
}

fn witness_lines() -> String {
    format!("witness w {}\nquorum w", common::witness_key().verifier())
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sift-verify"))
}

/// Runs each command of a transcript, as `program` runs it, and gives the transcript as it is now.
fn play(transcript: &str, dir: &Path, program: impl Fn() -> Command) -> String {
    let mut played = String::new();
    for line in transcript.lines() {
        let Some(command) = line.strip_prefix("$ sift-verify") else {
            // Comments stay; outputs are made anew.
            if line.starts_with('#') {
                writeln!(played, "{line}").unwrap();
            }
            continue;
        };
        let output = program()
            .args(command.split_whitespace())
            .current_dir(dir)
            .env_remove("COLUMNS")
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        writeln!(played, "{line}\n? {}", output.status.code().unwrap()).unwrap();
        if command.contains(" --json") {
            schema::hold_all(std::str::from_utf8(&output.stdout).unwrap());
        }
        for (mark, text) in [("", output.stdout), ("! ", output.stderr)] {
            for line in String::from_utf8(text).unwrap().lines() {
                writeln!(played, "{}", format!("  {mark}{}", timeless(line)).trim_end()).unwrap();
            }
        }
        played.push('\n');
    }
    played
}

/// A line without what differs from one time to the next: rates, and the end of a line of sums.
fn timeless(line: &str) -> String {
    if let Some((stable, _)) = line.split_once("\"threads\":") {
        return stable.to_owned() + "...";
    }
    match line.trim_start().split_once(" decisions/s ") {
        Some((_, rest)) => format!("  # decisions/s {rest}"),
        None => line.to_owned(),
    }
}

/// Shows the first line that differs, not both transcripts.
fn assert_same(played: &str, recorded: &str, name: &str) {
    let lines = (1..).zip(played.lines().zip(recorded.lines()));
    if let Some((line, (now, then))) = lines.into_iter().find(|(_, (now, then))| now != then) {
        panic!("{name}, line {line}; SIFT_BLESS=1 writes it anew\n  was {then}\n  is  {now}");
    }
    assert_eq!(played.len(), recorded.len(), "{name} is shorter or longer; SIFT_BLESS=1 writes it anew");
}

fn check(name: &str) {
    let dir = TempDir::new().unwrap();
    set_up(dir.path());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd").join(format!("{name}.txt"));
    let recorded = fs::read_to_string(&path).unwrap();
    let played = play(&recorded, dir.path(), program);
    for line in played.lines() {
        assert!(
            ["$", "  {", "  !   [possible values"].iter().any(|start| line.starts_with(start))
                || line.chars().count() <= 104,
            "too wide: {line}"
        );
    }
    if std::env::var_os("SIFT_BLESS").is_some() {
        fs::write(path, played).unwrap();
    } else {
        assert_same(&played, &recorded, name);
    }
}

#[test]
fn run() {
    check("run");
}

#[test]
fn replay() {
    check("replay");
}

#[test]
fn proof() {
    check("proof");
}

#[test]
fn log() {
    check("log");
}

#[test]
fn consistency() {
    check("consistency");
}

#[test]
fn diff() {
    check("diff");
}

#[test]
fn help() {
    check("help");
}

#[test]
fn explain() {
    check("explain");
}

/// The operating system refuses every call to the network, and writes down each that was tried.
#[test]
fn offline_is_offline() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: there is no strace");
        return;
    }
    let dir = TempDir::new().unwrap();
    let trace = dir.path().join("trace");
    let denied = || {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-A", "-e", "signal=none", "-e", "trace=%network"]);
        strace.args(["-e", "inject=%network:error=ENETDOWN", "-o"]).arg(&trace);
        strace.arg("--").arg(env!("CARGO_BIN_EXE_sift-verify"));
        strace
    };
    let transcripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd");
    let mut played = String::new();
    for transcript in fs::read_dir(transcripts).unwrap().map(|file| file.unwrap().path()) {
        let place = dir.path().join(transcript.file_stem().unwrap());
        fs::create_dir(&place).unwrap();
        set_up(&place);
        let recorded = fs::read_to_string(&transcript).unwrap();
        assert_same(&play(&recorded, &place, denied), &recorded, &transcript.display().to_string());
        played += &recorded;
    }
    let others = "$ sift-verify schema\n$ sift-verify man\n$ sift-verify completions bash\n";
    assert_eq!(play(others, dir.path(), denied).matches("\n? 0\n").count(), 3);
    assert_eq!(fs::read_to_string(&trace).unwrap(), "");
    // Every verb was asked, but the one whose work is the network.
    let verbs = sift_verify::args::Cli::command();
    let verbs = verbs.get_subcommands().map(|verb| verb.get_name().to_owned());
    let asked = |verb: &String| (played.clone() + others).contains(&format!("$ sift-verify {verb}"));
    let unasked: Vec<String> = verbs.filter(|verb| !asked(verb)).collect();
    assert_eq!(unasked, Vec::<String>::new());
    // The trap works: what does ask the network is caught.
    let online = "$ sift-verify log --trust trust.txt http://127.0.0.1:9/\n";
    assert!(!play(online, &dir.path().join("log"), denied).contains("? 0"));
    assert!(fs::read_to_string(&trace).unwrap().contains("(INJECTED)"));
}

#[test]
fn manual_and_completions_know_every_verb() {
    let dir = TempDir::new().unwrap();
    let run = |args: &[&str]| {
        let program = Command::new(env!("CARGO_BIN_EXE_sift-verify")).args(args).output().unwrap();
        assert!(program.status.success(), "{args:?}: {}", String::from_utf8_lossy(&program.stderr));
        String::from_utf8(program.stdout).unwrap()
    };
    let pages = dir.path().join("man/man1");
    run(&["man", pages.to_str().unwrap()]);
    let verbs = ["proof", "run", "replay", "log", "consistency", "diff", "explain", "completions", "man"];
    for verb in verbs {
        let page = fs::read_to_string(pages.join(format!("sift-verify-{verb}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
    }
    assert!(run(&["man"]).contains("Exit codes"));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(verbs.iter().all(|verb| script.contains(verb)), "{shell}");
        assert!(shell == "fish" || script.contains("chain-fork"), "{shell} completes codes");
    }
}

#[test]
fn a_page_stands_alone_and_says_what_the_report_says() {
    let dir = TempDir::new().unwrap();
    set_up(dir.path());
    let run = |args: &[&str]| {
        let program = Command::new(env!("CARGO_BIN_EXE_sift-verify"))
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        (program.status.code().unwrap(), String::from_utf8(program.stdout).unwrap())
    };
    let packs = ["run.sift", "edited.sift", "shortened.sift", "withheld.sift", "cut.sift"];
    let (code, reports) =
        run(&[&["run", "--trust", "trust.txt", "--json", "--html", "pages"], &packs[..]].concat());
    assert_eq!(code, 1);
    for (pack, report) in packs.iter().zip(reports.lines()) {
        let page = fs::read_to_string(dir.path().join("pages").join(pack.replace(".sift", ".html"))).unwrap();
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        assert!(page.starts_with("<!doctype html>") && page.contains("default-src 'none'"), "{pack}");
        for loads in
            ["<script", "<link", "<img", "<iframe", "src=", "url(", "@import", "javascript:", "href=\"http"]
        {
            assert!(!page.contains(loads), "{pack}: {loads}");
        }
        let verdict = if report["verdict"] == "verified" { "Verified" } else { "Rejected" };
        assert!(page.contains(&format!("{verdict}</p>")), "{pack}");
        let said = ["findings", "unchecked"].iter().flat_map(|list| report[*list].as_array().unwrap());
        for code in said.map(|one| one["code"].as_str().unwrap()) {
            assert!(page.contains(&format!("<h3>{code}</h3>")), "{pack}: {code}");
        }
        for one in report["findings"].as_array().unwrap().iter().filter_map(|one| one["seq"].as_u64()) {
            assert!(page.contains(&format!("<a href=\"#seq-{one}\">")), "{pack}: links to record {one}");
        }
    }
    // Every record is there, with its index and hash.
    let page = fs::read_to_string(dir.path().join("pages/run.html")).unwrap();
    let sealed = honest().seal();
    let (run_of_pack, mut records) = (honest().pack().run, 0);
    for (at, entry) in sealed.entries.iter().enumerate() {
        let parsed = sift_spec::entry::Entry::parse(entry.clone()).unwrap();
        if parsed.record().is_none_or(|record| record.run != run_of_pack) {
            continue;
        }
        records += 1;
        let hash = sift_spec::hash::leaf_hash(entry);
        assert!(
            page.contains(&format!("index {at}<br><code class=\"hash\" title=\"leaf hash\">{hash}")),
            "{at}"
        );
    }
    assert!(records > 10, "{records}");
    // One pack, one file.
    let (code, _) = run(&["run", "--trust", "trust.txt", "--html", "one.html", "run.sift"]);
    assert_eq!((code, fs::read_to_string(dir.path().join("one.html")).unwrap()), (0, page));
    // Where it cannot be written, that is said, and is no verdict.
    assert_eq!(run(&["run", "--trust", "trust.txt", "--html", "trust.txt/page.html", "run.sift"]).0, 2);
}

#[test]
fn one_file_comes_from_standard_input() {
    let dir = TempDir::new().unwrap();
    set_up(dir.path());
    let run = |args: &[&str], input: &str| {
        let program = Command::new(env!("CARGO_BIN_EXE_sift-verify"))
            .args(args)
            .current_dir(dir.path())
            .stdin(fs::File::open(dir.path().join(input)).unwrap())
            .output()
            .unwrap();
        let printed = String::from_utf8([program.stdout, program.stderr].concat()).unwrap();
        (program.status.code().unwrap(), printed)
    };
    let heads = ["old.checkpoint", "--log", "mirror"];
    for (args, input) in [
        (&["run", "--trust", "trust.txt", "-"][..], "run.sift"),
        (&["run", "--trust", "-", "run.sift"], "trust.txt"),
        (&["replay", "--trust", "trust.txt", "-"], "run.sift"),
        (&["diff", "--trust", "trust.txt", "-", "run.sift"], "run.sift"),
        (&["proof", "--trust", "trust.txt", "--entry", "-", "--receipt", "0.tlog-proof"], "0.note"),
        (&["proof", "--trust", "trust.txt", "--entry", "0.note", "--receipt", "-"], "0.tlog-proof"),
        (&["log", "--trust", "trust.txt", "--checkpoint", "-", "mirror"], "new.checkpoint"),
        (&[&["consistency", "--trust", "trust.txt", "-"][..], &heads].concat(), "new.checkpoint"),
    ] {
        let (code, printed) = run(args, input);
        assert_eq!(code, 0, "{args:?}: {printed}");
        let (code, printed) = run(args, "cut.sift");
        assert_ne!(code, 0, "{args:?}: {printed}");
    }
    assert!(run(&["run", "--trust", "trust.txt", "-"], "run.sift").1.starts_with("VERIFIED  standard input"));
    for twice in [&["run", "--trust", "trust.txt", "-", "-"][..], &["run", "--trust", "-", "-"]] {
        let (code, printed) = run(twice, if twice[2] == "-" { "trust.txt" } else { "run.sift" });
        assert!(code == 2 && printed.contains("only one can be \"-\""), "{twice:?}: {code} {printed}");
    }
}

#[test]
fn quiet_prints_findings_alone() {
    let dir = TempDir::new().unwrap();
    set_up(dir.path());
    for args in [
        &["run", "-q", "run.sift"][..],
        &["replay", "-q", "run.sift"],
        &["replay", "-q", "--bundle", "new-policy", "run.sift"],
        &["log", "-q", "mirror"],
        &["diff", "-q", "early-mirror", "mirror"],
        &["diff", "-q", "run.sift", "withheld.sift"],
        &["proof", "-q", "--entry", "0.note", "--receipt", "0.tlog-proof"],
        &["consistency", "-q", "old.checkpoint", "new.checkpoint", "--log", "mirror"],
    ] {
        let program = Command::new(env!("CARGO_BIN_EXE_sift-verify"))
            .args(args)
            .args(["--trust", "trust.txt"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let printed = String::from_utf8([program.stdout, program.stderr].concat()).unwrap();
        assert_eq!((program.status.code(), printed.as_str()), (Some(0), ""), "{args:?}");
    }
}
