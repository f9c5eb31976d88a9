//! Programs written in Go, installed by its own tool at a fixed version.
//!
//! Where there is no Go, a test that needs it says so and does nothing; but not where `CI` is set, which is where
//! all of them have to run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs the program of a module path with its version, such as `example.org/cmd/x@v1.2.3`. `None`, with a line
/// that says so, where there is no Go.
///
/// # Panics
/// When it cannot be installed, or there is no Go and `CI` is set.
#[must_use]
pub fn go_install(module: &str) -> Option<PathBuf> {
    let (path, _) = module.split_once('@').expect("a module path with a version");
    let name = path.rsplit('/').next().expect("a last segment");
    has_go(module).then(|| built(name, Command::new("go").args(["install", module]).env("GOBIN", folder())))
}

/// Builds the program in a folder of this repository.
///
/// # Panics
/// As [`go_install`].
#[must_use]
pub fn go_build(source: &Path) -> Option<PathBuf> {
    let name = source.file_name().and_then(|name| name.to_str()).expect("a folder with a name");
    let build = || {
        let mut go = Command::new("go");
        go.args(["build", "-buildvcs=false", "-o"]).arg(folder().join(name)).arg(".").current_dir(source);
        built(name, &mut go)
    };
    has_go(name).then(build)
}

fn folder() -> PathBuf {
    std::env::temp_dir().join("sift-tests-go")
}

fn has_go(wanted: &str) -> bool {
    let found = Command::new("go").arg("version").output().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "there is no Go to build {wanted} with, and CI is set"
    );
    if !found {
        println!("skipped: there is no Go to build {wanted} with");
    }
    found
}

fn built(name: &str, go: &mut Command) -> PathBuf {
    let done = go.output().expect("go");
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    folder().join(name)
}
