//! What is printed with `--json` is what the schema says: every line about the vectors, and each kind of line that there
//! is.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sift_spec::note::KeyType;
use tempfile::TempDir;

use super::{FOLDER, made, watched};
use crate::common::follower::{Scene, checkpoint_at, entries, request};
use crate::common::http::post;
use crate::common::kernel::{BUDGET, Kernel};
use crate::common::lying::Lie;
use crate::common::{self, schema};

fn lines(arguments: &[&str], folder: &Path) -> Vec<String> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sift-verify")).args(arguments).current_dir(folder).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(str::to_owned).collect()
}

/// Every line that some verb prints about the vectors, and about what is made from them.
fn all_lines() -> Vec<String> {
    let folder = Path::new(FOLDER);
    let mut all = Vec::new();
    let made = made();
    for case in made.cases {
        let arguments: Vec<&str> = case.arguments.iter().map(String::as_str).chain(["--json"]).collect();
        all.extend(lines(&arguments, folder));
    }
    for case in made.watches {
        let dir = watched::copy(&case);
        let arguments: Vec<&str> = case.arguments.iter().map(String::as_str).chain(["--json"]).collect();
        all.extend(lines(&arguments, dir.path()));
    }
    all.extend(lines(&["explain", "--json"], folder));
    let dir = TempDir::new().unwrap();
    // Replayed, skipped and rejected.
    for name in ["a.sift", "b.sift"] {
        std::fs::write(dir.path().join(name), asked().pack().write().unwrap()).unwrap();
    }
    std::fs::write(dir.path().join("c.sift"), b"cut").unwrap();
    let trust = folder.join("trust.txt");
    let trust = trust.to_str().unwrap();
    all.extend(lines(&["replay", "--json", "--trust", trust, "."], dir.path()));
    all
}

fn asked() -> common::Scenario {
    let mut kernel = Kernel::open(BUDGET);
    let call = kernel.tool("delete", b"{}");
    assert_eq!(call.get(), 1);
    kernel.close()
}

/// A follower, a mirror and a witness in one, that live through all that they have an event for. Each line was held
/// against the schema when it was read.
fn events_of_a_follower() -> BTreeSet<String> {
    let scene = Scene::new();
    let log = entries(0, 30);
    scene.show_at(&log, &checkpoint_at(&log, 20));
    scene.log.lie("v1/checkpoints/stream", Lie::Stream(Vec::new()));
    let key = ["witness-key", "--name", "regulator.example/witness", "--out", "witness.key"];
    assert_eq!(scene.verify(scene.folder.path(), &key).0, 0);
    let key = scene.path("witness.key");
    let witness = ["--witness-key", key.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let daemon = scene.start(&[&["--every", "1", "--mirror"], &witness[..]].concat());

    let told = RefCell::new(BTreeSet::new());
    let until = |wanted: &[&str]| {
        daemon.until(&wanted.join(", "), |event: &Value| {
            let mut told = told.borrow_mut();
            told.insert(format!("follow_{}", event["event"].as_str().unwrap()));
            wanted.iter().all(|wanted| told.contains(&format!("follow_{wanted}")))
        })
    };
    let listen = until(&["started"])["listen"].as_str().unwrap().to_owned();
    until(&["head", "mirrored", "feed"]);
    assert_eq!(post(&listen, "/add-checkpoint", request(&log, 20, 25).as_bytes()).status, 200);
    until(&["cosigned"]);
    let stranger = common::key(common::LOG, KeyType::Ed25519, 99);
    scene.log.lie("checkpoint", Lie::Bytes(common::checkpoint(log.head(), &stranger).into_bytes()));
    until(&["finding"]);
    scene.log.be_honest();
    until(&["cleared"]);
    scene.log.lie("checkpoint", Lie::Status(500));
    until(&["trouble"]);
    scene.log.be_honest();
    until(&["recovered"]);
    daemon.signal("-TERM");
    until(&["stopped"]);
    assert_eq!(daemon.stop(), 0);
    told.into_inner()
}

#[test]
fn every_kind_of_line_is_as_the_schema_says() {
    let printed = lines(&["schema"], Path::new(FOLDER)).join("\n");
    assert_eq!(printed, sift_verify::schema::schema().trim_end(), "what is read here is what is published");
    let mut told = BTreeMap::new();
    let kinds = all_lines().into_iter().map(|line| schema::hold(&line)).chain(events_of_a_follower());
    for kind in kinds {
        *told.entry(kind).or_insert(0) += 1;
    }
    for (kind, number) in &told {
        println!("{number:4} {kind}");
    }
    let kinds: BTreeSet<String> = schema::kinds().into_iter().collect();
    assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), kinds, "a kind that nothing prints is not tested");
}
