//! What the tests of this crate share.
#![allow(dead_code)] // each test uses some of it

use sift_rules::verdict::EVALUATION_ERROR;
use sift_rules::{CompileError, PolicyBundle, Verdict};
use sift_spec::bundle::Bundle;
use sift_spec::record::Effect;
use sift_spec::types::Text;

/// Compiles files.
pub(crate) fn compile(files: &[(&str, &str)]) -> Result<PolicyBundle, CompileError> {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
    PolicyBundle::compile(&Bundle::new(files).expect("paths"))
}

/// A bundle of one Rego file.
pub(crate) fn rego(policy: &str) -> PolicyBundle {
    compile(&[("p.rego", policy)]).unwrap_or_else(|error| panic!("{error}\n{policy}"))
}

/// A bundle of one Cedar file.
pub(crate) fn cedar(policy: &str) -> PolicyBundle {
    compile(&[("p.cedar", policy)]).unwrap_or_else(|error| panic!("{error}\n{policy}"))
}

/// A policy input with this call.
pub(crate) fn input(call: &str) -> Vec<u8> {
    format!(
        r#"{{"agent":"airline/gpt-4o","call":{call},"facts":{{}},"run":{{"calls":{{"agent":0,"denied":0,"held":0,"model":0,"tool":0}},"depth":0,"id":"019ac6e1-1234-7000-8000-000000000000","labels":{{}},"seq":1,"started":1764000000000,"tools":{{}}}},"time":1764000000000}}"#
    )
    .into_bytes()
}

/// A policy input with this tool call.
pub(crate) fn tool(name: &str, args: &str) -> Vec<u8> {
    input(&format!(r#"{{"args":{args},"kind":"tool","name":"{name}"}}"#))
}

/// The names of a verdict's rules.
pub(crate) fn names(verdict: &Verdict) -> Vec<&str> {
    verdict.rules.iter().map(Text::as_str).collect()
}

/// Whose approvals a hold needs, and its seconds.
pub(crate) fn needed(verdict: &Verdict) -> (String, u64) {
    let hold = verdict.hold.as_ref().expect("a hold");
    let words: Vec<String> = hold.approvals.iter().map(ToString::to_string).collect();
    (words.join(", "), hold.seconds)
}

/// Whether a verdict is the denial of a failed evaluation, with a reason.
pub(crate) fn denied_by_error(verdict: &Verdict) -> bool {
    verdict.effect == Effect::Deny && names(verdict) == [EVALUATION_ERROR] && verdict.reasons.len() == 1
}
