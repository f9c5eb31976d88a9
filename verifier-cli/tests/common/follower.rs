//! `sift-verify follow` as a process, its events, and logs of a few bytes for it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use sift_spec::checkpoint::{Checkpoint, cosign};
use sift_spec::proof::{TreeHead, prove_consistency};
use sift_spec::types::TreeSize;
use tempfile::TempDir;

use super::lying::Lying;
use super::{LOG, Sealed, log_key, schema, tiles, trust_text, witness_key};

/// How long something may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A log of so many small entries, told apart from others by its history.
pub fn entries(history: u8, count: usize) -> Sealed {
    let entry = |n: usize| format!("entry {n} {}", if n >= 3 { history } else { 0 }).into_bytes();
    Sealed { entries: (0..count).map(entry).collect(), in_pack: Vec::new() }
}

/// A log that shares its first entries with the log of history 0, and no more.
pub fn forked_at(at: usize, count: usize) -> Sealed {
    let mut sealed = entries(0, count);
    sealed.entries.iter_mut().skip(at).for_each(|entry| entry.extend_from_slice(b" otherwise"));
    sealed
}

pub fn checkpoint_at(sealed: &Sealed, size: usize) -> String {
    let size = TreeSize::new(size as u64).unwrap();
    let head = TreeHead { size, root: sealed.tree().root(size).unwrap() };
    Checkpoint::new(LOG.parse().unwrap(), head).unwrap().sign(&log_key())
}

/// What a witness is sent: the log at a size, with the right proof from another.
pub fn request(sealed: &Sealed, old: usize, new: usize) -> String {
    let [from, to] = [old, new].map(|size| TreeSize::new(size as u64).unwrap());
    let proof = prove_consistency(from, to, &sealed.tree()).unwrap();
    let lines: String = proof.0.iter().map(|hash| format!("{hash}\n")).collect();
    format!("old {old}\n{lines}\n{}", checkpoint_at(sealed, new))
}

/// The same checkpoint, cosigned by the trust file's witness at a time.
pub fn cosigned(note: &str, seconds: u64) -> String {
    let text = note.split_once("\n\n").unwrap().0;
    note.to_owned() + &cosign(&format!("{text}\n"), &witness_key(), seconds).unwrap()
}

pub fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A log, a trust file, and a follower's directory.
pub struct Scene {
    pub folder: TempDir,
    pub log: Lying,
}

impl Scene {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("trust.txt"), trust_text()).unwrap();
        let log = Lying::serve(&folder.path().join("none"));
        Self { folder, log }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The log has become this one.
    pub fn show(&self, sealed: &Sealed) {
        self.show_at(sealed, &checkpoint_at(sealed, sealed.entries.len()));
    }

    /// The log serves these tiles and this checkpoint.
    pub fn show_at(&self, sealed: &Sealed, note: &str) {
        let dir = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        tiles::write(sealed, &dir);
        // A log has the partial tiles of every size that it published.
        let size = note.lines().nth(1).unwrap().parse::<usize>().unwrap().min(sealed.entries.len());
        tiles::write(&Sealed { entries: sealed.entries[..size].to_vec(), in_pack: Vec::new() }, &dir);
        std::fs::write(dir.join("checkpoint"), note).unwrap();
        self.log.show(&dir);
    }

    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sift-verify"));
        command.arg("follow").arg("--trust").arg(self.path("trust.txt")).arg("--dir").arg(self.path("dir"));
        command.args(["--log", &self.log.url, "--patience", "1", "--json"]).args(more);
        command
    }

    /// One round: exit code and events.
    pub fn once(&self, more: &[&str]) -> Round {
        let output = self.command(more).arg("--once").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let events = text.lines().map(event).collect();
        let said = String::from_utf8(output.stderr).unwrap();
        Round { code: output.status.code().unwrap(), events, said }
    }

    /// `sift-verify` in a directory of evidence.
    pub fn verify(&self, dir: &Path, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sift-verify"));
        let output = command.args(args).current_dir(dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), said + &String::from_utf8_lossy(&output.stderr))
    }

    pub fn start(&self, more: &[&str]) -> Daemon {
        Daemon::start(self.command(more))
    }
}

/// An event, which is a line of the published schema.
fn event(line: &str) -> Value {
    schema::hold(line);
    serde_json::from_str(line).unwrap()
}

/// What a round came to.
#[derive(Debug)]
pub struct Round {
    pub code: i32,
    pub events: Vec<Value>,
    pub said: String,
}

impl Round {
    pub fn of(&self, event: &str) -> Vec<&Value> {
        self.events.iter().filter(|told| told["event"] == event).collect()
    }

    /// The codes of what was found.
    pub fn findings(&self) -> Vec<&str> {
        self.of("finding").into_iter().map(|told| told["code"].as_str().unwrap()).collect()
    }

    /// Where evidence was kept.
    pub fn evidence(&self) -> PathBuf {
        self.of("finding").iter().find_map(|told| told["evidence"].as_str()).unwrap().into()
    }
}

/// A follower that runs, killed when dropped.
pub struct Daemon {
    pub child: Child,
    lines: Receiver<Value>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = send.send(event(&line));
            }
        });
        Self { child, lines, reader: Some(reader) }
    }

    /// Waits for an event.
    pub fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(event) if is(&event) => return event,
                Ok(event) => told.push(event),
                Err(error) => panic!("never: {what}: {error}; told: {told:#?}"),
            }
        }
    }

    pub fn until_event(&self, event: &str) -> Value {
        self.until(event, |told| told["event"] == event)
    }

    pub fn until_size(&self, event: &str, size: u64) -> Value {
        self.until(&format!("{event} {size}"), |told| told["event"] == event && told["size"] == size)
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Asks it to end; the exit code.
    pub fn stop(mut self) -> i32 {
        self.signal("-TERM");
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Also what nobody waited for is a line of the schema.
                self.reader.take().unwrap().join().unwrap();
                return status.code().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
