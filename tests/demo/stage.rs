//! The stage: a folder, the real programs in it, and words about what they do.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use sift_tests::program;

const HEADING: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan)));
const COMMAND: Style = Style::new().dimmed();

/// How long a log may take to start.
const START_SECONDS_MAX: u64 = 30;

/// Why the demo cannot go on, in words for people.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A folder in which programs run, and the logs that serve there.
pub(crate) struct Stage {
    folder: PathBuf,
    listen: String,
    logs: Vec<Child>,
}

impl Stage {
    /// Makes the folder anew. One that the demo did not make is never touched.
    pub(crate) fn new(folder: &str) -> Result<Self, Failure> {
        let folder = std::env::current_dir()?.join(folder);
        let mark = folder.join(".sift-demo");
        if folder.exists() {
            if !mark.exists() {
                return Err(Failure(format!(
                    "{} is not the demo's: move it away, or start elsewhere",
                    folder.display()
                )));
            }
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        std::fs::write(mark, "Made by sift-demo, which makes this folder anew each time.\n")?;
        Ok(Self { folder, listen: free_address()?, logs: Vec::new() })
    }

    /// A step begins.
    pub(crate) fn heading(&self, text: &str) {
        anstream::println!("\n{HEADING}== {text}{HEADING:#}");
    }

    /// What happens, in plain words.
    pub(crate) fn say(&self, text: &str) {
        anstream::println!("{text}");
    }

    /// The address of the log, for its configuration.
    pub(crate) fn address(&self) -> &str {
        &self.listen
    }

    /// The URL of the log.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// A path below the folder.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// A path as an argument.
    pub(crate) fn path(&self, path: &Path) -> String {
        path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
    }

    /// A command as people would type it.
    pub(crate) fn line(&self, name: &str, arguments: &[&str]) -> String {
        let quoted = arguments.iter().map(|argument| {
            let plain =
                argument.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./:=_-@".contains(&byte));
            if plain { (*argument).to_owned() } else { format!("'{argument}'") }
        });
        let mut line = std::iter::once(name.to_owned()).chain(quoted).collect::<Vec<_>>().join(" ");
        if line.len() > 400 {
            let end = (0..=400).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
            line.truncate(end);
            line.push_str(" …");
        }
        line
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        anstream::println!("{COMMAND}$ {}{COMMAND:#}", self.line(name, arguments));
        let mut command = Command::new(program(name));
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Runs a program that prints for people.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Result<(), Failure> {
        match self.command(name, arguments).status()?.code() {
            Some(0) => Ok(()),
            code => Err(Failure(format!("{name} ended with {code:?}, where 0 was expected"))),
        }
    }

    /// Runs a program whose output is too long to show, and gives it.
    pub(crate) fn quietly(&self, name: &str, arguments: &[&str]) -> Result<String, Failure> {
        let output = self.command(name, arguments).output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(Failure(format!("{name} ended with {}:\n{printed}{errors}", output.status)))
    }

    /// Runs the verifier on evidence that it must reject with this finding.
    pub(crate) fn caught(&self, arguments: &[&str], finding: &str) -> Result<(), Failure> {
        let output = self.command("sift-verify", arguments).output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let findings: Vec<&str> = printed
            .lines()
            .skip_while(|line| !line.contains(finding))
            .take_while(|line| !line.is_empty())
            .collect();
        if output.status.code() != Some(1) || findings.is_empty() {
            return Err(Failure(format!(
                "the attack was not caught as {finding}: {}\n{printed}",
                output.status
            )));
        }
        anstream::println!("{}", findings.join("\n"));
        anstream::println!("Caught: exit code 1, {finding}.");
        Ok(())
    }

    /// Makes a key with `sift-kernel` and gives its vkey.
    pub(crate) fn key(&self, arguments: &[&str]) -> Result<String, Failure> {
        let printed = self.quietly("sift-kernel", &[&["--json"], arguments].concat())?;
        let made: serde_json::Value =
            serde_json::from_str(&printed).map_err(|error| Failure(error.to_string()))?;
        let vkey = made.get("vkey").and_then(serde_json::Value::as_str);
        Ok(vkey.ok_or_else(|| Failure(format!("no vkey in {printed}")))?.to_owned())
    }

    /// Sends an operator's record to the log.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Result<(), Failure> {
        self.operate_at(&self.url(), "log/operator.key", arguments)
    }

    /// Sends an operator's record to a log.
    pub(crate) fn operate_at(&self, url: &str, key: &str, arguments: &[&str]) -> Result<(), Failure> {
        let (verb, rest) = arguments.split_first().ok_or_else(|| Failure("no operator's verb".to_owned()))?;
        let target = ["operator", verb, "--url", url, "--key", key, "--trust", "log/trust.policy"];
        self.run("sift-server", &[&target, rest].concat())
    }

    /// Starts the log in a folder, and waits until it is ready. Gives its URL.
    pub(crate) fn serve(&mut self, folder: &str) -> Result<String, Failure> {
        let config = std::fs::read_to_string(self.at(folder).join("sift-server.toml"))?;
        let listen = config.lines().find_map(|line| line.strip_prefix("listen = "));
        let listen = listen.map(|value| value.trim_matches('"').to_owned());
        let url = format!(
            "http://{}",
            listen.ok_or_else(|| Failure("no address in the configuration".to_owned()))?
        );
        let errors = std::fs::File::create(self.at(&format!("{folder}.out")))?;
        let child = self
            .command("sift-server", &["serve", "--dir", folder])
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()?;
        self.logs.push(child);
        let end = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while fetch(&format!("{url}/readyz")).is_err() {
            if Instant::now() > end {
                let printed = std::fs::read_to_string(self.at(&format!("{folder}.out"))).unwrap_or_default();
                return Err(Failure(format!("the log in {folder} did not start:\n{printed}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(url)
    }

    /// Stops all logs as a person would, so that their stores may be touched.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        for mut child in self.logs.drain(..) {
            Command::new("kill").arg(child.id().to_string()).status()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The packs that the kernel exported, as arguments.
    pub(crate) fn packs(&self) -> Result<Vec<String>, Failure> {
        let mut packs: Vec<String> = std::fs::read_dir(self.at("evidence"))?
            .filter_map(|item| Some(format!("evidence/{}", item.ok()?.file_name().into_string().ok()?)))
            .collect();
        packs.sort();
        Ok(packs)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.logs {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An address of this machine at which nobody listens.
pub(crate) fn free_address() -> Result<String, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Reads a resource of a log.
pub(crate) fn fetch(url: &str) -> Result<Vec<u8>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = sift_tests::Http::new(url).get("").await.map_err(|error| Failure(error.to_string()))?;
        if answer.status == 200 { Ok(answer.body) } else { Err(Failure(format!("{url}: {}", answer.text()))) }
    })
}
