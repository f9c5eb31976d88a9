//! Approvals: what an approver is asked, what they sign, and when it counts.
//!
//! A request is a file that holds everything the approver's program needs to check it without the kernel: the call as
//! the record states it, the exact bytes that will run, and a rendering of both. The program renders them again and
//! refuses the file when it says anything else. The statement binds the action, the rendering and the deadline.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sift_spec::hash::shown_digest;
use sift_spec::note::{Note, NoteError, SignerKey};
use sift_spec::payload::{Commitment, Object, PayloadError};
use sift_spec::record::{Answer, Call, RecordError, Statement, action_of};
use sift_spec::types::{AgentName, Hash, KeyName, RunId, Seq, Text, UnixMillis, Word};

use crate::clock::utc;
use crate::config::Approver;
use crate::visible::{beyond_ascii, visible};

/// First line of a request.
pub const REQUEST_HEADER: &str = "sift/request@v1";
/// Ending of a request's file name.
pub const REQUEST_SUFFIX: &str = ".request";
/// Ending of an answer's file name.
pub const ANSWER_SUFFIX: &str = ".answer";
/// Longest answer in bytes: what the field `statement` of an `approval` record takes.
pub const ANSWER_BYTES_MAX: usize = 8192;
/// Longest request in bytes: the largest object in base64, and a rendering in which every byte is shown by its number.
pub const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Folder of requests and answers in a kernel's directory.
pub const APPROVALS_DIR: &str = "approvals";

/// A held call that waits for an approver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The agent that proposed the call.
    pub agent: AgentName,
    /// The call as its intent states it.
    pub call: Call,
    /// An answer counts until this time of the kernel's clock.
    pub deadline: UnixMillis,
    /// Seq of the intent.
    pub intent: Seq,
    /// Origin of the log.
    pub log: KeyName,
    /// Base64 of the object that the call commits to: arguments, request or task.
    pub object: String,
    /// Why the policy wants an approval.
    pub reasons: Vec<Text<512>>,
    /// The role that the approver must have.
    pub role: Word,
    /// The rules that want it.
    pub rules: Vec<Text<128>>,
    /// The run.
    pub run: RunId,
}

/// Why a file is not a request that can be answered. The file, or whoever changed it, is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not the grammar of a request.
    #[error("not a request: {0}")]
    Grammar(String),
    /// The bytes are not those that the call commits to.
    #[error("the bytes in the request are not those that would run: {0}")]
    Object(#[from] PayloadError),
    /// The readable part is not what the machine part says.
    #[error("the readable part says something else than the machine part; do not approve it")]
    Rendering,
}

/// Why a statement does not release a call. The call still waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// Not a signed note.
    #[error(transparent)]
    Note(NoteError),
    /// Signed, but not a statement.
    #[error("not a statement: {0}")]
    Statement(#[from] RecordError),
    /// Not signed by one key only.
    #[error("a statement has exactly one signature")]
    Signatures,
    /// The key is not listed for the role.
    #[error(
        "{key} is not listed as approver in the role {role} for this agent; add it to kernel.toml, or let another approve"
    )]
    Approver {
        /// Name in the signature line.
        key: String,
        /// The role asked for.
        role: Word,
    },
    /// The statement is about something else.
    #[error("the statement is about another {0}")]
    About(&'static str),
    /// The deadline has passed.
    #[error("too late: the deadline was {}", utc(*.0))]
    Late(UnixMillis),
    /// Nothing waits under this run and seq: answered already, or past its deadline.
    #[error("nothing waits for this answer: it was answered already, or its deadline has passed")]
    NotWaiting,
}

impl Request {
    /// Digest of the action: what the approver signs.
    #[must_use]
    pub fn action(&self) -> Option<Hash> {
        action_of(&self.agent, &self.call, self.run, self.intent)
    }

    /// File name without its ending, for request and answer.
    #[must_use]
    pub fn stem(&self) -> String {
        format!("{}.{}", self.run, self.intent)
    }

    /// What the approver is shown.
    #[must_use]
    pub fn rendering(&self) -> String {
        let (what, commitment) = describe(&self.call);
        let content = STANDARD.decode(&self.object).ok().and_then(|bytes| Object::from_bytes(bytes).ok());
        let content = content.map(|object| object.content().to_vec()).unwrap_or_default();
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<10}{}", visible(value.as_bytes()));
        };
        line("agent", self.agent.as_str());
        line("call", &what);
        line("role", self.role.as_str());
        line("deadline", &utc(self.deadline));
        line("run", &format!("{} seq {}", self.run, self.intent));
        line("log", self.log.as_str());
        for rule in &self.rules {
            line("rule", rule.as_str());
        }
        for reason in &self.reasons {
            line("because", reason.as_str());
        }
        let beyond = match beyond_ascii(&content) {
            0 => String::new(),
            n => format!(", {n} characters are not ASCII"),
        };
        let _ = writeln!(text, "\n{}, {} bytes{beyond}:", commitment.name, content.len());
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let _ = writeln!(text, "| {}", visible(line));
        }
        text
    }

    /// Digest of what the approver is shown.
    #[must_use]
    pub fn shown(&self) -> Hash {
        shown_digest(&self.rendering())
    }

    /// The request file: header, one line of JSON, an empty line, the rendering.
    #[must_use]
    pub fn text(&self) -> String {
        // A request of strings and numbers always has JSON.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{REQUEST_HEADER}\n{json}\n\n{}", self.rendering())
    }

    /// Reads a request file and checks that its parts agree.
    ///
    /// # Errors
    /// When it is not a request, or its bytes or readable part are not those of the call.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        let grammar = |why: &str| RequestError::Grammar(why.to_owned());
        let rest = text.strip_prefix(REQUEST_HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let rest = rest.ok_or_else(|| grammar("another first line"))?;
        let (json, rendering) = rest.split_once("\n\n").ok_or_else(|| grammar("no readable part"))?;
        let request: Self =
            serde_json::from_str(json).map_err(|error| RequestError::Grammar(error.to_string()))?;
        let object = STANDARD.decode(&request.object).map_err(|_| grammar("the object is not base64"))?;
        Object::from_bytes(object)?.check(describe(&request.call).1)?;
        if request.rendering() != rendering {
            return Err(RequestError::Rendering);
        }
        Ok(request)
    }

    /// The approver's signed answer.
    ///
    /// # Errors
    /// When the statement has no encoding.
    pub fn sign(&self, answer: Answer, key: &SignerKey) -> Result<String, RecordError> {
        let action = self.action().ok_or(RecordError::Inconsistent("the action has no digest"))?;
        let statement = Statement {
            action,
            answer,
            deadline: self.deadline,
            intent: self.intent,
            log: self.log.clone(),
            role: self.role.clone(),
            run: self.run,
            shown: self.shown(),
        };
        Ok(key.sign_note(&statement.text()?))
    }

    /// Checks a signed answer to this request at the time `now`. Single use is the caller's to see to.
    ///
    /// # Errors
    /// When the note is not an answer to this request by a listed approver in time.
    pub fn check(
        &self,
        note: &str,
        approvers: &[Approver],
        now: UnixMillis,
    ) -> Result<Answer, ApprovalError> {
        // 1. A note with one signature, by a key that is listed for the role.
        let note = Note::parse(note.as_bytes(), ANSWER_BYTES_MAX).map_err(ApprovalError::Note)?;
        let [line] = note.signatures.as_slice() else { return Err(ApprovalError::Signatures) };
        let keys: Vec<_> = approvers
            .iter()
            .filter(|approver| approver.may(&self.role, &self.agent))
            .map(|approver| approver.key.clone())
            .collect();
        note.verify(&keys).map_err(|error| match error {
            NoteError::NoKnownSignature => {
                ApprovalError::Approver { key: line.name.to_owned(), role: self.role.clone() }
            }
            error => ApprovalError::Note(error),
        })?;
        // 2. A statement about exactly this call, as it was shown.
        let statement = Statement::parse(note.text)?;
        let same = [
            ("log", statement.log == self.log),
            ("run", statement.run == self.run),
            ("call", statement.intent == self.intent),
            ("action", Some(statement.action) == self.action()),
            ("role", statement.role == self.role),
            ("deadline", statement.deadline == self.deadline),
            ("rendering", statement.shown == self.shown()),
        ];
        if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
            return Err(ApprovalError::About(what));
        }
        // 3. In time.
        if now > self.deadline {
            return Err(ApprovalError::Late(self.deadline));
        }
        Ok(statement.answer)
    }
}

/// A call in a few words, and what it commits to.
pub(crate) fn describe(call: &Call) -> (String, &Commitment) {
    match call {
        Call::Agent(call) => (format!("start agent {}", call.agent), &call.task),
        Call::Model(call) => (format!("ask model {} of {}", call.model, call.provider), &call.request),
        Call::Tool(call) => (format!("use tool {} (id {})", call.name, call.id), &call.args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::note::KeyType;
    use sift_spec::record::ToolCall;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis::new(ms).unwrap()
    }

    fn key(name: &str, seed: u8) -> SignerKey {
        SignerKey::from_seed(name.parse().unwrap(), KeyType::Ed25519, &[seed; 32]).unwrap()
    }

    fn request(args: &[u8]) -> Request {
        let object = Object::new([3; 16], args).unwrap();
        let args = object.commit("arguments".parse().unwrap(), "application/json".parse().unwrap());
        let (id, name) = ("call_1".parse().unwrap(), "cancel_reservation".parse().unwrap());
        Request {
            agent: "airline/gpt-4o".parse().unwrap(),
            call: Call::Tool(ToolCall { args, id, name, proposed_by: None }),
            deadline: at(1_764_000_060_000),
            intent: Seq::new(4).unwrap(),
            log: "log.example".parse().unwrap(),
            object: STANDARD.encode(object.as_bytes()),
            reasons: vec!["refunds above 100 dollars".parse().unwrap()],
            role: "supervisor".parse().unwrap(),
            rules: vec!["refund".parse().unwrap()],
            run: RunId::from_parts(at(1_764_000_000_000), &[1; 10]),
        }
    }

    #[test]
    fn the_readable_part_cannot_lie() {
        let request = request("{\"id\":\"A\u{202e}B\"}".as_bytes());
        let text = request.text();
        assert!(text.contains("| {\"id\":\"A⟦U+202E⟧B\"}"), "{text}");
        assert_eq!(Request::parse(&text).unwrap(), request);
        let lying = text.replacen("| {\"id\":\"A⟦U+202E⟧B\"}", "| {\"id\":\"AB\"}", 1);
        assert_eq!(Request::parse(&lying), Err(RequestError::Rendering));
        let other = STANDARD.encode(Object::new([3; 16], b"{\"id\":\"C\"}").unwrap().as_bytes());
        let swapped = text.replacen(&request.object, &other, 1);
        assert!(matches!(Request::parse(&swapped), Err(RequestError::Object(_))));
    }

    #[test]
    fn only_the_right_answer_counts() {
        let boss = key("boss", 1);
        let approvers = [
            Approver {
                role: "supervisor".parse().unwrap(),
                key: boss.verifier().clone(),
                agents: vec!["airline/*".parse().unwrap()],
            },
            Approver {
                role: "auditor".parse().unwrap(),
                key: key("auditor", 2).verifier().clone(),
                agents: Vec::new(),
            },
        ];
        let request = request(b"{}");
        let (early, late) = (at(1_764_000_060_000), at(1_764_000_060_001));
        let good = request.sign(Answer::Approve, &boss).unwrap();
        assert_eq!(request.check(&good, &approvers, early), Ok(Answer::Approve));
        let no = request.sign(Answer::Refuse, &boss).unwrap();
        assert_eq!(request.check(&no, &approvers, early), Ok(Answer::Refuse));

        assert_eq!(request.check(&good, &approvers, late), Err(ApprovalError::Late(request.deadline)));
        let by_role = request.sign(Answer::Approve, &key("auditor", 2)).unwrap();
        assert!(matches!(request.check(&by_role, &approvers, early), Err(ApprovalError::Approver { .. })));
        let by_name = request.sign(Answer::Approve, &key("boss", 9)).unwrap();
        assert!(matches!(request.check(&by_name, &approvers, early), Err(ApprovalError::Approver { .. })));
        let forged = good.replacen("\"approve\"", "\"refuse\"", 1);
        assert!(matches!(request.check(&forged, &approvers, early), Err(ApprovalError::Note(_))));
        let second = format!("{good}{}", boss.sign_text("x\n"));
        assert!(request.check(&second, &approvers, early).is_err());

        let mut elsewhere = request.clone();
        elsewhere.agent = "railway/gpt-4o".parse().unwrap();
        let by_scope = elsewhere.sign(Answer::Approve, &boss).unwrap();
        assert!(matches!(elsewhere.check(&by_scope, &approvers, early), Err(ApprovalError::Approver { .. })));
        let mut changed = request.clone();
        changed.intent = Seq::new(5).unwrap();
        let other = changed.sign(Answer::Approve, &boss).unwrap();
        assert_eq!(request.check(&other, &approvers, early), Err(ApprovalError::About("call")));
        changed = request.clone();
        changed.deadline = at(1_764_000_090_000);
        let other = changed.sign(Answer::Approve, &boss).unwrap();
        assert_eq!(request.check(&other, &approvers, early), Err(ApprovalError::About("deadline")));
        changed = request.clone();
        changed.reasons.clear();
        let other = changed.sign(Answer::Approve, &boss).unwrap();
        assert_eq!(request.check(&other, &approvers, early), Err(ApprovalError::About("rendering")));
        changed = super::tests::request(b"{\"all\":true}");
        let other = changed.sign(Answer::Approve, &boss).unwrap();
        assert_eq!(request.check(&other, &approvers, early), Err(ApprovalError::About("action")));
    }
}
