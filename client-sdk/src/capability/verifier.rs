//! The tool's side: judges a token with public keys alone.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use biscuit_auth::builder::{Fact, Rule, Term};
use biscuit_auth::datalog::RunLimits;
use biscuit_auth::{Authorizer, Biscuit, PublicKey, error};
use sift_rules::json;
use sift_spec::note::{Note, VerifierKey};
use sift_spec::payload::Object;
use sift_spec::record::{Call, ToolCall};
use sift_spec::types::{AgentName, Hash, RunId, Seq, UnixMillis};

use super::narrow::term;
use super::{
    AUDIENCE_BYTES_MAX, Action, CapabilityError, Spent, TOKEN_BYTES_MAX, VOUCH_HEADER, Vouch, nonce, parts,
};

/// Most times that a token may have been narrowed.
const BLOCKS_MAX: usize = 16;

/// Most members of the arguments that constraints can be about; with more, every such constraint fails.
const ARGS_MAX: usize = 256;

/// What evaluating the checks of a token may take: whoever narrows it writes them.
const LIMITS: RunLimits =
    RunLimits { max_facts: 1000, max_iterations: 100, max_time: Duration::from_millis(250) };

/// Judges tokens for one audience.
#[derive(Debug)]
pub struct Verifier<S> {
    kernels: Vec<VerifierKey>,
    audience: String,
    spent: S,
}

/// A call that may be made now, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The agent that proposed it.
    pub agent: AgentName,
    /// The call as its intent states it.
    pub call: ToolCall,
    /// The run.
    pub run: RunId,
    /// Seq of the intent.
    pub seq: Seq,
    /// Digest of the action, as the log's intent gives it.
    pub action: Hash,
    /// The key that vouched.
    pub kernel: VerifierKey,
    /// The token counts until then.
    pub until: UnixMillis,
}

impl<S: Spent> Verifier<S> {
    /// A verifier that believes these kernels' keys: while a kernel changes its key, the old and the new one. The
    /// audience is the name that this tool's side goes by.
    #[must_use]
    pub fn new(kernels: impl IntoIterator<Item = VerifierKey>, audience: &str, spent: S) -> Self {
        Self { kernels: kernels.into_iter().collect(), audience: audience.to_owned(), spent }
    }

    /// Judges the token of a request for `tool` with exactly these bytes as arguments, at the time `now`, and spends it.
    ///
    /// # Errors
    /// When the call must not be made. Nothing is spent then, unless the error is that it was spent before.
    pub fn check(
        &self,
        token: &str,
        tool: &str,
        args: &[u8],
        now: UnixMillis,
    ) -> Result<Allowed, CapabilityError> {
        // 1. A known kernel vouches, now, for the key that signed it.
        let (note, biscuit) = parts(token)?;
        let (kernel, vouch) = self.vouch(note)?;
        if now < vouch.from || now > vouch.until {
            return Err(CapabilityError::Expired);
        }
        let root = STANDARD.decode(&vouch.key).map_err(|_| CapabilityError::Invalid("its key"))?;
        let root = PublicKey::from_bytes(&root).map_err(|_| CapabilityError::Invalid("its key"))?;
        let parsed = Biscuit::from_base64(biscuit, root);
        let parsed = parsed.map_err(|_| CapabilityError::Invalid("a signature does not verify"))?;
        let again = parsed.to_base64().map_err(|_| CapabilityError::Invalid("it has no encoding"))?;
        if again != biscuit || parsed.block_count() > BLOCKS_MAX {
            return Err(CapabilityError::Invalid("it is not in its one encoding"));
        }
        // 2. For this audience, in time. Only what the kernel signed is read: not what others added.
        let mut world = Authorizer::new();
        world.add_token(&parsed).map_err(|_| CapabilityError::Invalid("it cannot be read"))?;
        let audience: String = only(&mut world, "audience")?;
        if audience.len() > AUDIENCE_BYTES_MAX || audience != self.audience {
            return Err(CapabilityError::Audience);
        }
        let until: i64 = only(&mut world, "until_ms")?;
        let until = u64::try_from(until).ok().and_then(|ms| UnixMillis::new(ms).ok());
        let until = until.ok_or(CapabilityError::Invalid("its time"))?;
        if now > until {
            return Err(CapabilityError::Expired);
        }
        // 3. For this tool, with these bytes.
        let action_text: String = only(&mut world, "action")?;
        let action: Action =
            serde_json::from_str(&action_text).map_err(|_| CapabilityError::Invalid("its action"))?;
        if serde_json::to_string(&action).ok().as_deref() != Some(&action_text) {
            return Err(CapabilityError::Invalid("its action has another encoding"));
        }
        let Action { agent, call: Call::Tool(call), run, seq } = action else {
            return Err(CapabilityError::Tool);
        };
        if call.name.as_str() != tool {
            return Err(CapabilityError::Tool);
        }
        let salt: Vec<u8> = only(&mut world, "salt")?;
        let salt = salt.try_into().map_err(|_| CapabilityError::Invalid("its salt"))?;
        let object = Object::new(salt, args).map_err(|_| CapabilityError::Arguments)?;
        object.check(&call.args).map_err(|_| CapabilityError::Arguments)?;
        // 4. What those who passed it on have taken away.
        narrowed(world, tool, args, now)?;
        // 5. Once.
        let action = nonce(&action_text);
        match self.spent.spend(action, until, now) {
            Ok(true) => Ok(Allowed { agent, call, run, seq, action, kernel, until }),
            Ok(false) => Err(CapabilityError::Spent),
            Err(why) => Err(CapabilityError::Memory(why)),
        }
    }

    fn vouch(&self, note: &str) -> Result<(VerifierKey, Vouch), CapabilityError> {
        let invalid = CapabilityError::Invalid("what vouches for it");
        // The engine refuses other encodings of the same bytes.
        let note = URL_SAFE_NO_PAD.decode(note).map_err(|_| invalid.clone())?;
        let note = Note::parse(&note, TOKEN_BYTES_MAX).map_err(|_| invalid.clone())?;
        let [line] = note.signatures.as_slice() else { return Err(invalid) };
        let kernel = self.kernels.iter().find(|key| key.name().as_str() == line.name && key.id() == line.id);
        let kernel = kernel.ok_or(CapabilityError::UnknownKernel)?;
        note.verify(std::slice::from_ref(kernel)).map_err(|_| invalid.clone())?;
        let json = note.text.strip_prefix(VOUCH_HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let vouch = json.and_then(|json| serde_json::from_str(json).ok()).ok_or(invalid)?;
        Ok((kernel.clone(), vouch))
    }
}

/// The one value of a fact that the kernel signed.
fn only<T>(world: &mut Authorizer, name: &str) -> Result<T, CapabilityError>
where
    T: Ord,
    (T,): TryFrom<Fact, Error = error::Token>,
{
    let invalid = |_| CapabilityError::Invalid("it lacks what the kernel says");
    let rule: Rule = format!("data($value) <- {name}($value)").as_str().try_into().map_err(invalid)?;
    let limits = LIMITS;
    let found: Vec<(T,)> = world.query_with_limits(rule, limits).map_err(invalid)?;
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some((value,)), None) => Ok(value),
        _ => Err(CapabilityError::Invalid("it lacks what the kernel says")),
    }
}

/// Whether every check that was added holds for this call.
fn narrowed(mut world: Authorizer, tool: &str, args: &[u8], now: UnixMillis) -> Result<(), CapabilityError> {
    let narrowed = |_| CapabilityError::Narrowed;
    let now = Term::Integer(i64::try_from(now.get()).unwrap_or(i64::MAX));
    let mut facts = vec![("now_ms", vec![now]), ("tool", vec![Term::Str(tool.to_owned())])];
    // Text that has two readings has no member here.
    let members = json::read_object(args).ok().filter(|members| members.len() <= ARGS_MAX);
    for (name, value) in members.into_iter().flatten() {
        facts.extend(term(&value).map(|value| ("arg", vec![Term::Str(name), value])));
    }
    for (name, terms) in facts {
        world.add_fact(Fact::new(name.to_owned(), terms)).map_err(narrowed)?;
    }
    world.allow().map_err(narrowed)?;
    world.authorize_with_limits(LIMITS).map_err(narrowed).map(drop)
}
