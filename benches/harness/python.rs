//! Python packages to compare with, each in an environment of its own below the user's cache directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sift_spec::hash::object_digest;

use crate::AnyError;

/// The environment with exactly these requirements; it is made when it is not there.
///
/// # Errors
/// When there is no Python, or a package cannot be had; whoever compares then leaves the comparison out.
pub fn environment(requirements: &Path) -> Result<PathBuf, AnyError> {
    let wanted =
        std::fs::read(requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let digest = object_digest(&wanted).to_string();
    // Base64 has characters that do not belong into a path.
    let digest: String = digest.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let name = requirements.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let dir = cache()?.join(format!("{name}-{digest}"));
    let done = dir.join("complete");
    if done.exists() {
        return Ok(dir);
    }
    eprintln!("installing {} into {} ...", String::from_utf8_lossy(&wanted).trim(), dir.display());
    command("python3", &["-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), dir.as_ref()])?;
    let pip = dir.join("bin/pip");
    let arguments = ["install", "--quiet", "--disable-pip-version-check", "--requirement"];
    let mut arguments: Vec<&std::ffi::OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    arguments.push(requirements.as_ref());
    command(&pip.to_string_lossy(), &arguments)?;
    std::fs::write(done, b"")?;
    Ok(dir)
}

/// Versions of the packages of an environment whose names start with one of these: `litellm 1.106.2, ...`.
///
/// # Errors
/// When the environment does not work.
pub fn versions(environment: &Path, names: &[&str]) -> Result<String, AnyError> {
    let output = Command::new(environment.join("bin/pip")).args(["list", "--format=freeze"]).output()?;
    let listed = String::from_utf8_lossy(&output.stdout).replace('_', "-");
    let wanted = listed.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    Ok(wanted.map(|line| line.replace("==", " ")).collect::<Vec<_>>().join(", "))
}

fn cache() -> Result<PathBuf, AnyError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let dir = base.ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join("sift/peers");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), AnyError> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.lines().last().unwrap_or("failed")).into())
}
