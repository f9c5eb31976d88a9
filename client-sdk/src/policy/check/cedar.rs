//! What Cedar itself says about policies: where an error is, what its schema allows, which rules cannot matter.

use cedar_policy::{ActionConstraint, Effect, Policy, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use sift_rules::nesting::check_cedar;
use sift_spec::bundle::Bundle;

use super::{Found, Severity};

const SCHEMA: &str = "schema.cedarschema";

/// The line of the first syntax error of a Cedar file, if that is what is wrong with it.
pub(super) fn place(file: &str, text: Option<&str>) -> Option<u32> {
    let text = text?;
    if check_cedar(file, text).is_err() {
        return None;
    }
    if file == SCHEMA {
        return first_line(text, &Schema::from_cedarschema_str(text).err()?);
    }
    if !file.ends_with(".cedar") {
        return None;
    }
    let errors = text.parse::<PolicySet>().err()?;
    errors.iter().filter_map(|error| first_line(text, error)).min()
}

/// Validates policies against their schema, and looks for holds that nothing permits.
pub(super) fn check(bundle: &Bundle, found: &mut Vec<Found>) {
    let text = |path: &str| bundle.files().get(path).and_then(|content| std::str::from_utf8(content).ok());
    let files: Vec<(&str, &str, PolicySet)> = bundle
        .files()
        .keys()
        .filter(|path| path.ends_with(".cedar"))
        .filter_map(|path| text(path).map(|text| (path.as_str(), text)))
        .filter(|(path, text)| check_cedar(path, text).is_ok())
        .filter_map(|(path, text)| Some((path, text, text.parse().ok()?)))
        .collect();
    if files.is_empty() {
        return;
    }
    match text(SCHEMA) {
        None => {
            let what =
                "no schema: put one into schema.cedarschema, and misspelt members are found before they deny";
            found.push(Found { severity: Severity::Warning, file: None, line: None, what: what.to_owned() });
        }
        Some(schema) => validate(schema, &files, found),
    }
    let grouped = text(SCHEMA).is_some();
    let all = || {
        files
            .iter()
            .flat_map(|(path, text, policies)| policies.policies().map(move |policy| (*path, *text, policy)))
    };
    for (path, text, policy) in all() {
        let Some(name) = policy.annotation("id") else { continue };
        if policy.effect() != Effect::Forbid || policy.annotation("hold").is_none() {
            continue;
        }
        let permits = |other: &Policy| other.effect() == Effect::Permit && meet(policy, other, grouped);
        if !all().any(|(_, _, other)| permits(other)) {
            let line = super::line_with(text, &format!("@id({name:?})"));
            let what = format!(
                "hold {name:?} can never fire: nothing permits the actions that it is about, so they are denied"
            );
            found.push(Found::of(Severity::Warning, path, line, what));
        }
    }
}

fn validate(schema: &str, files: &[(&str, &str, PolicySet)], found: &mut Vec<Found>) {
    // A schema that does not parse was reported by the compiler.
    let Ok((parsed, warnings)) = Schema::from_cedarschema_str(schema) else { return };
    for warning in warnings {
        found.push(Found::of(Severity::Warning, SCHEMA, first_line(schema, &warning), warning.to_string()));
    }
    let validator = Validator::new(parsed);
    let before = found.len();
    for (path, text, policies) in files {
        let result = validator.validate(policies, ValidationMode::Strict);
        let name = |id: &cedar_policy::PolicyId, words: String| {
            let policy = policies.policy(id);
            let name = policy.and_then(|policy| policy.annotation("id")).unwrap_or_default();
            // Cedar names a policy by its place in the file.
            words.replace(&format!("for policy `{id}`"), &format!("rule {name:?}"))
        };
        for error in result.validation_errors() {
            let what = name(error.policy_id(), error.to_string());
            found.push(Found::of(Severity::Error, path, first_line(text, error), what));
        }
        for warning in result.validation_warnings() {
            let what = name(warning.policy_id(), warning.to_string());
            found.push(Found::of(Severity::Warning, path, first_line(text, warning), what));
        }
    }
    // The compiler says the same of the schema's file, all in one and without lines.
    if found.iter().skip(before).any(|found| found.severity == Severity::Error) {
        found.retain(|found| found.file.as_deref() != Some(SCHEMA) || found.severity != Severity::Error);
    }
}

/// Whether two policies can be about the same action. With groups, an action of another name may be.
fn meet(a: &Policy, b: &Policy, grouped: bool) -> bool {
    match (a.action_constraint(), b.action_constraint()) {
        (ActionConstraint::Any, _) | (_, ActionConstraint::Any) => true,
        (ActionConstraint::Eq(a), ActionConstraint::Eq(b)) => a == b,
        (ActionConstraint::Eq(one), ActionConstraint::In(list))
        | (ActionConstraint::In(list), ActionConstraint::Eq(one)) => grouped || list.contains(&one),
        (ActionConstraint::In(a), ActionConstraint::In(b)) => grouped || a.iter().any(|one| b.contains(one)),
    }
}

/// The first line that a diagnostic points at.
fn first_line(text: &str, diagnostic: &dyn Diagnostic) -> Option<u32> {
    let offset = diagnostic.labels()?.map(|label| label.offset()).min()?;
    let before = text.get(..offset.min(text.len()))?;
    u32::try_from(before.matches('\n').count()).ok()?.checked_add(1)
}
