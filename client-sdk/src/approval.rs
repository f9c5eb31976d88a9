//! Approvals: what an approver is asked, what they sign, and when it counts.
//!
//! A request is a file that holds everything the approver's program needs to check it without the kernel: the call as
//! the record states it, the exact bytes that will run, and a rendering of both. The program renders them again and
//! refuses the file when it says anything else. The statement binds the action, the rendering and the deadline.
//!
//! The rendering says what the call needs and stays the same while it waits, so that all approvers of a call sign one
//! digest and can compare it. Who has answered so far is told beside it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sift_spec::hash::shown_digest;
use sift_spec::note::{Note, NoteError, SignerKey, VerifierKey};
use sift_spec::payload::{Commitment, Object, PayloadError};
use sift_spec::record::{
    Answer, Approvals, Call, CountError, Counted, Hold, HoldProgress, Needed, RecordError, Statement,
    action_of,
};
use sift_spec::types::{AgentName, Hash, KeyName, LeafIndex, RunId, Seq, Text, UnixMillis, Word};
use tokio::sync::watch;

use crate::config::Approver;
use crate::operator::Revocations;
use crate::visible::{beyond_ascii, mixed_words, visible};

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
    /// The approvals that count so far: statements of approvers, in the order in which they were recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<Text<ANSWER_BYTES_MAX>>,
    /// Whose approvals it needs, and until when an answer counts.
    pub hold: Hold,
    /// Seq of the intent.
    pub intent: Seq,
    /// Origin of the log.
    pub log: KeyName,
    /// Base64 of the object that the call commits to: arguments, request or task.
    pub object: String,
    /// Why the policy wants an approval.
    pub reasons: Vec<Text<512>>,
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
    /// Nobody could answer it, or it lists approvals that are none.
    #[error("the request contradicts itself: {0}")]
    Hold(String),
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
    /// Genuine, and does not count beside the answers before it.
    #[error(transparent)]
    Count(#[from] CountError),
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
    /// The operator has revoked the key.
    #[error(
        "the operator revoked the key of {key} at index {at} of the log, and what it signs does not count; another \
         approver may answer, or the same person with a new key that is granted and listed in kernel.toml"
    )]
    Revoked {
        /// Name of the key.
        key: KeyName,
        /// Index of the revocation.
        at: LeafIndex,
    },
    /// The statement is about something else.
    #[error("the statement is about another {0}")]
    About(&'static str),
    /// The deadline has passed.
    #[error("too late: the deadline was {}", .0.utc())]
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

    /// Most answers that may lie in the approvals folder for this call at a time: all approvals, and a refusal.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.hold.approvals.iter().fold(1, |sum, needed| sum.saturating_add(needed.count))
    }

    /// Where the answer in a slot lies, in the approvals folder; slots are 1 to [`Request::slots`].
    #[must_use]
    pub fn answer_path(&self, dir: &Path, slot: u32) -> PathBuf {
        let slot = if slot == 1 { String::new() } else { format!(".{slot}") };
        dir.join(format!("{}{slot}{ANSWER_SUFFIX}", self.stem()))
    }

    /// What the approver is shown, and signs: the same for every approver of the call.
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
        line("needs", &list(&self.hold.approvals));
        line("deadline", &self.hold.deadline.utc());
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
        let mixed = match mixed_words(&content) {
            0 => String::new(),
            n => format!(", LETTERS OF SEVERAL SCRIPTS in {n} words"),
        };
        let _ = writeln!(text, "\n{}, {} bytes{beyond}{mixed}:", commitment.name, content.len());
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let _ = writeln!(text, "| {}", visible(line));
        }
        text
    }

    /// The call in a few words, made visible.
    #[must_use]
    pub fn what(&self) -> String {
        visible(describe(&self.call).0.as_bytes())
    }

    /// Whose approvals are still missing.
    #[must_use]
    pub fn missing(&self) -> Vec<Needed> {
        let mut missing = self.hold.approvals.clone();
        for (_, role) in self.approved_by() {
            if let Some(needed) = missing.iter_mut().find(|needed| needed.role == role) {
                needed.count = needed.count.saturating_sub(1);
            }
        }
        missing.retain(|needed| needed.count > 0);
        missing
    }

    /// Name and role in each approval so far, as the kernel's file states them: [`Request::check`] says which are genuine.
    #[must_use]
    pub fn approved_by(&self) -> Vec<(String, Word)> {
        self.approved.iter().filter_map(|note| approved(note.as_str())).collect()
    }

    /// Who has approved so far, and what is missing. Names are as the kernel's file states them.
    #[must_use]
    pub fn status(&self) -> String {
        let mut text = String::new();
        for (key, role) in self.approved_by() {
            let _ = writeln!(text, "approved  {} as {role}", visible(key.as_bytes()));
        }
        let _ = writeln!(text, "missing   {}", list(&self.missing()));
        text
    }

    /// Digest of what the approver is shown.
    #[must_use]
    pub fn shown(&self) -> Hash {
        shown_digest(&self.rendering())
    }

    /// The request file: header, one line of JSON, an empty line, the rendering, an empty line, the status.
    #[must_use]
    pub fn text(&self) -> String {
        // A request of strings and numbers always has JSON.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{REQUEST_HEADER}\n{json}\n\n{}\n{}", self.rendering(), self.status())
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
        request.hold.check().map_err(|error| RequestError::Hold(error.to_string()))?;
        if request.approved.len() >= request.slots() as usize {
            return Err(RequestError::Hold("more approvals than it needs".to_owned()));
        }
        for note in &request.approved {
            let statement = Note::parse(note.as_str().as_bytes(), ANSWER_BYTES_MAX).ok();
            let statement = statement.and_then(|note| Statement::parse(note.text).ok());
            let about = statement.filter(|statement| {
                statement.answer == Answer::Approve && request.about(statement).is_none()
            });
            about.ok_or_else(|| RequestError::Hold("it lists an approval of something else".to_owned()))?;
        }
        if format!("{}\n{}", request.rendering(), request.status()) != rendering {
            return Err(RequestError::Rendering);
        }
        Ok(request)
    }

    /// The approver's signed answer to a call that needs approvals of one role.
    ///
    /// # Errors
    /// When it needs several, see [`Request::sign_as`], or the statement has no encoding.
    pub fn sign(&self, answer: Answer, key: &SignerKey) -> Result<String, RecordError> {
        match self.hold.approvals.as_slice() {
            [only] => self.sign_as(answer, &only.role, key),
            _ => Err(RecordError::Inconsistent("several roles must approve; say in which you answer")),
        }
    }

    /// The approver's signed answer in a role.
    ///
    /// # Errors
    /// When the statement has no encoding.
    pub fn sign_as(&self, answer: Answer, role: &Word, key: &SignerKey) -> Result<String, RecordError> {
        let action = self.action().ok_or(RecordError::Inconsistent("the action has no digest"))?;
        let statement = Statement {
            action,
            answer,
            deadline: self.hold.deadline,
            intent: self.intent,
            log: self.log.clone(),
            role: role.clone(),
            run: self.run,
            shown: self.shown(),
        };
        Ok(key.sign_note(&statement.text()?))
    }

    /// Checks that a signed answer is a genuine one to this request at the time `now`. Whether it counts beside those
    /// before it, [`Approvals::count`] says.
    ///
    /// # Errors
    /// When the note is not an answer to this request by a listed approver in time.
    pub fn check(
        &self,
        note: &str,
        approvers: &[Approver],
        now: UnixMillis,
    ) -> Result<Counted, ApprovalError> {
        // 1. A note with one signature.
        let note = Note::parse(note.as_bytes(), ANSWER_BYTES_MAX).map_err(ApprovalError::Note)?;
        let [line] = note.signatures.as_slice() else { return Err(ApprovalError::Signatures) };
        // 2. A statement about exactly this call, as it was shown, in a role that it needs.
        let statement = Statement::parse(note.text)?;
        if let Some(what) = self.about(&statement) {
            return Err(ApprovalError::About(what));
        }
        // 3. By a key that is listed for that role.
        let role = statement.role;
        let keys = approvers.iter().filter(|approver| approver.may(&role, &self.agent));
        let keys: Vec<_> = keys.map(|approver| approver.key.clone()).collect();
        let unlisted = || ApprovalError::Approver { key: line.name.to_owned(), role: role.clone() };
        note.verify(&keys).map_err(|error| match error {
            NoteError::NoKnownSignature => unlisted(),
            error => ApprovalError::Note(error),
        })?;
        let key = keys.into_iter().find(|key| key.name().as_str() == line.name && key.id() == line.id);
        let key = key.ok_or_else(unlisted)?;
        // 4. In time.
        if now > self.hold.deadline {
            return Err(ApprovalError::Late(self.hold.deadline));
        }
        Ok(Counted { answer: statement.answer, key, role })
    }

    /// What a statement says of something else than this request.
    fn about(&self, statement: &Statement) -> Option<&'static str> {
        let same = [
            ("log", statement.log == self.log),
            ("run", statement.run == self.run),
            ("call", statement.intent == self.intent),
            ("action", Some(statement.action) == self.action()),
            ("role", self.hold.count(&statement.role) > 0),
            ("deadline", statement.deadline == self.hold.deadline),
            ("rendering", statement.shown == self.shown()),
        ];
        same.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
    }
}

/// Approvals that are needed, in words: `auditor, supervisor (2 people)`.
#[must_use]
pub fn list(needed: &[Needed]) -> String {
    let words = needed.iter().map(|Needed { count, role }| match count {
        1 => role.to_string(),
        count => format!("{role} ({count} people)"),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

/// Name and role in an approval, as it states them.
fn approved(note: &str) -> Option<(String, Word)> {
    let note = Note::parse(note.as_bytes(), ANSWER_BYTES_MAX).ok()?;
    let statement = Statement::parse(note.text).ok()?;
    Some((note.signatures.first()?.name.to_owned(), statement.role))
}

/// A request with the answers that counted: what the kernel keeps of a call while it waits.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) request: Box<Request>,
    pub(crate) approvals: Approvals,
    /// Tells whoever waits for the call how far it is, once that is durable.
    pub(crate) told: watch::Sender<Told>,
}

/// How far a held call is, on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// The approvals that count so far.
    pub(crate) approved: Vec<Text<ANSWER_BYTES_MAX>>,
    pub(crate) end: Option<End>,
}

/// How a held call stopped waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Released by the approval record at `position`, on the word of these keys.
    Released { position: u64, approvers: Vec<VerifierKey> },
    /// Refused; its outcome is recorded.
    Refused,
    /// Cancelled, because an approval of it does not count any more; its outcome is recorded.
    Withdrawn(String),
}

impl Waiting {
    pub(crate) fn new(request: Box<Request>) -> Self {
        Self { request, approvals: Approvals::default(), told: watch::Sender::new(Told::default()) }
    }

    /// Checks and counts an answer.
    pub(crate) fn take(
        &mut self,
        note: &str,
        approvers: &[Approver],
        revocations: &Revocations,
        now: UnixMillis,
    ) -> Result<HoldProgress, ApprovalError> {
        let counted = self.request.check(note, approvers, now)?;
        if let Some(at) = revocations.at(&counted.key) {
            return Err(ApprovalError::Revoked { key: counted.key.name().clone(), at });
        }
        Ok(self.approvals.count(&self.request.hold, counted)?)
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
            approved: Vec::new(),
            hold: Hold {
                approvals: vec![Needed { count: 1, role: "supervisor".parse().unwrap() }],
                deadline: at(1_764_000_060_000),
            },
            intent: Seq::new(4).unwrap(),
            log: "log.example".parse().unwrap(),
            object: STANDARD.encode(object.as_bytes()),
            reasons: vec!["refunds above 100 dollars".parse().unwrap()],
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
        assert_eq!(request.check(&good, &approvers, early).map(|c| c.answer), Ok(Answer::Approve));
        let no = request.sign(Answer::Refuse, &boss).unwrap();
        assert_eq!(request.check(&no, &approvers, early).map(|c| c.answer), Ok(Answer::Refuse));

        assert_eq!(request.check(&good, &approvers, late), Err(ApprovalError::Late(request.hold.deadline)));
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
        changed.hold.deadline = at(1_764_000_090_000);
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
