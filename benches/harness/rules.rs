//! Policies to decide with: the airline's, and a generated bundle of 100 rules of which five concern any one tool.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sift_client::bundle_dir;
use sift_rules::PolicyBundle;
use sift_spec::bundle::Bundle;

use crate::AnyError;

/// Tools of the generated bundle: five rules each.
pub const TOOLS: usize = 20;

/// A policy language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Language {
    Rego,
    Cedar,
}

impl Language {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rego, Self::Cedar];

    /// The name in folders and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rego => "rego",
            Self::Cedar => "cedar",
        }
    }
}

/// Root of the project: the folder here or above that holds the examples, or else where this was compiled.
#[must_use]
pub fn project() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let holds = |folder: &&Path| folder.join("client-sdk/examples/airline").is_dir();
    let compiled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    here.ancestors().find(holds).map_or_else(compiled, Path::to_owned)
}

/// The airline's bundle.
///
/// # Errors
/// When the example is not there.
pub fn airline(language: Language) -> Result<Bundle, AnyError> {
    Ok(bundle_dir::read(&project().join("client-sdk/examples/airline").join(language.name()))?)
}

/// The airline's bundle with limits of the same kinds that no benchmark reaches.
///
/// # Errors
/// When the example is not there.
pub fn airline_unlimited(language: Language) -> Result<Bundle, AnyError> {
    const BUDGET: &[u8] = b"[run]\nmodel_calls = 1_000_000_000\ntool_calls = 1_000_000_000\n\
        micro_usd = 1_000_000_000_000\nidentical_calls = 1_000_000_000\nwall_clock_seconds = 360_000\ndepth = 0\n\
        [agent.hour]\nmicro_usd = 1_000_000_000_000\n[kernel.day]\nmicro_usd = 1_000_000_000_000\n";
    let mut files = airline(language)?.files().clone();
    files.insert("budget.toml".to_owned(), BUDGET.to_vec());
    Ok(Bundle::new(files)?)
}

/// The policy text of 100 rules, for 20 tools: each has a bound on an amount, a list of countries, a bound on its calls
/// in the run, an amount above which a person decides, and a permission.
#[must_use]
pub fn hundred(language: Language) -> String {
    let mut text = String::new();
    if language == Language::Rego {
        text.push_str("package sift\n");
    }
    for number in 0..TOOLS {
        let tool = format!("tool_{number:02}");
        let (large, most, often) = (200 + 10 * number, 500 + 10 * number, 5 + number);
        // Writing to a String cannot fail.
        let _ = match language {
            Language::Rego => write!(
                text,
                r#"
deny contains {{"rule": "{tool}-amount", "reason": "above {most}"}} if {{
    input.call.name == "{tool}"
    input.call.args.amount > {most}
}}
deny contains {{"rule": "{tool}-country", "reason": "not there"}} if {{
    input.call.name == "{tool}"
    input.call.args.country in {{"KP", "IR", "SY"}}
}}
deny contains {{"rule": "{tool}-often", "reason": "at most {often} times"}} if {{
    input.call.name == "{tool}"
    input.run.tools.{tool}.allowed >= {often}
}}
hold contains {{"rule": "{tool}-large", "reason": "above {large}", "role": "supervisor", "seconds": 900}} if {{
    input.call.name == "{tool}"
    input.call.args.amount > {large}
}}
allow contains {{"rule": "{tool}"}} if input.call.name == "{tool}"
"#
            ),
            Language::Cedar => write!(
                text,
                r#"
@id("{tool}-amount") @reason("above {most}")
forbid (principal, action == Tool::Action::"{tool}", resource) when {{ context.args.amount > {most} }};
@id("{tool}-country") @reason("not there")
forbid (principal, action == Tool::Action::"{tool}", resource)
when {{ ["KP", "IR", "SY"].contains(context.args.country) }};
@id("{tool}-often") @reason("at most {often} times")
forbid (principal, action == Tool::Action::"{tool}", resource)
when {{ context.run.tools has "{tool}" && context.run.tools["{tool}"].allowed >= {often} }};
@id("{tool}-large") @reason("above {large}") @hold("supervisor") @seconds("900")
forbid (principal, action == Tool::Action::"{tool}", resource) when {{ context.args.amount > {large} }};
@id("{tool}")
permit (principal, action == Tool::Action::"{tool}", resource);
"#
            ),
        };
    }
    text
}

/// The generated bundle, compiled.
///
/// # Errors
/// When it does not compile.
pub fn hundred_compiled(language: Language) -> Result<PolicyBundle, AnyError> {
    let file = format!("policy.{}", language.name());
    Ok(PolicyBundle::compile(&Bundle::new([(file, hundred(language).into_bytes())])?)?)
}
