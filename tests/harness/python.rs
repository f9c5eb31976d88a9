//! Python with packages that others wrote, in a folder of its own that is kept.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A virtual environment below the project's cache, with what `pip install` is given in it.
///
/// # Errors
/// Why it cannot be had: there is no Python, or no package index.
pub fn environment(name: &str, install: &[&str]) -> Result<PathBuf, String> {
    let home = std::env::var_os("HOME").ok_or("there is no HOME")?;
    let venv = Path::new(&home).join(".cache/sift").join(name);
    let done = venv.join("installed");
    if !done.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let pip = ["-m", "pip", "install", "--quiet"];
        run(Command::new(venv.join("bin/python")).args(pip).args(install))?;
        std::fs::write(done, "").map_err(|error| error.to_string())?;
    }
    Ok(venv)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let why = || format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(why()) }
}
