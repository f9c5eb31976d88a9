//! Signed notes (C2SP signed-note): the one signature format of Sift (SPEC §2).
//!
//! A note is text, an empty line, and signature lines `— name base64(id ‖ signature)`. [`Note::parse`]
//! reads one without copying; [`Note::verify`] tells which keys signed it. Signatures are checked by the
//! rules of ZIP 215, one by one or in batches, which agree on every input.
//!
//! Out of scope: what the text says, and which keys are to be trusted.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::hash::{HashStream, key_id, signed_digest};
use crate::types::{Hash, KeyName};

/// Largest note in bytes: 1 MiB, room for post-quantum signatures that come with a checkpoint.
pub const NOTE_BYTES_MAX: usize = 1 << 20;

/// Most signature lines of a note.
pub const SIGNATURES_MAX: usize = 64;

/// Longest signature after base64, in bytes.
const SIGNATURE_BYTES_MAX: usize = 8192;

/// What starts a signature line: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Why bytes are not a note, or a note is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than the caller allows.
    #[error("a note here has at most {0} bytes")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// A control character other than line feed.
    #[error("a control character at byte {0}: only line feeds are allowed")]
    Control(usize),
    /// No empty line separates text from signatures, or a part is empty.
    #[error("no text, an empty line, and signature lines after it")]
    Structure,
    /// A line after the separator is not a signature.
    #[error("signature line {0} is not \"\u{2014} name base64\"")]
    SignatureLine(usize),
    /// Too many signature lines.
    #[error("more than {SIGNATURES_MAX} signature lines")]
    TooManySignatures,
    /// Two lines by one key.
    #[error("two signature lines by key {0}")]
    DuplicateSignature(String),
    /// A line by a known key does not verify.
    #[error("the signature of {0} does not verify")]
    SignatureInvalid(String),
    /// No line by a known key.
    #[error("no signature by a known key")]
    NoKnownSignature,
}

/// Why a key could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the grammar of a vkey or signer key.
    #[error("not a {0}")]
    Grammar(&'static str),
    /// The key id is not that of name and key.
    #[error("the key id does not belong to this name and key")]
    KeyId,
    /// A signature type that this program does not know.
    #[error("key type {0:#04x} is not known")]
    Type(u8),
    /// The bytes are not a usable public key.
    #[error("not a usable Ed25519 public key")]
    Weak,
}

/// First four bytes of a hash over name, type and key: a hint which key signed, not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// What a key's signatures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// 0x01: an Ed25519 signature of the note's text.
    Ed25519,
    /// 0x04: a timestamped Ed25519 cosignature of a checkpoint (C2SP tlog-cosignature).
    Cosignature,
}

impl KeyType {
    const fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Cosignature => 0x04,
        }
    }
}

/// A public key with its name, written as a C2SP vkey: `name+id+base64(type ‖ key)`.
#[derive(Clone)]
pub struct VerifierKey {
    name: KeyName,
    id: KeyId,
    key_type: KeyType,
    key: ed25519_zebra::VerificationKey,
}

impl VerifierKey {
    /// Makes a key of its parts.
    ///
    /// # Errors
    /// When the bytes are not the one encoding of a point of the curve, or the point is one of small order,
    /// under which anybody can sign.
    pub fn new(name: KeyName, key_type: KeyType, public: &[u8; 32]) -> Result<Self, KeyError> {
        // One key has one encoding: the point that the bytes name must print them again.
        let usable = |key: ed25519_dalek::VerifyingKey| {
            !key.is_weak() && key.to_edwards().compress().as_bytes() == public
        };
        if !ed25519_dalek::VerifyingKey::from_bytes(public).is_ok_and(usable) {
            return Err(KeyError::Weak);
        }
        let key = ed25519_zebra::VerificationKey::try_from(*public).map_err(|_| KeyError::Weak)?;
        let id = KeyId(key_id(name.as_str(), key_type.byte(), public));
        Ok(Self { name, id, key_type, key })
    }

    /// The key's name.
    #[must_use]
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// The key's id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What its signatures mean.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.into()
    }

    /// Whether `signature` is one of this key over `message` (ZIP 215).
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify(&ed25519_zebra::Signature::from_bytes(signature), message).is_ok()
    }

    /// Whether a signature line by this key would carry this name and id.
    #[must_use]
    pub fn matches(&self, line: &SignatureLine<'_>) -> bool {
        self.name.as_str() == line.name && self.id == line.id
    }
}

/// By their bytes: a key has one encoding, and comparing points takes several multiplications.
impl PartialEq for VerifierKey {
    fn eq(&self, other: &Self) -> bool {
        let parts = |key: &Self| (key.id, key.key_type, key.public());
        parts(self) == parts(other) && self.name == other.name
    }
}

impl Eq for VerifierKey {}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = [0; 33];
        key[0] = self.key_type.byte();
        key[1..].copy_from_slice(&self.public());
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        const GRAMMAR: KeyError = KeyError::Grammar("vkey: name+8 hexadecimal digits+base64");
        let (name, rest) = text.split_once('+').ok_or(GRAMMAR)?;
        let (id, key) = rest.split_once('+').ok_or(GRAMMAR)?;
        let name: KeyName = name.parse().map_err(|_| GRAMMAR)?;
        let (key_type, public) = parse_key(key).ok_or(GRAMMAR)?;
        let key_type = match key_type {
            0x01 => KeyType::Ed25519,
            0x04 => KeyType::Cosignature,
            other => return Err(KeyError::Type(other)),
        };
        let key = Self::new(name, key_type, &public)?;
        if key.id.to_string() == id { Ok(key) } else { Err(KeyError::KeyId) }
    }
}

/// A private key with its name. It signs and prints its public half; the private half is wiped when dropped.
pub struct SignerKey {
    public: VerifierKey,
    key: ed25519_dalek::SigningKey,
}

impl SignerKey {
    /// Makes a key from a 32-byte seed that the caller drew from a secure source.
    ///
    /// # Errors
    /// When the seed leads to an unusable key, which does not happen by chance.
    pub fn from_seed(name: KeyName, key_type: KeyType, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = VerifierKey::new(name, key_type, &key.verifying_key().to_bytes())?;
        Ok(Self { public, key })
    }

    /// The public half.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.public
    }

    /// Signs raw bytes (RFC 8032).
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// The signature line over a note's text, with its line feed.
    #[must_use]
    pub fn sign_text(&self, text: &str) -> String {
        signature_line(&self.public, &self.sign_bytes(text.as_bytes()))
    }

    /// The whole note: text, empty line, signature line.
    #[must_use]
    pub fn sign_note(&self, text: &str) -> String {
        format!("{text}\n{}", self.sign_text(text))
    }

    /// The key as text, to be kept secret: `PRIVATE+KEY+name+id+base64(type ‖ seed)`, as Go's sumdb/note prints it.
    #[must_use]
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let mut key = Zeroizing::new([0; 33]);
        key[0] = self.public.key_type.byte();
        key[1..].copy_from_slice(self.key.as_bytes());
        let key = Zeroizing::new(STANDARD.encode(*key));
        Zeroizing::new(format!("PRIVATE+KEY+{}+{}+{}", self.public.name, self.public.id, *key))
    }

    /// Reads what [`SignerKey::to_secret_text`] prints.
    ///
    /// # Errors
    /// When the text is not a signer key; the error never repeats it.
    pub fn from_secret_text(text: &str) -> Result<Self, KeyError> {
        const GRAMMAR: KeyError = KeyError::Grammar("signer key: PRIVATE+KEY+name+id+base64");
        let rest = text.strip_prefix("PRIVATE+KEY+").ok_or(GRAMMAR)?;
        let (name, rest) = rest.split_once('+').ok_or(GRAMMAR)?;
        let (id, key) = rest.split_once('+').ok_or(GRAMMAR)?;
        let name: KeyName = name.parse().map_err(|_| GRAMMAR)?;
        let (key_type, seed) = parse_key(key).ok_or(GRAMMAR)?;
        let seed = Zeroizing::new(seed);
        let key_type = match key_type {
            0x01 => KeyType::Ed25519,
            0x04 => KeyType::Cosignature,
            other => return Err(KeyError::Type(other)),
        };
        let key = Self::from_seed(name, key_type, &seed)?;
        if key.public.id.to_string() == id { Ok(key) } else { Err(KeyError::KeyId) }
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerKey({})", self.public)
    }
}

/// Type byte and 32 bytes of key, in canonical base64.
fn parse_key(text: &str) -> Option<(u8, [u8; 32])> {
    let mut bytes = Zeroizing::new([0; 33]);
    let whole = text.len() == 44 && STANDARD.decode_slice(text, &mut *bytes) == Ok(33);
    let (key_type, key) = bytes.split_first()?;
    if whole { Some((*key_type, key.try_into().ok()?)) } else { None }
}

/// A signature line with its line feed.
#[must_use]
pub fn signature_line(key: &VerifierKey, signature: &[u8]) -> String {
    let blob = [&key.id.0.to_be_bytes(), signature].concat();
    format!("{SIGNATURE_PREFIX}{} {}\n", key.name, STANDARD.encode(blob))
}

/// One signature line, not yet verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine<'a> {
    /// Name of the key.
    pub name: &'a str,
    /// Id of the key.
    pub id: KeyId,
    /// What follows the id.
    pub signature: Vec<u8>,
}

impl<'a> SignatureLine<'a> {
    /// Reads one line, without its line feed.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let (name, blob) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        if !KeyName::is_valid(name) || blob.len() > SIGNATURE_BYTES_MAX {
            return None;
        }
        let mut signature = STANDARD.decode(blob).ok()?;
        let id = KeyId(u32::from_be_bytes(*signature.first_chunk()?));
        signature.drain(..4);
        if signature.is_empty() { None } else { Some(Self { name, id, signature }) }
    }
}

/// A note, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    /// What is signed, with its final line feed.
    pub text: &'a str,
    /// The signature lines in their order.
    pub signatures: Vec<SignatureLine<'a>>,
}

impl<'a> Note<'a> {
    /// Reads a note of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When the bytes are not a well-formed note.
    pub fn parse(bytes: &'a [u8], bytes_max: usize) -> Result<Self, NoteError> {
        if bytes.len() > bytes_max {
            return Err(NoteError::TooLong(bytes_max));
        }
        let note = std::str::from_utf8(bytes).map_err(|error| NoteError::NotUtf8(error.valid_up_to()))?;
        if let Some(at) = control(bytes) {
            return Err(NoteError::Control(at));
        }
        // The last empty line separates; the text may hold others.
        let separator = last_empty_line(note).ok_or(NoteError::Structure)?;
        let (text, lines) = (&note[..=separator], &note[separator + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Structure)?;
        let mut signatures: Vec<SignatureLine<'a>> = Vec::with_capacity(1);
        for (position, line) in lines.split('\n').enumerate() {
            if position == SIGNATURES_MAX {
                return Err(NoteError::TooManySignatures);
            }
            let line = SignatureLine::parse(line).ok_or(NoteError::SignatureLine(position + 1))?;
            if signatures.iter().any(|other| (other.name, other.id) == (line.name, line.id)) {
                return Err(NoteError::DuplicateSignature(line.name.to_owned()));
            }
            signatures.push(line);
        }
        Ok(Self { text, signatures })
    }

    /// Checks the lines of all known keys of type 0x01 and tells which of `keys` signed.
    ///
    /// # Errors
    /// When the line of a known key does not verify, or there is none.
    pub fn verify<'k>(&self, keys: &'k [VerifierKey]) -> Result<Vec<&'k VerifierKey>, NoteError> {
        let mut signed = Vec::new();
        for line in &self.signatures {
            for key in keys.iter().filter(|key| key.key_type == KeyType::Ed25519 && key.matches(line)) {
                let signature = <&[u8; 64]>::try_from(line.signature.as_slice());
                if !signature.is_ok_and(|signature| key.verify(self.text.as_bytes(), signature)) {
                    return Err(NoteError::SignatureInvalid(line.name.to_owned()));
                }
                signed.push(key);
            }
        }
        if signed.is_empty() { Err(NoteError::NoKnownSignature) } else { Ok(signed) }
    }
}

/// Where the first of the last two line feeds stands that follow one another. Line by line: lines are long.
fn last_empty_line(text: &str) -> Option<usize> {
    let mut rest = text;
    loop {
        rest = &rest[..rest.rfind('\n')?];
        if rest.ends_with('\n') {
            return Some(rest.len() - 1);
        }
    }
}

/// Position of the first control character other than a line feed.
fn control(bytes: &[u8]) -> Option<usize> {
    const CHUNK: usize = 64;
    let is_control = |byte: u8| byte < 0x20 && byte != b'\n';
    // A chunk is looked at as a whole, without a way out of the middle: that compiles to a few vector instructions.
    let holds = |chunk: &[u8]| chunk.iter().fold(false, |any, byte| any | is_control(*byte));
    let chunk = bytes.chunks(CHUNK).position(holds)? * CHUNK;
    bytes.get(chunk..)?.iter().position(|byte| is_control(*byte)).map(|at| chunk + at)
}

/// One signature of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchItem<'a> {
    /// The key.
    pub key: &'a VerifierKey,
    /// The signed bytes.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a [u8; 64],
    /// A hash that fixes message and signature.
    fixed: Hash,
}

impl<'a> BatchItem<'a> {
    /// A signature of `key` over `message`, to be checked in a batch.
    #[must_use]
    pub fn new(key: &'a VerifierKey, message: &'a [u8], signature: &'a [u8; 64]) -> Self {
        Self { key, message, signature, fixed: signed_digest(signature, message) }
    }

    /// The signature of an entry, whose leaf hash fixes all of it already.
    pub(crate) const fn of_entry(
        key: &'a VerifierKey,
        message: &'a [u8],
        signature: &'a [u8; 64],
        leaf: Hash,
    ) -> Self {
        Self { key, message, signature, fixed: leaf }
    }
}

/// Batches up to this size that fail are checked one by one; larger ones are halved first.
const BATCH_SINGLY_MAX: usize = 4;

/// Checks many signatures at once: whether each would verify alone. Several times faster where few keys
/// signed much. `entropy` is 32 bytes that those who made the signatures could not foresee.
///
/// Batch and single verification agree on every input, because both follow ZIP 215. A batch that fails is halved,
/// so that one bad signature among n costs about 2·log n batches, not n single checks.
#[must_use]
pub fn verify_batch(items: &[BatchItem<'_>], entropy: &[u8; 32]) -> Vec<bool> {
    if items.len() > 1 {
        let mut batch = ed25519_zebra::batch::Verifier::new();
        for item in items {
            let key: ed25519_zebra::VerificationKeyBytes = item.key.key.into();
            batch.queue((key, ed25519_zebra::Signature::from_bytes(item.signature), item.message));
        }
        if batch.verify(Coefficients::new(entropy, items)).is_ok() {
            return vec![true; items.len()];
        }
    }
    if items.len() > BATCH_SINGLY_MAX {
        let (left, right) = items.split_at(items.len() / 2);
        return [verify_batch(left, entropy), verify_batch(right, entropy)].concat();
    }
    items.iter().map(|item| item.key.verify(item.message, item.signature)).collect()
}

/// The random coefficients of a batch, drawn from the caller's entropy and everything that is to be verified:
/// whoever could foresee them before fixing a message could make the sum of a batch come out right.
struct Coefficients {
    stream: HashStream,
    block: [u8; 32],
    used: usize,
}

impl Coefficients {
    fn new(entropy: &[u8; 32], items: &[BatchItem<'_>]) -> Self {
        let mut transcript = HashStream::seed(entropy);
        for item in items {
            transcript.item(&item.key.public(), &item.fixed);
        }
        Self { stream: transcript.stream(), block: [0; 32], used: 32 }
    }

    fn fill(&mut self, target: &mut [u8]) {
        for byte in target {
            if self.used == self.block.len() {
                self.block = self.stream.block();
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }
}

impl rand_core::TryRng for Coefficients {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Self::Error> {
        self.fill(target);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Coefficients {}
