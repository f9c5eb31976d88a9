//! Capability tokens: what a permitted tool call carries to the tool's side.
//!
//! A token says that this kernel's record let one exact call go: these argument bytes, this tool, for this audience,
//! until a moment soon. It exists only for an [`InFlight`], so only after its intent is durable and the call was
//! started; a call that is then given up is recorded as `unknown`. What was handed out cannot be called back: after a
//! halt a token still counts until it expires, which is why that is soon ([`TTL_DEFAULT`]).
//!
//! The tool's side needs the kernel's public key, and nothing else: see [`Verifier`]. A token has two parts, in text
//! `sift-cap1.NOTE.BISCUIT`. NOTE, in base64url, is signed by the kernel's key and vouches for a key that lives in the
//! memory of this process for [`VOUCHED_MS`]. BISCUIT (biscuitsec.org, version 2) is signed by that key, so that the
//! kernel's own key, which may be behind a module that signs slowly, is not asked for every call.
//!
//! **Its nonce is the digest of the action** (SPEC §3.6). The log has it, in the intent: a call's one token needs no
//! further record, and a stranger can tell which recorded call a tool's side was asked for.
//!
//! Whoever holds a token can narrow it, without any key, and pass it on: see [`attenuate`]. Nobody can widen one.
//!
//! ```no_run
//! # use sift_client::capability::*;
//! # use sift_spec::types::UnixMillis;
//! # fn serve(kernel: sift_spec::note::VerifierKey, header: &str, body: &[u8], now: UnixMillis) -> Result<(), CapabilityError> {
//! // On the tool's side, made once:
//! let verifier = Verifier::new([kernel], "payments.example", MemorySpent::default());
//! // For each request: the token from its header, the tool that it asks for, the very bytes of its arguments.
//! let call = verifier.check(header, "transfer", body, now)?;
//! println!("run {} seq {}: {}", call.run, call.seq, call.agent);
//! // Here, and only here, the transfer is made.
//! # Ok(())
//! # }
//! ```
//!
//! [`InFlight`]: crate::InFlight

mod narrow;
mod spent;
mod verifier;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use biscuit_auth::builder::{BiscuitBuilder, Fact, Term};
use biscuit_auth::{KeyPair, PrivateKey};
use serde::{Deserialize, Serialize};
use sift_spec::payload::SALT_BYTES;
use sift_spec::record::Call;
use sift_spec::types::{AgentName, Hash, RunId, Seq, UnixMillis};
use zeroize::Zeroizing;

pub use narrow::{Narrower, attenuate};
pub use spent::{FileSpent, MemorySpent, SPENT_MAX, Spent};
pub use verifier::{Allowed, Verifier};

use crate::signer::{SignError, Signer};

/// How long a token counts where the caller has no other wish: a minute.
pub const TTL_DEFAULT: Duration = Duration::from_secs(60);
/// Longest time that a token counts: an hour.
pub const TTL_MAX: Duration = Duration::from_secs(3600);
/// How long the kernel's key vouches for one key of tokens, in milliseconds: a day.
pub const VOUCHED_MS: u64 = 24 * 3_600_000;
/// Longest token in bytes, with what was added to narrow it.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Longest audience in bytes.
pub const AUDIENCE_BYTES_MAX: usize = 255;

/// First line of the note that vouches for a key of tokens.
const VOUCH_HEADER: &str = "sift/tokens@v1";
/// What a token starts with.
const PREFIX: &str = "sift-cap1.";

/// Why there is no token, or a token does not count. Says nothing of what the token holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Only calls of tools carry tokens.
    #[error("only the call of a tool carries a token")]
    NoTool,
    /// A call has one token.
    #[error("this call has its token already; a call has one")]
    Issued,
    /// Audience or lifetime are out of bounds. The caller is at fault.
    #[error("{0}")]
    Asked(&'static str),
    /// The kernel's key cannot sign.
    #[error(transparent)]
    Key(#[from] SignError),
    /// Not a token in its one encoding, or not signed as it should be.
    #[error("not a token of this kernel: {0}")]
    Invalid(&'static str),
    /// No known kernel vouches for it.
    #[error("no kernel that is known here vouches for this token")]
    UnknownKernel,
    /// Its time has passed, or that of the key that signed it.
    #[error("the token has expired")]
    Expired,
    /// Made for another audience.
    #[error("the token is for another audience")]
    Audience,
    /// Made for another tool.
    #[error("the token is for another tool")]
    Tool,
    /// The arguments are not those that were decided on.
    #[error("the arguments are not those that the kernel let go")]
    Arguments,
    /// Somebody who had the token has narrowed it to less than this.
    #[error("the token was narrowed, and does not allow this call")]
    Narrowed,
    /// The call was made before.
    #[error("this token was used before")]
    Spent,
    /// Whether it was used before cannot be told or kept.
    #[error("whether this token was used before cannot be told: {0}")]
    Memory(String),
}

/// What the note says that vouches for a key of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vouch {
    /// Tokens by this key count from then on.
    from: UnixMillis,
    /// The public key in base64.
    key: String,
    /// Tokens by this key count up to then.
    until: UnixMillis,
}

/// The action that a token is for: what its digest is over (SPEC §3.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    agent: AgentName,
    call: Call,
    run: RunId,
    seq: Seq,
}

/// Makes tokens: holds a key that the kernel's key vouches for.
pub(crate) struct Issuer {
    signer: Arc<dyn Signer>,
    current: Mutex<Option<Current>>,
}

/// A key of tokens, and the note that vouches for it.
struct Current {
    key: KeyPair,
    note: String,
    until: UnixMillis,
}

/// What a token is made for.
pub(crate) struct Issue<'a> {
    pub(crate) agent: &'a AgentName,
    pub(crate) call: &'a Call,
    pub(crate) run: RunId,
    pub(crate) seq: Seq,
    pub(crate) salt: [u8; SALT_BYTES],
    pub(crate) audience: &'a str,
    pub(crate) ttl: Duration,
    pub(crate) now: UnixMillis,
}

impl Issuer {
    pub(crate) const fn new(signer: Arc<dyn Signer>) -> Self {
        Self { signer, current: Mutex::new(None) }
    }

    /// Makes the token of one call.
    pub(crate) fn issue(&self, issue: &Issue<'_>) -> Result<String, CapabilityError> {
        let Issue { agent, call, run, seq, salt, audience, ttl, now } = issue;
        let Call::Tool(_) = call else { return Err(CapabilityError::NoTool) };
        if audience.is_empty() || audience.len() > AUDIENCE_BYTES_MAX {
            return Err(CapabilityError::Asked("an audience has 1 to 255 bytes"));
        }
        if ttl.is_zero() || *ttl > TTL_MAX {
            return Err(CapabilityError::Asked("a token counts for at most an hour"));
        }
        let until = later(*now, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))?;
        let action = Action { agent: (*agent).clone(), call: (*call).clone(), run: *run, seq: *seq };
        let action = serde_json::to_string(&action).map_err(|_| CapabilityError::Invalid("no action"))?;

        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|current| current.until < until) {
            *current = Some(self.renew(*now)?);
        }
        let Some(Current { key, note, .. }) = current.as_ref() else {
            return Err(CapabilityError::Invalid("no key"));
        };
        let mut builder = BiscuitBuilder::new();
        for (name, term) in [
            ("action", Term::Str(action)),
            ("salt", Term::Bytes(salt.to_vec())),
            ("audience", Term::Str((*audience).to_owned())),
            ("until_ms", Term::Integer(i64::try_from(until.get()).unwrap_or(i64::MAX))),
        ] {
            let added = builder.add_fact(Fact::new(name.to_owned(), vec![term]));
            added.map_err(|_| CapabilityError::Invalid("a fact"))?;
        }
        let biscuit = builder.build(key).and_then(|biscuit| biscuit.to_base64());
        let biscuit = biscuit.map_err(|_| CapabilityError::Invalid("it could not be made"))?;
        Ok(format!("{PREFIX}{}.{biscuit}", URL_SAFE_NO_PAD.encode(note)))
    }

    /// A new key, vouched for.
    fn renew(&self, now: UnixMillis) -> Result<Current, CapabilityError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| SignError(format!("no randomness: {error}")))?;
        let key = PrivateKey::from_bytes(&*seed).map_err(|_| CapabilityError::Invalid("a key"))?;
        let key = KeyPair::from(&key);
        let until = later(now, VOUCHED_MS)?;
        let vouch = Vouch { from: now, key: STANDARD.encode(key.public().to_bytes()), until };
        let json = serde_json::to_string(&vouch).map_err(|_| CapabilityError::Invalid("no note"))?;
        let text = format!("{VOUCH_HEADER}\n{json}\n");
        let verifier = self.signer.verifier();
        let signature = self.signer.sign(text.as_bytes())?;
        let blob = STANDARD.encode([verifier.id().0.to_be_bytes().as_slice(), &signature].concat());
        Ok(Current { key, note: format!("{text}\n\u{2014} {} {blob}\n", verifier.name()), until })
    }
}

/// The digest of an action, which is the nonce of its token.
fn nonce(action: &str) -> Hash {
    sift_spec::hash::action_digest(action)
}

fn later(time: UnixMillis, ms: u64) -> Result<UnixMillis, CapabilityError> {
    UnixMillis::new(time.get().saturating_add(ms))
        .map_err(|_| CapabilityError::Asked("the clock is at its end"))
}

/// The two parts of a token, as text.
fn parts(token: &str) -> Result<(&str, &str), CapabilityError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(CapabilityError::Invalid("it is too long"));
    }
    let parts = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.'));
    parts.ok_or(CapabilityError::Invalid("it has another form"))
}
