//! Deciding: exactly the committed bytes in, a verdict out.

use crate::bundle::PolicyBundle;
use crate::cedar::CedarDecider;
use crate::input::INPUT_BYTES_MAX;
use crate::rego::RegoDecider;
use crate::verdict::Verdict;

/// What one worker needs to decide: a virtual machine for Rego, slices of policies for Cedar, and what was read before.
///
/// Not shared between threads. Make one per worker with [`PolicyBundle::own_decider`], or with
/// [`PolicyBundle::decider`] for a few decisions.
#[derive(Debug)]
pub struct Decider {
    engine: Engine,
}

#[derive(Debug)]
pub(crate) enum Engine {
    Cedar(CedarDecider),
    Rego(Box<RegoDecider>),
}

impl Decider {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// What the policy says about `input`, the exact JSON bytes that the intent commits to.
    ///
    /// Never fails: bytes that are too long or no JSON, an error in a rule, or a malformed answer is a denial by
    /// [`crate::verdict::EVALUATION_ERROR`] with the reason. No call leaves anything behind for the next one.
    pub fn decide(&mut self, input: &[u8]) -> Verdict {
        if input.len() > INPUT_BYTES_MAX {
            return Verdict::evaluation_error("the policy input is longer than 256 KiB");
        }
        let verdict = match &mut self.engine {
            Engine::Cedar(decider) => decider.decide(input),
            Engine::Rego(decider) => decider.decide(input),
        };
        verdict.unwrap_or_else(|why| Verdict::evaluation_error(&why))
    }
}

/// Decides once: [`PolicyBundle::decider`] and [`Decider::decide`].
#[must_use]
pub fn decide(bundle: &PolicyBundle, input: &[u8]) -> Verdict {
    bundle.decider().decide(input)
}
