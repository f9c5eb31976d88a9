//! Programs of the project as processes of their own, for what only a process can suffer: SIGKILL.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::http::Http;

/// Path of a program that `cargo build --workspace` made beside this one.
///
/// # Panics
/// When it is not there: build the workspace before its tests.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    // Programs are in `debug`, test programs in `debug/deps`.
    let found = this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("{name} is not built: run `cargo build --workspace` first, as `make test` does")
    })
}

/// A log in a process of its own, killed when dropped.
pub struct LogProcess {
    child: Child,
    /// Client of the log.
    pub http: Http,
}

impl LogProcess {
    /// Starts the log that `init` made in `dir` with an address of port 0, and waits until it serves.
    ///
    /// # Errors
    /// With what it printed, when it does not start.
    ///
    /// # Panics
    /// When the program cannot be run at all.
    pub fn start(dir: &Path) -> Result<Self, String> {
        let mut child = Command::new(program("sift-server"))
            .arg("serve")
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sift-server");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut printed = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("address=") {
                let address = rest.split_whitespace().next().unwrap_or_default().to_owned();
                // Whoever writes a log must read it, or the writer stalls.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self { child, http: Http::new(&format!("http://{address}")) });
            }
            printed.push_str(&line);
            printed.push('\n');
        }
        let _ = child.wait();
        Err(printed)
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }
}

impl Drop for LogProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
