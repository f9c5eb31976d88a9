//! What holds of the source itself: which way dependencies point, and what no source file may hold.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The `sift-*` packages that a package depends on, tests and benches of its own left out.
fn depends_on(folder: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    dependencies.keys().filter(|name| name.starts_with("sift-")).cloned().collect()
}

#[test]
fn dependencies_point_down() {
    for (folder, expected) in [
        ("spec", &[][..]),
        ("spec/rules", &["sift-spec"]),
        ("spec/connect", &[]),
        ("server", &["sift-connect", "sift-spec"]),
        ("client-sdk", &["sift-connect", "sift-rules", "sift-spec"]),
        ("verifier-cli", &["sift-connect", "sift-rules", "sift-spec"]),
    ] {
        let mut found = depends_on(folder);
        found.sort();
        assert_eq!(found, expected, "{folder}");
    }
}

#[test]
fn the_specification_is_pure() {
    for folder in ["spec", "spec/rules"] {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for name in manifest["dependencies"].as_table().unwrap().keys() {
            assert!(
                !["tokio", "reqwest", "getrandom", "rand", "axum"].contains(&name.as_str()),
                "{folder}: {name}"
            );
        }
        for file in sources(&root().join(folder).join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            for word in
                ["std::fs", "std::net", "SystemTime", "Instant::now", "async fn", "std::env", "std::thread"]
            {
                assert!(!text.contains(word), "{}: {word}", file.display());
            }
        }
    }
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for folder in
        ["spec", "spec/rules", "spec/connect", "server", "client-sdk", "verifier-cli", "tests", "benches"]
    {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder}");
    }
    let root_manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(root_manifest.contains("unsafe_code = \"forbid\""));
}

#[test]
fn no_test_is_switched_off_and_nothing_is_left_to_do() {
    for folder in ["spec", "server", "client-sdk", "verifier-cli", "tests", "benches"] {
        for file in sources(&root().join(folder)) {
            if file.ends_with("tests/e2e/tidy.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            for word in ["#[ignore", "todo!(", "unimplemented!(", "FIXME"] {
                assert!(!code.iter().any(|line| line.contains(word)), "{}: {word}", file.display());
            }
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap() {
        let item = item.unwrap();
        if item.file_type().unwrap().is_dir() {
            if item.file_name() != "target" {
                found.extend(sources(&item.path()));
            }
        } else if item.path().extension().is_some_and(|ending| ending == "rs") {
            found.push(item.path());
        }
    }
    found
}
