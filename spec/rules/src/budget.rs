//! Budgets: `budget.toml` of a bundle, as the limits that a run's `open` record copies.
//!
//! ```toml
//! [run]                       # one run and every run below it
//! tool_calls = 40             # any meter, over as long as the run lasts
//! micro_usd = 2_000_000
//! depth = 3                   # deepest nesting of runs
//! identical_calls = 3         # most calls with the same tool and argument bytes, whatever comes in between
//! wall_clock_seconds = 3600   # longest duration of a run
//!
//! [agent.hour]                # all runs of one agent name, over the trailing hour
//! micro_usd = 5_000_000
//!
//! [kernel.day]                # all runs of the kernel, over the trailing 24 hours
//! micro_usd = 50_000_000
//!
//! [model]
//! default_max_output = 4096   # output limit of a model request that names none, in tokens
//! ```
//!
//! `[run]`, `[agent]` and `[kernel]` each take meters, and tables `hour` and `day` of meters. Unknown keys are errors.

use sift_spec::meter::Meter;
use sift_spec::record::{LIST_MAX, Limits, MeterLimit, Scope, Window};
use sift_spec::types::{INTEGER_MAX, UnixMillis};
use toml::{Table, Value};

use crate::bundle::CompileError;

/// Output limit in tokens of a model request that names none, when `budget.toml` does not say.
pub const DEFAULT_MAX_OUTPUT: u64 = 4096;

/// The limits of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    default_max_output: u64,
    limits: Limits,
}

impl Default for Budget {
    /// No limits.
    fn default() -> Self {
        Self { default_max_output: DEFAULT_MAX_OUTPUT, limits: Limits::default() }
    }
}

impl Budget {
    /// The limits, in the order that an `open` record wants.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Output limit in tokens of a model request that names none.
    #[must_use]
    pub const fn default_max_output(&self) -> u64 {
        self.default_max_output
    }

    /// Whether any limit is on money, so that models need a price.
    #[must_use]
    pub fn limits_money(&self) -> bool {
        self.limits.limits_money()
    }

    /// Reads `budget.toml`. `file` is its name, for errors.
    ///
    /// # Errors
    /// When the text is no TOML, a key is unknown, or a value is no integer from 0 to 2^53 − 1; names file and key.
    pub fn parse(file: &str, text: &str) -> Result<Self, CompileError> {
        let table: Table = toml::from_str(text).map_err(|error| setting(file, error.to_string()))?;
        let mut budget = Self::default();
        for (key, value) in &table {
            let table = value.as_table().ok_or_else(|| setting(file, format!("{key:?} is not a table")))?;
            match key.as_str() {
                "run" => budget.read_scope(file, Scope::Run, key, table)?,
                "agent" => budget.read_scope(file, Scope::Agent, key, table)?,
                "kernel" => budget.read_scope(file, Scope::Kernel, key, table)?,
                "model" => {
                    for (inner, value) in table {
                        match inner.as_str() {
                            "default_max_output" => {
                                budget.default_max_output = integer(file, &format!("{key}.{inner}"), value)?;
                            }
                            _ => return Err(unknown(file, &format!("{key}.{inner}"))),
                        }
                    }
                }
                _ => return Err(unknown(file, key)),
            }
        }
        budget.limits.meters.sort_by_key(MeterLimit::key);
        if budget.limits.meters.len() > LIST_MAX {
            return Err(setting(file, "more than 64 limits".to_owned()));
        }
        Ok(budget)
    }

    fn read_scope(
        &mut self,
        file: &str,
        scope: Scope,
        name: &str,
        table: &Table,
    ) -> Result<(), CompileError> {
        for (key, value) in table {
            let path = format!("{name}.{key}");
            match (key.as_str(), scope) {
                ("hour", _) => self.read_window(file, scope, Window::Hour, &path, value)?,
                ("day", _) => self.read_window(file, scope, Window::Day, &path, value)?,
                ("depth", Scope::Run) => self.limits.depth = Some(small(file, &path, value)?),
                ("identical_calls", Scope::Run) => {
                    self.limits.identical_calls = Some(small(file, &path, value)?);
                }
                ("wall_clock_seconds", Scope::Run) => {
                    let seconds = integer(file, &path, value)?;
                    let millis = seconds.checked_mul(1000).and_then(|millis| UnixMillis::new(millis).ok());
                    let millis = millis.ok_or_else(|| setting(file, format!("{path:?} is too large")))?;
                    self.limits.wall_clock_ms = Some(millis);
                }
                _ => self.read_meter(file, scope, Window::Run, &path, key, value)?,
            }
        }
        Ok(())
    }

    fn read_window(
        &mut self,
        file: &str,
        scope: Scope,
        window: Window,
        path: &str,
        value: &Value,
    ) -> Result<(), CompileError> {
        let table = value.as_table().ok_or_else(|| setting(file, format!("{path:?} is not a table")))?;
        for (key, value) in table {
            self.read_meter(file, scope, window, &format!("{path}.{key}"), key, value)?;
        }
        Ok(())
    }

    fn read_meter(
        &mut self,
        file: &str,
        scope: Scope,
        window: Window,
        path: &str,
        key: &str,
        value: &Value,
    ) -> Result<(), CompileError> {
        let meter = Meter::ALL.into_iter().find(|meter| meter.name() == key);
        let meter = meter.ok_or_else(|| unknown(file, path))?;
        let limit = integer(file, path, value)?;
        self.limits.meters.push(MeterLimit { limit, meter, scope, window });
        Ok(())
    }
}

fn setting(file: &str, why: String) -> CompileError {
    CompileError::Setting { file: file.to_owned(), why }
}

fn unknown(file: &str, path: &str) -> CompileError {
    setting(file, format!("unknown key {path:?}"))
}

fn integer(file: &str, path: &str, value: &Value) -> Result<u64, CompileError> {
    let integer = value.as_integer().and_then(|value| u64::try_from(value).ok());
    integer
        .filter(|value| *value <= INTEGER_MAX)
        .ok_or_else(|| setting(file, format!("{path:?} is not an integer from 0 to 2^53 - 1")))
}

fn small(file: &str, path: &str, value: &Value) -> Result<u32, CompileError> {
    let value = integer(file, path, value)?;
    u32::try_from(value).map_err(|_| setting(file, format!("{path:?} is too large")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_sorted_and_complete() {
        let budget = Budget::parse(
            "budget.toml",
            "[run]\ntool_calls = 40\nmicro_usd = 2_000_000\ndepth = 3\nidentical_calls = 3\n\
             wall_clock_seconds = 3600\n[run.hour]\ntokens = 9\n[agent.hour]\nmicro_usd = 5\n\
             [kernel.day]\nmicro_usd = 6\n[kernel]\nagents = 1\n[model]\ndefault_max_output = 7\n",
        )
        .unwrap();
        let limits = budget.limits();
        assert_eq!((limits.depth, limits.identical_calls), (Some(3), Some(3)));
        assert_eq!(limits.wall_clock_ms.map(UnixMillis::get), Some(3_600_000));
        assert!(limits.meters.windows(2).all(|pair| pair[0].key() < pair[1].key()));
        assert_eq!(limits.meters.len(), 6);
        assert_eq!(budget.default_max_output(), 7);
        assert!(budget.limits_money());
        assert_eq!(Budget::parse("budget.toml", "").unwrap(), Budget::default());
    }

    #[test]
    fn errors_name_file_and_key() {
        for (text, part) in [
            ("[run]\ntool_cals = 1", "run.tool_cals"),
            ("[runs]\ntool_calls = 1", "runs"),
            ("[agent]\ndepth = 1", "agent.depth"),
            ("[agent.hour]\nmicro_usd = -1", "agent.hour.micro_usd"),
            ("[run]\ntokens = 1.5", "run.tokens"),
            ("[run]\ntokens = 9007199254740992", "run.tokens"),
            ("[run]\ndepth = 4294967296", "run.depth"),
            ("[run.week]\ntokens = 1", "run.week"),
            ("[run.hour]\nhour = 1", "run.hour.hour"),
            ("[model]\nmax = 1", "model.max"),
            ("run = 1", "run"),
            ("[run", "expected"),
            ("[run]\ntokens = 1\ntokens = 2", "tokens"),
        ] {
            let error = Budget::parse("budget.toml", text).unwrap_err().to_string();
            assert!(error.contains("budget.toml") && error.contains(part), "{text}: {error}");
        }
    }
}
