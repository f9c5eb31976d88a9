//! What a call needs at most and what it was billed: the same sums for kernel and auditor.

use sift_spec::hash::object_digest;
use sift_spec::meter::{Amounts, Meter, Usage};
use sift_spec::record::{Refusal, Unpriced};
use sift_spec::types::Hash;

use crate::bundle::PolicyBundle;
use crate::input::CallInput;

impl PolicyBundle {
    /// The worst case of a call under the bundle's own limits.
    ///
    /// # Errors
    /// As [`PolicyBundle::need_where`].
    pub fn need(&self, call: &CallInput) -> Result<Amounts, Refusal> {
        self.need_where(self.budget().limits_money(), call)
    }

    /// The worst case of a call, to be reserved before it: one call, or one sub-agent with all that is delegated to it;
    /// for a model also the tokens of every class at their bound, and the money at the dearest class and tier.
    /// `limits_money` says whether any limit of the run, or of a run above it, is on money.
    ///
    /// # Errors
    /// [`Refusal::Unpriced`] when money is limited and the model has no price, or one beyond all bounds.
    pub fn need_where(&self, limits_money: bool, call: &CallInput) -> Result<Amounts, Refusal> {
        let unpriced = need_unpriced(call);
        let CallInput::Model { input_tokens, max_output, model, provider } = call else {
            return Ok(unpriced);
        };
        match self.prices().worst_case(provider.as_str(), model.as_str(), *input_tokens, *max_output) {
            Some(money) => Ok(unpriced.with(Meter::MicroUsd, money.get())),
            None if limits_money => Err(Refusal::Unpriced(Unpriced { model: model.clone() })),
            None => Ok(unpriced),
        }
    }

    /// What a model call is settled with, once its usage is known: tokens by class, their sum, and the money at the
    /// price of the model that was asked for, at most 2^53 − 1. No money where the model has no price.
    #[must_use]
    pub fn billed(&self, provider: &str, model: &str, usage: &Usage) -> Amounts {
        let unpriced = billed_unpriced(usage);
        match self.prices().cost(provider, model, usage) {
            Some(money) => unpriced.with(Meter::MicroUsd, money.get()),
            None => unpriced,
        }
    }
}

/// The worst case of a call without the price of a model's tokens: what can be told without a bundle. Money that a call
/// delegates is part of it.
#[must_use]
pub fn need_unpriced(call: &CallInput) -> Amounts {
    match call {
        CallInput::Tool { .. } => Amounts::ZERO.with(Meter::ToolCalls, 1),
        CallInput::Agent { delegate, .. } => {
            let budget = delegate.as_ref().map_or(Amounts::ZERO, |delegate| delegate.budget);
            budget.with(Meter::Agents, budget.get(Meter::Agents).saturating_add(1))
        }
        CallInput::Model { input_tokens, max_output, .. } => Amounts::ZERO
            .with(Meter::ModelCalls, 1)
            .with(Meter::CacheReadTokens, *input_tokens)
            .with(Meter::CacheWriteTokens, *input_tokens)
            .with(Meter::InputTokens, *input_tokens)
            .with(Meter::OutputTokens, *max_output)
            .with(Meter::ReasoningTokens, *max_output)
            .with(Meter::Tokens, input_tokens.saturating_add(*max_output)),
    }
}

/// What a model call is settled with, but for the money.
#[must_use]
pub fn billed_unpriced(usage: &Usage) -> Amounts {
    usage.amounts().with(Meter::ModelCalls, 1)
}

/// What identical tool calls of a run share: a digest over the tool's name and the exact argument bytes. Not salted, so
/// it belongs into a ledger and never into a record.
#[must_use]
pub fn identity(tool: &str, args: &[u8]) -> Hash {
    // The length keeps name and arguments apart.
    let head = format!("sift/identical@v1\n{} {tool}\n", tool.len());
    object_digest(&[head.as_bytes(), args].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_tells_name_and_arguments_apart() {
        assert_eq!(identity("a", b"{}"), identity("a", b"{}"));
        let all = [identity("a", b"{}"), identity("a", b"{ }"), identity("a\n{}", b""), identity("b", b"{}")];
        assert!(all.iter().enumerate().all(|(n, one)| !all[..n].contains(one)));
    }
}
