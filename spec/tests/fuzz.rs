//! The corpus of the fuzz targets, and all vectors, through the functions behind the targets: what fuzzing found once
//! stays found, with the stable compiler and in every `cargo test`.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fuzz::TARGETS;

const SPEC: &str = env!("CARGO_MANIFEST_DIR");

/// The corpus is kept in the repository and so it is small.
const CORPUS_BYTES_MAX: usize = 2 << 20;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Runs a target on a file; a panic names the file.
fn run(name: &str, path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    let ran = std::panic::catch_unwind(|| fuzz::run(name, &bytes));
    assert!(ran.is_ok(), "target {name} failed on {}", path.display());
    bytes.len()
}

#[test]
fn every_file_of_the_corpus_passes_its_target() {
    let corpus = Path::new(SPEC).join("fuzz/corpus");
    let mut total = 0;
    for (name, _) in TARGETS {
        let files = files(&corpus.join(name));
        assert!(!files.is_empty(), "no corpus for {name}");
        let bytes: usize = files.iter().map(|path| run(name, path)).sum();
        println!("{name:16} {:4} files {bytes:7} bytes", files.len());
        total += bytes;
    }
    assert!(total <= CORPUS_BYTES_MAX, "the corpus has {total} bytes");
}

#[test]
fn every_vector_passes_every_target() {
    let vectors = files(&Path::new(SPEC).join("vectors"));
    assert!(vectors.len() > 900, "{}", vectors.len());
    for path in &vectors {
        for (name, _) in TARGETS {
            run(name, path);
        }
    }
    println!("{} vectors through {} targets", vectors.len(), TARGETS.len());
}

/// A target without a binary is never fuzzed; a binary without a target does nothing.
#[test]
fn binaries_corpus_and_targets_have_the_same_names() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |folder: &str| -> BTreeSet<String> {
        let folder = std::fs::read_dir(Path::new(SPEC).join("fuzz").join(folder)).unwrap();
        folder.map(|item| item.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stems("fuzz_targets"), targets);
    assert_eq!(stems("corpus"), targets);
    let manifest = std::fs::read_to_string(Path::new(SPEC).join("fuzz/Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        let binary =
            std::fs::read_to_string(Path::new(SPEC).join(format!("fuzz/fuzz_targets/{name}.rs"))).unwrap();
        assert!(binary.contains(&format!("sift_fuzz::run(\"{name}\"")), "{name}");
    }
}
