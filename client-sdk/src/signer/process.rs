//! A signer in a process of its own: the kernel's process never holds the key.
//!
//! The helper is any program that speaks `sift/sign@v1` on its standard input and output, line by line: a front of a
//! KMS, an HSM, an agent on another machine. `sift-kernel signer --key FILE` is the reference.
//!
//! ```text
//! helper:  sift/sign@v1 <vkey>
//! kernel:  sign <base64 of the message>
//! helper:  signed <base64 of the 64 bytes of the signature>     or:  error <why, in words>
//! ```
//!
//! Nothing that it answers is believed: the key must be the one that the configuration names, and every signature is
//! verified before it is used. A helper that ends is started again, once for each signature; one that does not answer
//! in time is killed. What then fails halts the kernel.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sift_spec::note::VerifierKey;

use super::{SignError, Signer};

/// First word of a helper's first line.
pub const SIGN_PROTOCOL: &str = "sift/sign@v1";
/// Longest answer of a helper in bytes.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Signs through a helper process.
pub struct ProcessSigner {
    key: VerifierKey,
    command: Vec<String>,
    patience: Duration,
    helper: Mutex<Option<Helper>>,
}

/// A helper that runs. A thread talks to it, so that whoever waits can give up.
struct Helper {
    child: Child,
    ask: Sender<String>,
    answers: Receiver<Result<String, String>>,
}

/// Why a helper gave no line.
enum Silence {
    /// It ended: another may do better.
    Ended(String),
    /// It hangs.
    Late,
}

impl ProcessSigner {
    /// Starts the helper and asks which key it has.
    ///
    /// # Errors
    /// When it cannot be started, has another key, or does not answer within `patience`.
    pub fn start(command: Vec<String>, key: VerifierKey, patience: Duration) -> Result<Self, SignError> {
        let signer = Self { key, command, patience, helper: Mutex::new(None) };
        let helper = signer.launch()?;
        *signer.helper.lock().unwrap_or_else(PoisonError::into_inner) = Some(helper);
        Ok(signer)
    }

    fn launch(&self) -> Result<Helper, SignError> {
        let [program, args @ ..] = self.command.as_slice() else {
            return Err(SignError("the command of the signer is empty".to_owned()));
        };
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|error| {
            SignError(format!(
                "the signer {program}: {error}; its command needs a whole path, or a name in PATH"
            ))
        })?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(SignError("the signer has no pipes".to_owned()));
        };
        let ((ask, asked), (answer, answers)) = (channel::<String>(), channel());
        let thread = std::thread::Builder::new().name("sift-signer".to_owned()).spawn(move || {
            let mut output = BufReader::new(output);
            let mut next = || {
                let mut line = String::new();
                let read = (&mut output).take(ANSWER_BYTES_MAX).read_line(&mut line);
                read.map_err(|error| error.to_string())?;
                let whole = line.strip_suffix('\n').map(str::to_owned);
                whole.ok_or_else(|| {
                    if line.is_empty() { "its output is closed" } else { "it wrote no whole line" }.to_owned()
                })
            };
            let mut line = next();
            loop {
                let ended = line.is_err();
                if answer.send(line).is_err() || ended {
                    return;
                }
                let Ok(asked) = asked.recv() else { return };
                let written = input.write_all(asked.as_bytes()).and_then(|()| input.flush());
                line = written.map_err(|error| error.to_string()).and_then(|()| next());
            }
        });
        thread.map_err(|error| SignError(format!("a thread for the signer: {error}")))?;
        let helper = Helper { child, ask, answers };
        let hello = helper.line(self.patience).map_err(|silence| self.explain(silence))?;
        if hello == format!("{SIGN_PROTOCOL} {}", self.key) {
            return Ok(helper);
        }
        let named = hello.strip_prefix(SIGN_PROTOCOL).map(str::trim);
        Err(SignError(match named.and_then(|vkey| vkey.parse::<VerifierKey>().ok()) {
            Some(other) => format!("the signer has the key {other}, not {}", self.key),
            None => format!("the signer does not speak {SIGN_PROTOCOL}"),
        }))
    }

    fn explain(&self, silence: Silence) -> SignError {
        SignError(match silence {
            Silence::Ended(why) => {
                format!("the signer ended: {why}; what it wrote to standard error says more")
            }
            Silence::Late => format!("the signer did not answer within {:?}", self.patience),
        })
    }
}

impl Helper {
    fn line(&self, patience: Duration) -> Result<String, Silence> {
        match self.answers.recv_timeout(patience) {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(why)) => Err(Silence::Ended(why)),
            Err(RecvTimeoutError::Disconnected) => Err(Silence::Ended("its output is closed".to_owned())),
            Err(RecvTimeoutError::Timeout) => Err(Silence::Late),
        }
    }

    fn ask(&self, question: String, patience: Duration) -> Result<String, Silence> {
        self.ask.send(question).map_err(|_| Silence::Ended("its output is closed".to_owned()))?;
        self.line(patience)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It is gone already, or is not wanted any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Signer for ProcessSigner {
    fn verifier(&self) -> &VerifierKey {
        &self.key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let question = format!("sign {}\n", STANDARD.encode(message));
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        let mut again = true;
        let answer = loop {
            let running = match helper.take() {
                Some(running) => running,
                None => self.launch()?,
            };
            match running.ask(question.clone(), self.patience) {
                Ok(answer) => {
                    *helper = Some(running);
                    break answer;
                }
                Err(Silence::Ended(_)) if again => again = false,
                Err(silence) => return Err(self.explain(silence)),
            }
        };
        if let Some(why) = answer.strip_prefix("error ") {
            return Err(SignError(format!("the signer says: {}", crate::visible::visible(why.as_bytes()))));
        }
        let signature = answer.strip_prefix("signed ").and_then(|text| STANDARD.decode(text).ok());
        let signature: Option<[u8; 64]> = signature.and_then(|bytes| bytes.try_into().ok());
        let signature =
            signature.ok_or_else(|| SignError(format!("the signer does not speak {SIGN_PROTOCOL}")))?;
        if !self.key.verify(message, &signature) {
            return Err(SignError(format!("the signer gave a signature that is not one of {}", self.key)));
        }
        Ok(signature)
    }
}

impl std::fmt::Debug for ProcessSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessSigner").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Answers on standard input and output, or what stands for them, with a key: the helper's side.
///
/// # Errors
/// When reading or writing fails. Ends well when the input does.
pub fn serve(
    signer: &dyn Signer,
    input: impl std::io::BufRead,
    mut output: impl std::io::Write,
) -> std::io::Result<()> {
    writeln!(output, "{SIGN_PROTOCOL} {}", signer.verifier())?;
    output.flush()?;
    let mut input = input;
    loop {
        let mut line = String::new();
        if input.by_ref().take(QUESTION_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let message = line.trim_end().strip_prefix("sign ").and_then(|text| STANDARD.decode(text).ok());
        match message.map(|message| signer.sign(&message)) {
            Some(Ok(signature)) => writeln!(output, "signed {}", STANDARD.encode(signature))?,
            Some(Err(SignError(why))) => writeln!(output, "error {}", why.replace('\n', " "))?,
            None => {
                writeln!(output, "error not a question of {SIGN_PROTOCOL}")?;
                output.flush()?;
                return Ok(());
            }
        }
        output.flush()?;
    }
}

/// Longest question in bytes: an entry in base64.
const QUESTION_BYTES_MAX: u64 = 128 << 10;
