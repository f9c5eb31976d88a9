//! Checks: everything that is wrong or doubtful with a bundle, at once where that is possible.
//!
//! A bundle that does not compile is compiled again without the file that is at fault, so that one mistake does not
//! hide another. What follows from a file's absence is not reported.

use std::collections::BTreeSet;

use sift_rules::bundle::CompileError;
use sift_rules::{Budget, PolicyBundle, Prices};
use sift_spec::bundle::Bundle;
use sift_spec::meter::Usage;
use sift_spec::record::{Limits, Scope};
use sift_spec::types::Hash;

use super::case;
use super::source::{Asks, Place, RuleSite, Source};

mod cedar;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The bundle does not compile, or its cases cannot be read.
    Error,
    /// It compiles, and probably does not say what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How bad it is.
    pub severity: Severity,
    /// The file, where it is about one.
    pub file: Option<String>,
    /// The line in the file, from 1, where the engine says or the text shows it.
    pub line: Option<u32>,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Found {
    fn at(severity: Severity, place: &Place, what: String) -> Self {
        Self { severity, file: Some(place.file.clone()), line: Some(place.line), what }
    }

    fn of(severity: Severity, file: &str, line: Option<u32>, what: impl Into<String>) -> Self {
        Self { severity, file: Some(file.to_owned()), line, what: what.into() }
    }
}

/// What a bundle that compiles says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its digest, as the operator publishes it.
    pub digest: Hash,
    /// Engine and version that decides.
    pub engine: &'static str,
    /// Bytes of its encoding.
    pub size: usize,
    /// The rules that its text names.
    pub rules: Vec<RuleSite>,
    /// The tools that its text names.
    pub tools: BTreeSet<String>,
    /// The limits in force.
    pub limits: Limits,
    /// How many cases it brings along.
    pub cases: usize,
}

/// A bundle that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What was found: errors first, then by file and line.
    pub found: Vec<Found>,
    /// What it says, if it compiles.
    pub summary: Option<Summary>,
}

impl Checked {
    /// How many findings are so bad.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.found.iter().filter(|found| found.severity == severity).count()
    }
}

/// Checks a bundle.
#[must_use]
pub fn check(bundle: &Bundle) -> Checked {
    let mut found = Vec::new();
    let compiled = compile(bundle, &mut found);
    let (cases, wrong) = case::read(bundle);
    found.extend(wrong.into_iter().map(|(file, why)| Found::of(Severity::Error, &file, line_of(&why), why)));
    let source = Source::of(bundle);
    cedar::check(bundle, &mut found);
    doubts(bundle, &source, compiled.as_ref(), &mut found);
    if !bundle.files().keys().any(|path| path.starts_with("tests/")) {
        let what = "no tests: put cases into tests/*.json (sift-kernel policy test --help has the format)";
        found.push(Found { severity: Severity::Warning, file: None, line: None, what: what.to_owned() });
    }
    found.sort_by(|a, b| (a.severity, &a.file, a.line, &a.what).cmp(&(b.severity, &b.file, b.line, &b.what)));
    found.dedup();
    let summary = compiled.map(|compiled| Summary {
        digest: compiled.digest(),
        engine: compiled.engine(),
        size: compiled.encoding().len(),
        rules: source.rules,
        tools: source.tools,
        limits: compiled.budget().limits().clone(),
        cases: cases.len(),
    });
    Checked { found, summary }
}

/// Compiles a bundle, or reports every file that is at fault.
fn compile(bundle: &Bundle, found: &mut Vec<Found>) -> Option<PolicyBundle> {
    let mut files = bundle.files().clone();
    let mut first = true;
    loop {
        let Ok(rest) = Bundle::new(files.clone()) else { return None };
        let error = match PolicyBundle::compile(&rest) {
            Ok(compiled) => return first.then_some(compiled),
            Err(error) => error,
        };
        let (file, why) = match &error {
            CompileError::UnknownFile(file) => (file, error.to_string()),
            CompileError::Policy { file, why } | CompileError::Setting { file, why } => (file, why.clone()),
            CompileError::NoPolicy | CompileError::TwoEngines => {
                if first {
                    let what = error.to_string();
                    found.push(Found { severity: Severity::Error, file: None, line: None, what });
                }
                return None;
            }
        };
        let known = files.remove(file).is_some();
        // What several files say together is a consequence once one of them is missing.
        if known || first {
            let text = bundle.files().get(file).and_then(|content| std::str::from_utf8(content).ok());
            let place =
                cedar::place(file, text).or_else(|| line_of(&why)).or_else(|| line_of_key(text?, &why));
            found.push(Found::of(Severity::Error, file, place, short(&why)));
        }
        if !known {
            return None;
        }
        first = false;
    }
}

/// What compiles, and probably does not say what was meant.
fn doubts(bundle: &Bundle, source: &Source, compiled: Option<&PolicyBundle>, found: &mut Vec<Found>) {
    let mut warn = |place: &Place, what: String| found.push(Found::at(Severity::Warning, place, what));
    for rule in source.rules.iter().filter(|rule| rule.never) {
        warn(&rule.place, format!("rule {:?} can never fire: a condition of it is false", rule.name));
    }
    let names: BTreeSet<&str> = source.rules.iter().map(|rule| rule.name.as_str()).collect();
    for name in names {
        let same: Vec<&RuleSite> = source.rules.iter().filter(|rule| rule.name == name).collect();
        if let [first, second, ..] = same[..]
            && first.asks != second.asks
        {
            warn(
                &second.place,
                format!(
                    "rule {name:?} is the name of a rule at {}:{} too, which asks for {}",
                    first.place.file,
                    first.place.line,
                    first.asks.name()
                ),
            );
        }
    }
    for place in &source.computed {
        found.push(Found::at(
            Severity::Note,
            place,
            "the name of this rule is computed: no list and no coverage can know it".to_owned(),
        ));
    }
    let allows = source.rules.iter().any(|rule| rule.asks == Asks::Allow) || !source.computed.is_empty();
    if !allows && !source.rules.is_empty() {
        let what = "no rule allows anything, so every call is denied".to_owned();
        found.push(Found { severity: Severity::Warning, file: None, line: None, what });
    }
    let Some(compiled) = compiled else { return };
    let mut warn = |place: &Place, what: String| found.push(Found::at(Severity::Warning, place, what));
    for (fact, place) in &source.facts {
        if !compiled.facts().facts.iter().any(|rule| rule.name == *fact) {
            warn(place, format!("facts.{fact} is never there: facts.toml has no fact of this name"));
        }
    }
    let data = bundle.files().get("data.json").and_then(|data| sift_rules::json::read_object(data).ok());
    for (member, place) in &source.data {
        if !data.as_ref().is_some_and(|data| data.contains_key(member)) {
            warn(place, format!("data.{member} is never there: data.json has no such member"));
        }
    }
    if compiled.budget().limits_money() {
        for (model, place) in &source.models {
            let providers = source.providers.iter().map(String::as_str).chain([""]);
            let mut priced =
                providers.map(|provider| compiled.prices().cost(provider, model, &Usage::default()));
            if !priced.any(|cost| cost.is_some()) {
                warn(
                    place,
                    format!(
                        "model {model:?} has no price in prices.toml, and the budget limits money: its calls are refused"
                    ),
                );
            }
        }
        if *compiled.prices() == Prices::default() {
            let what = "the budget limits money, and no model has a price (prices.toml): every model call is refused";
            found.push(Found::of(Severity::Warning, "budget.toml", None, what));
        }
    } else if *compiled.prices() != Prices::default() {
        let what = "models have prices, and no limit is on money: it is counted, and nothing refused for it";
        found.push(Found::of(Severity::Note, "prices.toml", None, what));
    }
    if *compiled.budget() == Budget::default() {
        let what = "no limits: put them into budget.toml".to_owned();
        found.push(Found { severity: Severity::Warning, file: None, line: None, what });
    }
    for fact in &compiled.facts().facts {
        if !source.facts.contains_key(&fact.name) {
            let line = bundle.files().get("facts.toml").and_then(|text| std::str::from_utf8(text).ok());
            let line = line.and_then(|text| line_with(text, &format!("{:?}", fact.name)));
            let what = format!("fact {:?} is remembered and read by no rule", fact.name);
            found.push(Found::of(Severity::Note, "facts.toml", line, what));
        }
    }
    unreachable_limits(bundle, compiled.budget().limits(), found);
}

/// A limit of a run that one of a wider scope always meets first.
fn unreachable_limits(bundle: &Bundle, limits: &Limits, found: &mut Vec<Found>) {
    for limit in limits.meters.iter().filter(|limit| limit.scope == Scope::Run) {
        let wider = limits.meters.iter().find(|other| {
            other.scope != Scope::Run
                && (other.meter, other.window) == (limit.meter, limit.window)
                && other.limit < limit.limit
        });
        if let Some(wider) = wider {
            let text = bundle.files().get("budget.toml").and_then(|text| std::str::from_utf8(text).ok());
            let line = text.and_then(|text| line_of_key(text, &format!("\"run.{}\"", limit.meter)));
            let what = format!(
                "{} {} per {} is never reached: the scope {} has only {}",
                super::word(&limit.scope),
                limit.meter,
                super::word(&limit.window),
                super::word(&wider.scope),
                wider.limit
            );
            found.push(Found::of(Severity::Warning, "budget.toml", line, what));
        }
    }
}

/// The line that an engine's words name: `line 3, column 5` of TOML and JSON, `--> file:3:5` of Rego.
fn line_of(why: &str) -> Option<u32> {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    if let Some((_, rest)) = why.split_once("--> ") {
        return digits(rest.split(':').nth(1)?);
    }
    digits(why.split_once("line ")?.1)
}

/// The line of the key that is quoted in words about a TOML file: `unknown key "run.tool_cals"`.
fn line_of_key(text: &str, why: &str) -> Option<u32> {
    let path = why.split('"').nth(1)?;
    let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut inside = table.is_empty();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            let head = head.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
            if head == path {
                return Some(number);
            }
            inside = head == table;
        } else if inside && line.split('=').next().is_some_and(|name| name.trim() == key) {
            return Some(number);
        }
    }
    None
}

/// The line that holds some words.
fn line_with(text: &str, words: &str) -> Option<u32> {
    (1..).zip(text.lines()).find(|(_, line)| line.contains(words)).map(|(number, _)| number)
}

/// An engine's words without the excerpt of the file that they draw.
fn short(why: &str) -> String {
    let last = why.rsplit_once("error: ").map(|(_, last)| last);
    let toml = why.starts_with("TOML parse error").then(|| why.trim_end().lines().last()).flatten();
    last.or(toml).unwrap_or(why).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> Bundle {
        Bundle::new(files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))).unwrap()
    }

    fn lines(checked: &Checked) -> Vec<String> {
        let line = |found: &Found| {
            let file = found.file.clone().unwrap_or_default();
            format!("{} {file}:{} {}", found.severity.name(), found.line.unwrap_or(0), found.what)
        };
        checked.found.iter().map(line).collect()
    }

    fn has(lines: &[String], wanted: &[&str]) {
        for wanted in wanted {
            let mut parts = wanted.split(" .. ");
            let (start, part) = (parts.next().unwrap(), parts.next().unwrap_or_default());
            assert!(
                lines.iter().any(|line| line.starts_with(start) && line.contains(part)),
                "{wanted}: {lines:#?}"
            );
        }
    }

    const REGO: &str = "package sift\n\nallow contains {\"rule\": \"all\"}\n";

    #[test]
    fn every_file_at_fault_is_named_at_once_with_its_line() {
        let checked = check(&files(&[
            ("policy.rego", "package sift\n\nallow contains {\"rule\": \"all\"\n"),
            ("budget.toml", "[run]\ntool_calls = 1\ntool_cals = 2\n"),
            ("prices.toml", "[[model]]\nname = \"m\"\ninput = 1\n"),
            ("facts.toml", "[[fact]]\nname = 5\n"),
            ("data.json", "{\n \"a\": 1,\n}"),
            ("notes.txt", "x"),
            ("tests/a.json", "[\n{\"name\": \"x\", \"cal\": 1}]"),
            ("tests/b.json", "{"),
        ]));
        assert!(checked.summary.is_none());
        let lines = lines(&checked);
        has(
            &lines,
            &[
                "error policy.rego:",
                "error budget.toml:3 .. run.tool_cals",
                "error prices.toml:1 .. output",
                "error facts.toml:2 .. string",
                "error data.json:3",
                "error notes.txt:0 .. no such file",
                "error tests/a.json:0 .. case \"x\": unknown field `cal`",
                "error tests/b.json:1",
            ],
        );
        assert_eq!(checked.count(Severity::Error), 8, "{lines:#?}");
    }

    #[test]
    fn cedar_says_where() {
        let checked = check(&files(&[
            ("a.cedar", "@id(\"a\")\npermit (principal, action, resource)\nwhen { context.x = 1 };\n"),
            ("b.cedar", "permit (principal, action, resource);"),
        ]));
        has(&lines(&checked), &["error a.cedar:3", "error b.cedar:0 .. @id"]);
        let schema = "entity Agent; entity Run; namespace Tool { action pay appliesTo { principal: [Agent], resource: [Run], context: { args: { amount: Long } } }; }";
        let typed = "@id(\"a\")\npermit (principal, action == Tool::Action::\"pay\", resource)\nwhen {\n  context.args.amont > 5\n};\n";
        let checked = check(&files(&[("a.cedar", typed), ("schema.cedarschema", schema)]));
        has(&lines(&checked), &["error a.cedar:4 .. amont"]);
    }

    #[test]
    fn what_compiles_and_means_something_else() {
        let policy = "package sift\nallow contains {\"rule\": \"m\"} if {\n\tinput.call.model == \"gpt-9\"\n\tinput.facts.user.age > data.age\n}\n\
            deny contains {\"rule\": \"n\", \"reason\": \"x\"} if false\n";
        let checked = check(&files(&[
            ("policy.rego", policy),
            ("budget.toml", "[run]\nmicro_usd = 50\n\n[agent]\nmicro_usd = 10\n"),
            ("facts.toml", "[[fact]]\nname = \"order\"\ntool = \"t\"\nkey = \"id\"\n"),
        ]));
        assert!(checked.summary.is_some());
        has(
            &lines(&checked),
            &[
                "warning policy.rego:3 .. \"gpt-9\" has no price",
                "warning policy.rego:4 .. facts.user is never there",
                "warning policy.rego:4 .. data.age is never there",
                "warning policy.rego:6 .. can never fire",
                "warning budget.toml:0 .. no model has a price",
                "warning budget.toml:2 .. never reached",
                "warning :0 .. no tests",
                "note facts.toml:2 .. read by no rule",
            ],
        );
        let checked = check(&files(&[(
            "policy.cedar",
            "@id(\"h\") @hold(\"boss\") @seconds(\"9\")\nforbid (principal, action == Tool::Action::\"pay\", resource);\n@id(\"r\")\npermit (principal, action == Tool::Action::\"read\", resource);\n",
        )]));
        has(
            &lines(&checked),
            &[
                "warning policy.cedar:1 .. nothing permits",
                "warning :0 .. no schema",
                "warning :0 .. no limits",
            ],
        );
    }

    #[test]
    fn a_bundle_in_order_has_a_summary() {
        let case = "[{\"name\": \"a\", \"call\": {\"tool\": \"x\"}, \"expect\": {\"effect\": \"allow\"}}]";
        let checked = check(&files(&[
            ("p.rego", REGO),
            ("budget.toml", "[run]\ntool_calls = 1\n"),
            ("tests/a.json", case),
        ]));
        assert_eq!(checked.found, []);
        let summary = checked.summary.unwrap();
        assert_eq!((summary.rules.len(), summary.cases, summary.limits.meters.len()), (1, 1, 1));
    }
}
