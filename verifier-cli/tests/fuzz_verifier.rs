//! The functions behind the verifier's fuzz targets, over what fuzzing found, all vectors, and inputs from a fixed seed.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::{Path, PathBuf};

use fuzz::TARGETS;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/vectors");
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

/// The corpus is kept in the repository and so it is small.
const CORPUS_BYTES_MAX: usize = 1 << 20;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn run(name: &str, bytes: &[u8], what: &dyn std::fmt::Display) {
    let ran = std::panic::catch_unwind(|| fuzz::run(name, bytes));
    assert!(ran.is_ok(), "target {name} failed on {what}");
}

#[test]
fn every_file_of_the_corpus_passes_its_target() {
    let mut total = 0;
    for (name, _) in TARGETS {
        let files = files(&Path::new(CORPUS).join(name));
        assert!(!files.is_empty(), "no corpus for {name}");
        for path in &files {
            let bytes = std::fs::read(path).unwrap();
            run(name, &bytes, &path.display());
            total += bytes.len();
        }
        println!("{name}: {} files", files.len());
    }
    assert!(total <= CORPUS_BYTES_MAX, "the corpus has {total} bytes");
}

#[test]
fn every_vector_passes_every_target() {
    // All of them: the corpus leaves out what reaches no more than they do.
    for path in files(Path::new(VECTORS)) {
        let bytes = std::fs::read(&path).unwrap();
        for (name, _) in TARGETS {
            run(name, &bytes, &path.display());
        }
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn inputs_of_chance_pass_every_target() {
    const SEED: u64 = 5;
    println!("seed {SEED}");
    let inputs = if std::env::var("SIFT_FAULTS").is_ok_and(|wanted| wanted == "all") { 20_000 } else { 250 };
    // Pieces of JSON that mean something, and bytes that do not.
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "null",
        "true",
        "-1",
        "1e9",
        "9007199254740993",
        "\\u0000",
        "\\ud800",
        "\"tool_calls\":",
        "\"model\":\"gpt-4o\"",
        "\"max_tokens\":",
        "\"choices\":[",
        "\"id\":",
        "\n",
        "\u{2014} ",
    ];
    let mut state = SEED;
    for number in 0..inputs {
        let mut bytes = Vec::new();
        for _ in 0..next(&mut state) % 40 {
            match next(&mut state) % 3 {
                0 => bytes.extend_from_slice(pieces[next(&mut state) as usize % pieces.len()].as_bytes()),
                _ => bytes.push(next(&mut state) as u8),
            }
        }
        for (name, _) in TARGETS {
            run(name, &bytes, &format!("input {number} of seed {SEED}: {bytes:?}"));
        }
    }
}
