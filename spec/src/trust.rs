//! Trust files (C2SP tlog-policy): which logs, witnesses and operator are believed (SPEC §8).
//!
//! A trust file is a tlog-policy file. The operator's key, which C2SP does not know, stands in a line
//! `#sift:operator <vkey>`, a comment to every other reader.
//!
//! Only [`TrustPolicy::verify`] makes a [`VerifiedCheckpoint`].

use std::collections::BTreeSet;

use crate::checkpoint::{Checkpoint, CheckpointError, parse_size, verify_cosignature};
use crate::note::{KeyError, KeyType, NOTE_BYTES_MAX, Note, NoteError, VerifierKey};
use crate::types::KeyName;

/// Most lines of each kind; the specification asks for at least 32.
const LINES_MAX: usize = 256;

/// What starts a line of Sift's own.
/// Largest trust file in bytes.
pub const TRUST_BYTES_MAX: usize = 1 << 20;

const DIRECTIVE: &str = "#sift:";

/// Why a file is not a trust file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A line is not understood.
    #[error("line {line}: {why}")]
    Line {
        /// Line number from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Too large.
    #[error("more than {TRUST_BYTES_MAX} bytes")]
    TooLarge,
    /// `quorum` is missing.
    #[error("no \"quorum\" line: name a witness or group, or write \"quorum none\"")]
    NoQuorum,
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not a note, or a known signature does not verify.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No listed log has this origin and signed it.
    #[error("no log of the trust file signed a checkpoint of origin {0}")]
    UnknownLog(String),
    /// The quorum is not reached.
    #[error("the quorum \"{quorum}\" is not reached: {have} witnesses of the trust file cosigned")]
    NotWitnessed {
        /// Name of the quorum.
        quorum: String,
        /// How many witnesses cosigned.
        have: usize,
    },
}

/// A log that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedLog {
    /// Its key; the name is the origin.
    pub key: VerifierKey,
    /// Where it is served, if stated.
    pub url: Option<String>,
}

/// A witness of a trust file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedWitness {
    /// Its name in the file, not that of its key.
    pub name: String,
    /// Its key, of type 0x04.
    pub key: VerifierKey,
    /// Where it takes checkpoints, if stated: the submission prefix of C2SP tlog-witness.
    pub url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Witness(Box<TrustedWitness>),
    Group { threshold: usize, members: Vec<usize> },
}

/// A parsed trust file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    logs: Vec<TrustedLog>,
    operator: Option<VerifierKey>,
    /// Witnesses and groups by name; groups refer to earlier positions only.
    members: Vec<(String, Member)>,
    /// Position of the quorum in `members`, or `None` for "none".
    quorum: Option<usize>,
}

/// A checkpoint that a trusted log signed and enough witnesses cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCheckpoint {
    checkpoint: Checkpoint,
    log: VerifierKey,
    witnesses: Vec<(String, u64)>,
    assertion: (),
}

impl VerifiedCheckpoint {
    /// The checkpoint.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The log's key that signed.
    #[must_use]
    pub const fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// Witnesses that cosigned, with their time in seconds since 1970.
    #[must_use]
    pub fn witnesses(&self) -> &[(String, u64)] {
        &self.witnesses
    }
}

impl TrustPolicy {
    /// A policy of one log and no witnesses, for a log's own use and for tests.
    #[must_use]
    pub fn of_log(log: VerifierKey, operator: Option<VerifierKey>) -> Self {
        Self::of_keys(vec![log], operator)
    }

    /// A policy of logs and no witnesses. While a log changes its key, it has several of the same name.
    #[must_use]
    pub fn of_keys(logs: Vec<VerifierKey>, operator: Option<VerifierKey>) -> Self {
        let logs = logs.into_iter().map(|key| TrustedLog { key, url: None }).collect();
        Self { logs, operator, members: Vec::new(), quorum: None }
    }

    /// Reads a trust file.
    ///
    /// # Errors
    /// When it is too large, a line is not understood, a name or key occurs twice, or there is not exactly one quorum.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > TRUST_BYTES_MAX {
            return Err(PolicyError::TooLarge);
        }
        let mut policy = Self { logs: Vec::new(), operator: None, members: Vec::new(), quorum: None };
        let mut quorum = None;
        for (position, line) in text.split('\n').enumerate() {
            let fail = |why: String| PolicyError::Line { line: position + 1, why };
            // tlog-policy: octets 0x09, 0x0A, 0x20-0x7E and 0x80-0xFF, white space is space and tab.
            if line.bytes().any(|byte| byte == 0x7f || (byte < 0x20 && byte != b'\t')) {
                return Err(fail("a control character, such as a carriage return".to_owned()));
            }
            let line = line.trim_matches([' ', '\t']);
            if let Some(directive) = line.strip_prefix(DIRECTIVE) {
                policy.directive(directive).map_err(fail)?;
            } else if !line.is_empty() && !line.starts_with('#') {
                let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
                policy.line(&words, &mut quorum).map_err(fail)?;
            }
        }
        policy.quorum = quorum.ok_or(PolicyError::NoQuorum)?;
        Ok(policy)
    }

    fn directive(&mut self, directive: &str) -> Result<(), String> {
        let words: Vec<&str> = directive.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        let ["operator", vkey] = words[..] else {
            return Err(format!(
                "{DIRECTIVE}{directive}: the one directive is \"{DIRECTIVE}operator <vkey>\""
            ));
        };
        if self.operator.is_some() {
            return Err("a second operator".to_owned());
        }
        self.operator = Some(self.key(vkey, KeyType::Ed25519)?);
        Ok(())
    }

    fn line(&mut self, words: &[&str], quorum: &mut Option<Option<usize>>) -> Result<(), String> {
        match *words {
            ["log", vkey, ref url @ ..] if url.len() <= 1 => {
                let key = self.key(vkey, KeyType::Ed25519)?;
                self.logs.push(TrustedLog { key, url: url.first().map(|url| (*url).to_owned()) });
                within(self.logs.len())
            }
            ["witness", name, vkey, ref url @ ..] if url.len() <= 1 => {
                let key = self.key(vkey, KeyType::Cosignature)?;
                let url = url.first().map(|url| (*url).to_owned());
                self.name(name, Member::Witness(Box::new(TrustedWitness { name: name.to_owned(), key, url })))
            }
            ["group", name, threshold, ref names @ ..] => {
                let members = names.iter().map(|name| self.position(name)).collect::<Result<Vec<_>, _>>()?;
                let distinct = members.iter().collect::<BTreeSet<_>>().len() == members.len();
                let threshold = match threshold {
                    "any" => 1,
                    "all" => members.len(),
                    number => {
                        let refuse = || format!("{number:?} is not all, any or a number");
                        let size = parse_size(number).ok_or_else(refuse)?;
                        usize::try_from(size.get()).map_err(|_| refuse())?
                    }
                };
                if !distinct || !(1..=members.len()).contains(&threshold) {
                    return Err("a group names each member once, and asks for 1 to all of them".to_owned());
                }
                self.name(name, Member::Group { threshold, members })
            }
            ["quorum", name] => {
                let member = if name == "none" { None } else { Some(self.position(name)?) };
                match quorum.replace(member) {
                    None => Ok(()),
                    Some(_) => Err("a second quorum".to_owned()),
                }
            }
            _ => Err("not a log, witness, group or quorum line of a tlog-policy".to_owned()),
        }
    }

    fn name(&mut self, name: &str, member: Member) -> Result<(), String> {
        if name == "none" || self.members.iter().any(|(other, _)| other == name) {
            return Err(format!("the name {name:?} is taken"));
        }
        self.members.push((name.to_owned(), member));
        within(self.members.len())
    }

    fn position(&self, name: &str) -> Result<usize, String> {
        let found = self.members.iter().position(|(other, _)| other == name);
        found.ok_or_else(|| format!("no witness or group {name:?} above this line"))
    }

    /// Reads a key that no other line has, under whatever name.
    fn key(&self, vkey: &str, key_type: KeyType) -> Result<VerifierKey, String> {
        let key: VerifierKey = vkey.parse().map_err(|error: KeyError| error.to_string())?;
        if key.key_type() != key_type {
            return Err(format!("this line needs a key of type {key_type:?}, not {:?}", key.key_type()));
        }
        let logs = self.logs.iter().map(|log| &log.key);
        let witnesses = self.witnesses().map(|witness| &witness.key);
        if logs.chain(witnesses).chain(&self.operator).any(|other| other.public() == key.public()) {
            return Err("this public key stands in another line".to_owned());
        }
        Ok(key)
    }

    /// The logs that are believed.
    #[must_use]
    pub fn logs(&self) -> &[TrustedLog] {
        &self.logs
    }

    /// The one origin of all listed logs; `None` when there is no log, or logs of several origins. A log that changes
    /// its key has several lines of one origin.
    #[must_use]
    pub fn origin(&self) -> Option<&KeyName> {
        let origin = self.logs.first()?.key.name();
        self.logs.iter().all(|log| log.key.name() == origin).then_some(origin)
    }

    /// The witnesses, in the order of their lines.
    pub fn witnesses(&self) -> impl Iterator<Item = &TrustedWitness> {
        self.members.iter().filter_map(|(_, member)| match member {
            Member::Witness(witness) => Some(&**witness),
            Member::Group { .. } => None,
        })
    }

    /// Name of the witness or group that must have cosigned; `None` for `quorum none`.
    #[must_use]
    pub fn quorum(&self) -> Option<&str> {
        self.quorum.and_then(|quorum| self.members.get(quorum)).map(|(name, _)| name.as_str())
    }

    /// Whether the quorum is satisfied where `cosigned` says which witnesses cosigned.
    #[must_use]
    pub fn is_satisfied(&self, cosigned: impl Fn(&TrustedWitness) -> bool) -> bool {
        let mut satisfied = Vec::with_capacity(self.members.len());
        for (_, member) in &self.members {
            satisfied.push(match member {
                Member::Witness(witness) => cosigned(witness),
                Member::Group { threshold, members } => {
                    members.iter().filter(|&&member| satisfied.get(member) == Some(&true)).count()
                        >= *threshold
                }
            });
        }
        self.quorum.is_none_or(|quorum| satisfied.get(quorum) == Some(&true))
    }

    /// The operator's key, root of all authority in the log.
    #[must_use]
    pub const fn operator(&self) -> Option<&VerifierKey> {
        self.operator.as_ref()
    }

    /// Checks a checkpoint's note.
    ///
    /// # Errors
    /// When no listed log signed it, a known signature does not verify, or the quorum is not reached.
    pub fn verify(&self, note: &[u8]) -> Result<VerifiedCheckpoint, TrustError> {
        // 1. It is a note, and its text is a checkpoint.
        let note = Note::parse(note, NOTE_BYTES_MAX)?;
        let checkpoint = Checkpoint::parse(note.text)?;
        // 2. A listed log of this origin signed it. A failing line of any known key rejects the note.
        let keys: Vec<VerifierKey> = self.logs.iter().map(|log| log.key.clone()).collect();
        let log = match note.verify(&keys) {
            Ok(signed) => signed.into_iter().find(|key| *key.name() == checkpoint.origin).cloned(),
            Err(NoteError::NoKnownSignature) => None,
            Err(error) => return Err(error.into()),
        };
        let log = log.ok_or_else(|| TrustError::UnknownLog(checkpoint.origin.to_string()))?;
        // 3. Witnesses: a line of a listed one either verifies or rejects the note.
        let mut witnesses = Vec::new();
        for witness in self.witnesses() {
            if let Some(line) = note.signatures.iter().find(|line| witness.key.matches(line)) {
                let time = verify_cosignature(note.text, &witness.key, line);
                let time = time.ok_or_else(|| NoteError::SignatureInvalid(line.name.to_owned()))?;
                witnesses.push((witness.name.clone(), time));
            }
        }
        // 4. The quorum.
        if !self.is_satisfied(|witness| witnesses.iter().any(|(name, _)| *name == witness.name)) {
            let quorum = self.quorum().unwrap_or_default().to_owned();
            return Err(TrustError::NotWitnessed { quorum, have: witnesses.len() });
        }
        Ok(VerifiedCheckpoint { checkpoint, log, witnesses, assertion: () })
    }
}

fn within(lines: usize) -> Result<(), String> {
    if lines > LINES_MAX { Err(format!("more than {LINES_MAX} lines of this kind")) } else { Ok(()) }
}
