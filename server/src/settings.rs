//! Settings: every value of the configuration that a flag or the environment may set, and where each came from.
//!
//! One precedence: a flag, then the environment, then the file, then the default. A setting has one name in three
//! forms: `limits.rate` in the file, `--limits-rate` as a flag, `SIFT_SERVER_LIMITS_RATE` in the environment. A section
//! of the configuration joins by listing its settings in [`SETTINGS`]; flags, environment, help, `check-config` and the
//! suggestions for misspelt keys follow from that. Lists and tables are set in the file alone, and secrets are never
//! values, but names of files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::config::Config;

/// Problems that are told at once; a file with more is not this program's.
const PROBLEMS_MAX: usize = 100;

/// What a setting's text is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Switch,
    /// A word, an address or a key.
    Text,
    /// A path: relative to the file where it stands there, and to the working directory elsewhere.
    Path,
}

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in the file, sections before dots.
    pub key: &'static str,
    /// Name of its flag, without the dashes.
    pub flag: &'static str,
    /// Name of its environment variable.
    pub variable: &'static str,
    /// What it is read as.
    pub kind: Kind,
    /// What it does, for `--help`.
    pub help: &'static str,
}

/// The three names of a setting follow one rule, which a test checks; all are written out, to be found by searching.
macro_rules! settings {
    ($($key:literal, $flag:literal, $variable:literal, $kind:ident, $help:literal;)*) => {
        /// All settings, in the order in which they are told.
        pub const SETTINGS: &[Setting] =
            &[$(Setting { key: $key, flag: $flag, variable: $variable, kind: Kind::$kind, help: $help }),*];
    };
}

settings! {
    "listen", "listen", "SIFT_SERVER_LISTEN", Text, "Address and port to listen on";
    "data", "data", "SIFT_SERVER_DATA", Path, "Folder of the store";
    "log_key", "log-key", "SIFT_SERVER_LOG_KEY", Path, "File of the log's private key";
    "operator", "operator", "SIFT_SERVER_OPERATOR", Text, "The operator's vkey, root of all authority";
    "queue_max", "queue-max", "SIFT_SERVER_QUEUE_MAX", Integer, "Requests that may wait; more are answered with 429";
    "connections_max", "connections-max", "SIFT_SERVER_CONNECTIONS_MAX", Integer,
        "Connections at a time; more wait to be accepted";
    "log_format", "log-format", "SIFT_SERVER_LOG_FORMAT", Text,
        "Form of what is said on stderr: text, or json with one object a line";
    "disk.reserve_mib", "disk-reserve-mib", "SIFT_SERVER_DISK_RESERVE_MIB", Integer,
        "Space that stays free on the store's disk; with less, records are refused";
    "feed.streams_max", "feed-streams-max", "SIFT_SERVER_FEED_STREAMS_MAX", Integer,
        "Streams of checkpoints at a time; more are answered with 429";
    "store.write_buffer_kib", "store-write-buffer-kib", "SIFT_SERVER_STORE_WRITE_BUFFER_KIB", Integer,
        "Memory for rows not yet in a file, for each of the two large columns";
    "witnesses.policy", "witnesses-policy", "SIFT_SERVER_WITNESSES_POLICY", Path,
        "File of the witnesses' policy (C2SP tlog-policy); without it there are none";
    "witnesses.publish", "witnesses-publish", "SIFT_SERVER_WITNESSES_PUBLISH", Text,
        "When a checkpoint is published: quorum, or signed";
    "witnesses.require_at_start", "witnesses-require-at-start", "SIFT_SERVER_WITNESSES_REQUIRE_AT_START", Switch,
        "Refuse to start while a witness does not answer";
    "witnesses.interval_ms", "witnesses-interval-ms", "SIFT_SERVER_WITNESSES_INTERVAL_MS", Integer,
        "A new checkpoint goes to the witnesses at most this often";
    "witnesses.wait_seconds", "witnesses-wait-seconds", "SIFT_SERVER_WITNESSES_WAIT_SECONDS", Integer,
        "How long a request with wait=witnessed waits";
    "witnesses.answer_seconds", "witnesses-answer-seconds", "SIFT_SERVER_WITNESSES_ANSWER_SECONDS", Integer,
        "How long a witness may take to answer";
    "tls.certificate", "tls-certificate", "SIFT_SERVER_TLS_CERTIFICATE", Path,
        "PEM file of the certificate, its issuers after it";
    "tls.key", "tls-key", "SIFT_SERVER_TLS_KEY", Path, "PEM file of the certificate's private key";
    "tls.client_ca", "tls-client-ca", "SIFT_SERVER_TLS_CLIENT_CA", Path,
        "PEM file of the authorities that clients' certificates come from";
    "tls.client_certificates", "tls-client-certificates", "SIFT_SERVER_TLS_CLIENT_CERTIFICATES", Text,
        "Who must have a client certificate: required, writes or optional";
    "limits.records_per_second_per_key", "limits-records-per-second-per-key",
        "SIFT_SERVER_LIMITS_RECORDS_PER_SECOND_PER_KEY", Integer,
        "New records that one key may add in a second, over time; 0 is no limit";
    "limits.records_burst_per_key", "limits-records-burst-per-key", "SIFT_SERVER_LIMITS_RECORDS_BURST_PER_KEY", Integer,
        "Records that it may add at once after a pause";
    "limits.failures_per_second_per_address", "limits-failures-per-second-per-address",
        "SIFT_SERVER_LIMITS_FAILURES_PER_SECOND_PER_ADDRESS", Integer,
        "Records that are nobody's, which one address may send in a second; 0 is no limit";
    "limits.failures_burst_per_address", "limits-failures-burst-per-address",
        "SIFT_SERVER_LIMITS_FAILURES_BURST_PER_ADDRESS", Integer, "Such records that it may send at once after a pause";
    "payloads.dir", "payloads-dir", "SIFT_SERVER_PAYLOADS_DIR", Path, "Folder of the payload store; off without it";
    "payloads.bytes_max", "payloads-bytes-max", "SIFT_SERVER_PAYLOADS_BYTES_MAX", Integer, "Largest payload object";
    "payloads.total_bytes_max", "payloads-total-bytes-max", "SIFT_SERVER_PAYLOADS_TOTAL_BYTES_MAX", Integer,
        "Most bytes of all payload objects";
    "payloads.retention_days", "payloads-retention-days", "SIFT_SERVER_PAYLOADS_RETENTION_DAYS", Integer,
        "Payload objects that were last put so many days ago are deleted";
}

impl Setting {
    fn read(&self, text: &str) -> Result<toml::Value, String> {
        match self.kind {
            Kind::Integer => {
                let number = text.replace('_', "").parse::<i64>();
                number.map(toml::Value::Integer).map_err(|_| format!("\"{text}\" is not a whole number"))
            }
            Kind::Switch => {
                let switch = text.parse::<bool>();
                switch.map(toml::Value::Boolean).map_err(|_| format!("\"{text}\" is neither true nor false"))
            }
            Kind::Text => Ok(toml::Value::String(text.to_owned())),
            Kind::Path => {
                let path = std::path::absolute(text).map_err(|error| format!("\"{text}\": {error}"))?;
                let path =
                    path.into_os_string().into_string().map_err(|_| "the path is not UTF-8".to_owned())?;
                Ok(toml::Value::String(path))
            }
        }
    }
}

/// Where a value came from, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The program.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A value that stands above the file.
#[derive(Debug, Clone)]
pub struct Override {
    /// What it sets.
    pub setting: &'static Setting,
    /// The value, as it was written.
    pub value: String,
    /// Flag or environment.
    pub source: Source,
}

/// Something that is wrong with a configuration, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The setting, or the file where no single one is at fault.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

impl Problem {
    pub(crate) fn new(key: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { key: key.into(), problem: problem.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// A value in force.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// The setting.
    pub key: String,
    /// Its value as TOML would have it; absent where nothing is set.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
}

/// A configuration put together from its file and what stands above it.
#[derive(Debug)]
pub struct Resolution {
    /// The configuration, where it can be used at all.
    pub config: Option<Config>,
    /// Every setting in force.
    pub values: Vec<Value>,
    /// All that is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Puts a configuration together. What is wrong is all told at once.
#[must_use]
pub fn resolve(path: &Path, overrides: &[Override]) -> Resolution {
    let mut problems = Vec::new();
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let problem = format!("{error}; make a log with: sift-server init");
            return Resolution {
                config: None,
                values: Vec::new(),
                problems: vec![Problem::new(name, problem)],
            };
        }
    };
    let mut table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let problems = vec![Problem::new(name, error)];
            return Resolution { config: None, values: Vec::new(), problems };
        }
    };
    check_text(&text, &mut problems);
    let in_file = flatten(&table);
    for Override { setting, value, source } in overrides {
        match setting.read(value) {
            Ok(value) => put(&mut table, setting.key, value),
            Err(problem) => {
                let name = match source {
                    Source::Flag => format!("--{}", setting.flag),
                    _ => setting.variable.to_owned(),
                };
                problems.push(Problem::new(name, problem));
            }
        }
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let config = match Config::from_table(table, folder) {
        Ok(config) => Some(config),
        Err(error) => {
            // What the file's own check has said is not said again.
            if problems.is_empty() {
                problems.push(Problem::new(name, error));
            }
            None
        }
    };
    let values = config.as_ref().map(|config| values(config, &in_file, overrides)).unwrap_or_default();
    Resolution { config, values, problems }
}

/// Every value in force, with where it came from.
fn values(config: &Config, in_file: &[(String, toml::Value)], overrides: &[Override]) -> Vec<Value> {
    let Ok(table) = toml::Table::try_from(config) else { return Vec::new() };
    let mut effective = flatten(&table);
    let source = |key: &str| {
        let above = overrides.iter().filter(|over| over.setting.key == key).map(|over| over.source).max();
        let file = in_file.iter().any(|(name, _)| name == key).then_some(Source::File);
        above.or(file).unwrap_or(Source::Default)
    };
    let mut told = Vec::new();
    for setting in SETTINGS {
        let at = effective.iter().position(|(key, _)| key == setting.key);
        let value = at.map(|at| effective.remove(at).1.to_string());
        told.push(Value { key: setting.key.to_owned(), value, source: source(setting.key) });
    }
    let rest = effective.into_iter().map(|(key, value)| {
        let source = source(&key);
        Value { key, value: Some(value.to_string()), source }
    });
    told.extend(rest);
    told
}

/// The leaves of a table by their dotted names; a list is a leaf.
fn flatten(table: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut leaves = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                leaves
                    .extend(flatten(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            leaf => leaves.push((key.clone(), leaf.clone())),
        }
    }
    leaves
}

/// Sets a leaf by its dotted name.
fn put(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Reads a file's text as a configuration again and again, each time without the line that was wrong, so that every
/// wrong line is told and not only the first.
fn check_text(text: &str, problems: &mut Vec<Problem>) {
    let mut text = text.to_owned();
    // A parsed file has no order: the lines do.
    let mut wrong = BTreeMap::new();
    while wrong.len() < PROBLEMS_MAX {
        let Err(error) = toml::from_str::<Config>(&text) else { break };
        let message = error.message();
        // What is not in the file may be set elsewhere, and is missed when everything is put together.
        let Some(span) = error.span().filter(|_| !message.starts_with("missing field")) else { break };
        let line = text.get(..span.start).map_or(0, |before| before.matches('\n').count());
        wrong.insert(line, problem(line + 1, &text, line, message));
        let Some(rest) = without_line(&text, line) else { break };
        text = rest;
    }
    problems.extend(wrong.into_values());
}

fn problem(number: usize, text: &str, line: usize, message: &str) -> Problem {
    let key = text.lines().nth(line).and_then(|line| line.split('=').next()).unwrap_or_default().trim();
    let key = key.trim_matches(['[', ']']);
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (unknown, expected) = rest.split_once('`').unwrap_or((rest, ""));
        let known = expected.split('`').skip(1).step_by(2);
        let nearest = known.map(|known| (distance(unknown, known), known)).min();
        let hint = match nearest {
            Some((distance, known)) if distance <= unknown.len().div_ceil(3) => {
                format!("; did you mean \"{known}\"?")
            }
            _ => "; see sift-server serve --help, and OPERATING.md for lists and tables".to_owned(),
        };
        return Problem::new(unknown, format!("line {number}: there is no such setting{hint}"));
    }
    Problem::new(key, format!("line {number}: {}", message.trim_end()))
}

/// The text with a line blank: one with a whole value, or a header with all that belongs to it.
fn without_line(text: &str, line: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let wrong = lines.get(line)?;
    let end = if wrong.trim_start().starts_with('[') {
        let next = lines.iter().skip(line + 1).position(|line| line.trim_start().starts_with('['));
        next.map_or(lines.len(), |next| line + 1 + next)
    } else {
        wrong.parse::<toml::Table>().ok()?;
        line + 1
    };
    let kept = lines.iter().enumerate().map(|(n, text)| if (line..end).contains(&n) { "" } else { text });
    Some(kept.collect::<Vec<_>>().join("\n"))
}

/// How many letters must be changed, added or left out to get from one word to another.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, b) in other.iter().enumerate() {
            let (left, above) = (row[j], row[j + 1]);
            row[j + 1] = (diagonal + usize::from(a != *b)).min(left + 1).min(above + 1);
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sift-server.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    const GOOD: &str = "listen = \"127.0.0.1:1\"\ndata = \"data\"\nlog_key = \"log.key\"\noperator = \"x\"\n";

    fn over(key: &str, value: &str, source: Source) -> Override {
        let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
        Override { setting, value: value.to_owned(), source }
    }

    fn value<'a>(resolution: &'a Resolution, key: &str) -> (&'a str, Source) {
        let value = resolution.values.iter().find(|value| value.key == key).unwrap();
        (value.value.as_deref().unwrap(), value.source)
    }

    #[test]
    fn a_flag_is_above_the_environment_above_the_file_above_the_default() {
        let (_dir, path) = write(&format!("{GOOD}queue_max = 7\n"));
        let none = resolve(&path, &[]);
        assert_eq!(value(&none, "queue_max"), ("7", Source::File));
        assert_eq!(value(&none, "connections_max"), ("4096", Source::Default));
        let environment = over("queue_max", "8", Source::Environment);
        assert_eq!(value(&resolve(&path, &[environment]), "queue_max"), ("8", Source::Environment));
        // The command line gives one override a setting: the strongest.
        let flag = over("queue_max", "9", Source::Flag);
        assert_eq!(value(&resolve(&path, &[flag]), "queue_max"), ("9", Source::Flag));
    }

    #[test]
    fn a_path_is_relative_to_where_it_stands() {
        let (dir, path) = write(GOOD);
        let file = resolve(&path, &[]).config.unwrap();
        assert_eq!(file.data, dir.path().join("data"));
        let flag = resolve(&path, &[over("data", "elsewhere", Source::Flag)]).config.unwrap();
        assert_eq!(flag.data, std::env::current_dir().unwrap().join("elsewhere"));
    }

    #[test]
    fn every_wrong_line_is_told() {
        let (_dir, path) = write(&format!(
            "{GOOD}que_max = 1\nconnections_max = \"many\"\nzzz = 1\n[lisen]\nport = 1\n[another]\nx = 2\n"
        ));
        let told = resolve(&path, &[over("queue_max", "x", Source::Flag)]);
        let told: Vec<String> = told.problems.iter().map(ToString::to_string).collect();
        println!("{told:#?}");
        assert_eq!(told.len(), 6);
        assert_eq!(told[0], "que_max: line 5: there is no such setting; did you mean \"queue_max\"?");
        assert!(told[1].starts_with("connections_max: line 6: "));
        assert!(told[2].starts_with("zzz: line 7: there is no such setting; see"));
        assert!(told[3].ends_with("did you mean \"listen\"?"));
        assert!(told[4].starts_with("another: line 10"));
        assert_eq!(told[5], "--queue-max: \"x\" is not a whole number");
    }

    #[test]
    fn the_names_of_a_setting_follow_one_rule() {
        for Setting { key, flag, variable, .. } in SETTINGS {
            assert_eq!(*flag, key.replace(['.', '_'], "-"));
            assert_eq!(*variable, format!("SIFT_SERVER_{}", key.replace('.', "_").to_ascii_uppercase()));
        }
    }

    /// Names that a table of the configuration takes, as its refusal of another lists them.
    fn fields(header: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(&format!("{header}zzz = 1")).unwrap_err().to_string();
        let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{header}: {error}"));
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// A field of the configuration is a setting, or one of those that only a file can hold.
    #[test]
    fn every_scalar_is_a_setting() {
        const IN_FILE_ONLY: [&str; 6] = [
            "seen",
            "log_keys_also",
            "access",
            "payloads.put_tokens",
            "payloads.get_tokens",
            "payloads.delete_tokens",
        ];
        let top = fields("");
        assert!(top.len() > 5, "{top:?}");
        for field in top {
            let section = SETTINGS.iter().any(|setting| setting.key.starts_with(&format!("{field}.")));
            let names = if section {
                fields(&format!("[{field}]\n")).iter().map(|name| format!("{field}.{name}")).collect()
            } else {
                vec![field]
            };
            for name in names {
                let listed = SETTINGS.iter().any(|setting| setting.key == name);
                assert!(
                    listed || IN_FILE_ONLY.contains(&name.as_str()),
                    "{name} is neither in SETTINGS nor in IN_FILE_ONLY"
                );
            }
        }
    }
}
