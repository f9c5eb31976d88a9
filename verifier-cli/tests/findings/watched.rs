//! What followers are shown: the real follower finds exactly what it must, over a socket and from the folder itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::maker::{TRUST, WITNESSED};
use super::watches::Watch;
use super::{FOLDER, made, on_disk};
use crate::common::lying::Lying;
use crate::common::schema;

/// A copy of a watch and of the trust files: a follower writes into its directory.
pub(super) fn copy(watch: &Watch) -> TempDir {
    let (folder, dir) = (Path::new(FOLDER), TempDir::new().unwrap());
    let mut files = BTreeMap::new();
    on_disk(&folder.join(&watch.folder), &format!("{}/", watch.folder), &mut files);
    for trust in [TRUST, WITNESSED] {
        fs::copy(folder.join(trust), dir.path().join(trust)).unwrap();
    }
    for (path, bytes) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

/// Exit code, codes and severities of what is found, and how often something could not be checked.
fn followed(arguments: &[String], dir: &Path) -> (i32, Vec<[String; 2]>, usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_sift-verify"))
        .args(arguments)
        .arg("--json")
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    schema::hold_all(&printed);
    let events: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &'static str| events.iter().filter(move |event| event["event"] == name);
    let found =
        of("finding").map(|event| ["code", "severity"].map(|name| event[name].as_str().unwrap().to_owned()));
    (output.status.code().unwrap(), found.collect(), of("trouble").count())
}

#[test]
fn each_watch_gives_exactly_its_finding() {
    for watch in made().watches {
        let severity = if watch.exit() == 0 { "warns" } else { "rejects" };
        let finding = [watch.finding.code(), severity].map(str::to_owned);
        let expected = (watch.exit(), vec![finding], 0);
        let at = watch.arguments.iter().position(|argument| argument == "--log").unwrap() + 1;
        for by_socket in [true, false] {
            let dir = copy(&watch);
            let log = Lying::serve(&dir.path().join(&watch.arguments[at]));
            let mut arguments = watch.arguments.clone();
            if by_socket {
                arguments[at] = log.url.clone();
            }
            // Asked again, it says so again.
            for _ in 0..2 {
                let found = followed(&arguments, dir.path());
                assert_eq!(found, expected, "{arguments:?}");
            }
            assert_eq!(log.asked().is_empty(), !by_socket);
        }
        println!("{:22} {:9} {}", watch.code, watch.exit(), watch.arguments.join(" "));
    }
}

/// What a follower had seen is read, and matters: to one that has seen nothing, what is served then is a log like others.
#[test]
fn what_was_seen_before_is_what_tells() {
    let mut told = 0;
    for watch in made().watches {
        let dir = copy(&watch);
        let seen = dir.path().join(&watch.folder).join("seen");
        if !seen.exists() {
            continue;
        }
        fs::remove_dir_all(seen).unwrap();
        assert_eq!(followed(&watch.arguments, dir.path()), (0, vec![], 0), "{:?}", watch.arguments);
        told += 1;
    }
    assert!(told >= 4, "{told}");
}

/// What an operator of a follower is told to do about is what followers find.
#[test]
fn each_finding_of_a_follower_has_a_watch() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/OPERATING.md")).unwrap();
    let (_, table) = text.split_once("| finding | what to do |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let first = rows.flat_map(|row| row.split('|').nth(1).unwrap().split(", ").collect::<Vec<_>>());
    let listed: BTreeSet<String> = first.map(|code| code.trim().trim_matches('`').to_owned()).collect();
    let watched: BTreeSet<String> = made().watches.iter().map(|watch| watch.code.to_owned()).collect();
    assert_eq!(listed, watched);
}
