//! Programs of the project as processes of their own, for what only a process can suffer: SIGKILL.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sift_connect::Connect;

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
    reader: Option<JoinHandle<()>>,
    said: Arc<Mutex<String>>,
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
        Self::start_with(dir, &[])
    }

    /// The same with more arguments of `serve`.
    ///
    /// # Errors
    /// With what it printed, when it does not start.
    ///
    /// # Panics
    /// When the program cannot be run at all.
    pub fn start_with(dir: &Path, more: &[&str]) -> Result<Self, String> {
        Self::spawn(Command::new(program("sift-server")), dir, more)
    }

    /// The same, with environment variables, and reached in some way.
    ///
    /// # Errors
    /// With what it printed, when it does not start.
    ///
    /// # Panics
    /// When the program cannot be run at all.
    pub fn start_reached(
        dir: &Path,
        variables: &[(&str, &str)],
        scheme: &str,
        connect: &Connect,
    ) -> Result<Self, String> {
        let mut command = Command::new(program("sift-server"));
        command.envs(variables.iter().copied());
        let mut process = Self::start_under(command, dir)?;
        let address = process.http.url().trim_start_matches("http://").to_owned();
        process.http = Http::with(&format!("{scheme}://{address}"), connect);
        Ok(process)
    }

    /// The same, under another program: `command` ends where `sift-server`'s own arguments begin.
    ///
    /// # Errors
    /// With what it printed, when it does not start.
    ///
    /// # Panics
    /// When the program cannot be run at all.
    pub fn start_under(command: Command, dir: &Path) -> Result<Self, String> {
        Self::spawn(command, dir, &[])
    }

    fn spawn(mut command: Command, dir: &Path, more: &[&str]) -> Result<Self, String> {
        let mut child = command
            .arg("serve")
            .arg("--dir")
            .arg(dir)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sift-server");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut printed = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            printed.push_str(&line);
            printed.push('\n');
            if let Some((_, rest)) = line.split_once("address=") {
                let address = rest.split_whitespace().next().unwrap_or_default().to_owned();
                // Whoever writes a log must read it, or the writer stalls.
                let said = Arc::new(Mutex::new(printed));
                let reader = std::thread::spawn({
                    let said = Arc::clone(&said);
                    move || {
                        for line in lines.map_while(Result::ok) {
                            let mut said = said.lock().expect("no panic");
                            said.push_str(&line);
                            said.push('\n');
                        }
                    }
                });
                let http = Http::new(&format!("http://{address}"));
                return Ok(Self { child, reader: Some(reader), said, http });
            }
        }
        let _ = child.wait();
        Err(printed)
    }

    /// What the process has printed so far.
    ///
    /// # Panics
    /// When a thread of this test did.
    #[must_use]
    pub fn printed(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory of the process that is in RAM, in MiB.
    ///
    /// # Panics
    /// When the operating system does not tell.
    #[must_use]
    pub fn memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") / 1024
    }

    /// Waits for the process to end by itself. Gives what it printed, or nothing when it goes on.
    ///
    /// # Panics
    /// When the process is not ours.
    pub fn ended(&mut self, within: Duration) -> Option<String> {
        let until = Instant::now() + within;
        while self.child.try_wait().expect("our child").is_none() {
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        Some(self.said.lock().expect("no panic").clone())
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
