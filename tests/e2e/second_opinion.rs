//! The second opinion: a verifier in another language, written from SPEC.md alone. It and `sift-verify` say the same of
//! every pack that the programs make, and of altered ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sift_tests::{program, python};
use tempfile::TempDir;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/second-opinion");

/// Altered copies of each pack.
const COPIES: usize = 12;

/// Python with its one package; nothing where that cannot be had, and tests may be passed over.
fn environment() -> Option<PathBuf> {
    let requirements = format!("{FOLDER}/requirements.txt");
    match python::environment("second-opinion", &["-r", &requirements]) {
        Ok(venv) => Some(venv.join("bin/python")),
        Err(why) if std::env::var_os("CI").is_none() => {
            println!("skipped: Python with its package is not to be had: {why}");
            None
        }
        Err(why) => panic!("Python with its package is not to be had: {why}"),
    }
}

fn second_opinion(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.current_dir(FOLDER).args(["-B", "-m"]);
    command
}

/// Whether each pack is verified, by the JSON that a verifier prints.
fn verdicts(command: &mut Command, packs: &[PathBuf]) -> Vec<bool> {
    let output = command.args(packs).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let verdicts: Vec<bool> = printed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["verdict"] == "verified")
        .collect();
    assert_eq!(verdicts.len(), packs.len(), "{}", String::from_utf8_lossy(&output.stderr));
    verdicts
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "sift"));
    files.sort();
    files
}

/// Copies of a pack with a byte changed, cut short or grown.
fn altered(pack: &Path, folder: &Path) -> Vec<PathBuf> {
    let whole = fs::read(pack).unwrap();
    let name = pack.file_stem().unwrap().to_str().unwrap();
    let alter = |number: usize| {
        let mut bytes = whole.clone();
        // Spread over the file, and another place in each pack.
        let at = (whole.len() * (2 * number + 1) / (2 * COPIES) + whole.len() % 97).min(whole.len() - 1);
        match number % 4 {
            0 | 1 => bytes[at] ^= 1 << (number % 8),
            2 => bytes.truncate(at),
            _ => bytes.insert(at, b'x'),
        }
        let file = folder.join(format!("{name}-{number}.sift"));
        fs::write(&file, bytes).unwrap();
        file
    };
    (0..COPIES).map(alter).collect()
}

#[test]
fn two_verifiers_say_the_same() {
    let Some(python) = environment() else { return };
    let dir = TempDir::new().unwrap();
    let demo = Command::new(program("sift-demo")).current_dir(dir.path()).output().unwrap();
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stdout));
    let made = dir.path().join("sift-demo");
    let trust = made.join("log/trust.policy");
    let honest = files(&made.join("evidence"));
    let attacks = files(&made.join("attacks"));
    let copies = dir.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let altered: Vec<PathBuf> = honest.iter().flat_map(|pack| altered(pack, &copies)).collect();
    let packs = [honest.clone(), attacks.clone(), altered].concat();

    let mut ours = Command::new(program("sift-verify"));
    let ours = verdicts(ours.args(["run", "--json", "--trust"]).arg(&trust), &packs);
    let mut theirs = second_opinion(&python);
    let theirs =
        verdicts(theirs.args(["sift_second_opinion", "run", "--json", "--trust"]).arg(&trust), &packs);
    for ((pack, ours), theirs) in packs.iter().zip(&ours).zip(&theirs) {
        assert_eq!(ours, theirs, "{}: verified by one and not by the other", pack.display());
    }
    let verified = ours.iter().filter(|verified| **verified).count();
    println!("{} packs: both verify {verified} and refuse {}", packs.len(), packs.len() - verified);
    assert_eq!(verified, honest.len(), "what is honest verifies, and nothing else");

    // Its own tests: every vector, and these packs.
    let mut tests = second_opinion(&python);
    tests.args(["unittest", "-q", "test_second_opinion"]);
    tests.env("SIFT_PACKS", made.join("evidence")).env("SIFT_TRUST", &trust);
    let output = tests.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{said}");
}
