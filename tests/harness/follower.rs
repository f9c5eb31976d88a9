//! `sift-verify follow` as a process, with its events.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sift_spec::note::VerifierKey;

use crate::process::program;

/// How long an event may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A follower, killed when dropped.
pub struct Follower {
    child: Child,
    events: Receiver<serde_json::Value>,
    /// Where the witness listens, where it is one.
    pub listen: Option<String>,
}

impl Follower {
    /// Starts it, under another program where `command` is that, and waits until it says that it has.
    ///
    /// # Errors
    /// When it ends before.
    ///
    /// # Panics
    /// When it cannot be run, or says nothing.
    pub fn start(mut command: Command, args: &[&str]) -> Result<Self, String> {
        command.args(args).arg("--json").stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("sift-verify");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (send, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).expect("an event"));
            }
        });
        let mut follower = Self { child, events, listen: None };
        let started = follower.wait(|told| told["event"] == "started").ok_or("it ended")?;
        follower.listen = started["listen"].as_str().map(str::to_owned);
        Ok(follower)
    }

    /// The program, following.
    #[must_use]
    pub fn command() -> Command {
        let mut command = Command::new(program("sift-verify"));
        command.arg("follow");
        command
    }

    /// A witness's key in a file, made by the program.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn witness_key(name: &str, path: &Path) -> VerifierKey {
        let mut command = Command::new(program("sift-verify"));
        let output = command.args(["witness-key", "--name", name, "--out"]).arg(path).output().expect("run");
        let said = String::from_utf8(output.stdout).expect("text");
        let vkey = said.split_whitespace().find(|word| word.starts_with(&format!("{name}+")));
        vkey.and_then(|vkey| vkey.parse().ok()).expect("a vkey")
    }

    /// Waits for an event; none where it ended.
    ///
    /// # Panics
    /// When none comes.
    pub fn wait(&self, is: impl Fn(&serde_json::Value) -> bool) -> Option<serde_json::Value> {
        let end = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        loop {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) if is(&event) => return Some(event),
                Ok(event) => told.push(event),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(error) => panic!("{error}, after {told:#?}"),
            }
        }
    }

    /// Waits until it tells this of a tree of at least so many entries.
    ///
    /// # Panics
    /// When it does not.
    pub fn until(&self, event: &str, size: u64) -> serde_json::Value {
        let is = |told: &serde_json::Value| told["event"] == event && told["size"].as_u64() >= Some(size);
        self.wait(is).unwrap_or_else(|| panic!("it ended before {event} of {size}"))
    }

    /// Ends it as a service manager does; the exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) -> i32 {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status.code().expect("no signal");
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended, waiting a while.
    ///
    /// # Panics
    /// When its state cannot be told.
    pub fn ended(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            if self.child.try_wait().expect("a status").is_some() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("ended");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
