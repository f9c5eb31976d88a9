//! Spans: what observers of a kernel see of each call, under the names of OpenTelemetry's conventions for generative AI.
//!
//! ```text
//! sift.call                       a call, from its proposal to its end
//! ├─ sift.propose                 decided, held, and its intent durable
//! ├─ sift.approval                waiting for approvers
//! └─ execute_tool NAME            made, and its outcome recorded; or: chat MODEL, invoke_agent NAME
//! ```
//!
//! `sift.call` lies below the span that proposes. `gen_ai.conversation.id` is the run. Nothing of a payload, and no reason or
//! error that may quote one, is in a span: only names, numbers and states.

use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{Call, Effect, Status};
use sift_spec::types::{Seq, Text};
use tracing::Span;
use tracing::field::Empty;

use crate::call::{Proposal, Report};
use crate::permit::Done;
use crate::run::Denial;
use crate::shared::RunShared;

/// The span of a call, and of everything that belongs to it.
pub(crate) fn call(proposal: &Proposal, run: &RunShared) -> Span {
    let (kind, name) = match proposal {
        Proposal::Agent(call) => ("agent", call.agent.as_str()),
        Proposal::Model(call) => ("model", call.model.as_str()),
        Proposal::Tool(call) => ("tool", call.name.as_str()),
    };
    tracing::info_span!(
        "sift.call",
        "otel.status_code" = Empty,
        "gen_ai.conversation.id" = %run.id,
        "gen_ai.agent.name" = run.agent.as_str(),
        "sift.call.kind" = kind,
        "sift.call.name" = name,
        "sift.policy.bundle" = %run.bundle().digest().hex(),
        "sift.decision" = Empty,
        "sift.rules" = Empty,
        "sift.refusal" = Empty,
        "sift.intent.seq" = Empty,
        "sift.reserved.micro_usd" = Empty,
        "sift.reserved.tokens" = Empty,
        "error.type" = Empty,
    )
}

/// Deciding, holding and recording, below the call's span.
pub(crate) fn propose(call: &Span) -> Span {
    tracing::info_span!(parent: call, "sift.propose")
}

/// Waiting for approvers, below the call's span.
pub(crate) fn approval(call: &Span, needed: &str) -> Span {
    tracing::info_span!(
        parent: call,
        "sift.approval",
        "sift.approval.needed" = needed,
        "sift.approval.result" = Empty,
    )
}

/// How the wait for approvers ended: `approved`, `denied`, or `stopped` with the run.
pub(crate) fn approved(span: &Span, result: &'static str) {
    span.record("sift.approval.result", result);
}

/// What was decided about a call.
pub(crate) fn decided(call: &Span, effect: Effect, denial: &Denial, reserved: &Amounts) {
    if call.is_disabled() {
        return;
    }
    let rules: Vec<&str> = denial.rules.iter().map(Text::as_str).collect();
    call.record("sift.decision", tracing::field::display(effect));
    call.record("sift.rules", rules.join(","));
    call.record("sift.intent.seq", denial.intent.get());
    if let Some(refusal) = &denial.refusal {
        call.record("sift.refusal", crate::policy::refusal_name(refusal));
    }
    if effect == Effect::Deny {
        let by = if denial.refusal.is_some() { "budget_refused" } else { "policy_denied" };
        failed(call, by);
        return;
    }
    call.record("sift.reserved.micro_usd", reserved.money().get());
    call.record("sift.reserved.tokens", reserved.get(Meter::Tokens));
}

/// A span for a call itself: the members of its kind, and those that every kind has.
macro_rules! dispatch_span {
    ($parent:expr, $operation:literal, $intent:expr, $($members:tt)*) => {
        tracing::info_span!(
            parent: $parent,
            $operation,
            $($members)*
            "otel.status_code" = Empty,
            "gen_ai.operation.name" = $operation,
            "sift.intent.seq" = $intent.get(),
            "sift.outcome.seq" = Empty,
            "sift.status" = Empty,
            "sift.settled.micro_usd" = Empty,
            "sift.overspent" = Empty,
            "error.type" = Empty,
        )
    };
}

/// The call itself, below the call's span.
pub(crate) fn dispatch(parent: &Span, call: &Call, run: &RunShared, intent: Seq) -> Span {
    match call {
        Call::Tool(tool) => dispatch_span!(parent, "execute_tool", intent,
            "otel.name" = format!("execute_tool {}", tool.name),
            "otel.kind" = "internal",
            "gen_ai.tool.name" = tool.name.as_str(),
            "gen_ai.tool.type" = "function",
            "gen_ai.tool.call.id" = tool.id.as_str(),
            "gen_ai.conversation.id" = %run.id,
            "gen_ai.agent.name" = run.agent.as_str(),
        ),
        Call::Model(model) => dispatch_span!(parent, "chat", intent,
            "otel.name" = format!("chat {}", model.model),
            "otel.kind" = "client",
            "gen_ai.provider.name" = model.provider.as_str(),
            "gen_ai.request.model" = model.model.as_str(),
            "gen_ai.request.max_tokens" = model.max_output,
            "gen_ai.response.model" = Empty,
            "gen_ai.response.id" = Empty,
            "gen_ai.usage.input_tokens" = Empty,
            "gen_ai.usage.output_tokens" = Empty,
            "gen_ai.usage.cache_read.input_tokens" = Empty,
            "gen_ai.usage.cache_creation.input_tokens" = Empty,
            "gen_ai.usage.reasoning.output_tokens" = Empty,
            "gen_ai.conversation.id" = %run.id,
            "gen_ai.agent.name" = run.agent.as_str(),
        ),
        Call::Agent(agent) => dispatch_span!(parent, "invoke_agent", intent,
            "otel.name" = format!("invoke_agent {}", agent.agent),
            "otel.kind" = "internal",
            "gen_ai.agent.name" = agent.agent.as_str(),
            "gen_ai.conversation.id" = %agent.run,
            "sift.parent.run" = %run.id,
        ),
    }
}

/// What a call came back with, once its outcome is recorded.
pub(crate) fn done(span: &Span, done: &Done) {
    if span.is_disabled() {
        return;
    }
    came_back(span, &done.report);
    span.record("sift.outcome.seq", done.outcome.get());
    span.record("sift.settled.micro_usd", done.settled.money().get());
    if let Some(meter) = done.overspent {
        span.record("sift.overspent", tracing::field::display(meter));
    }
}

fn came_back(span: &Span, report: &Report) {
    let status = crate::policy::word(&report.status);
    span.record("sift.status", status.as_str());
    if report.status != Status::Ok {
        failed(span, &status);
    }
    let Some(model) = &report.model else { return };
    let usage = &model.usage;
    span.record("gen_ai.response.model", model.served.as_str());
    if let Some(id) = &model.id {
        span.record("gen_ai.response.id", id.as_str());
    }
    // The conventions count cached tokens as input and reasoning as output; the record keeps the classes apart.
    span.record("gen_ai.usage.input_tokens", usage.prompt());
    span.record("gen_ai.usage.output_tokens", usage.output.saturating_add(usage.reasoning));
    span.record("gen_ai.usage.cache_read.input_tokens", usage.cache_read);
    span.record("gen_ai.usage.cache_creation.input_tokens", usage.cache_write);
    span.record("gen_ai.usage.reasoning.output_tokens", usage.reasoning);
}

/// Marks a span as failed. The kind is a word of ours: words of tools and providers may quote payloads.
pub(crate) fn failed(span: &Span, kind: &str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}
