//! Money over the cap: callers spend against a cap that allows only part of what they ask for, through a kernel or
//! through a gateway, and the provider's own books say what it cost.
//!
//! The main path: [`provider::Provider`] keeps a book for each [`Cell`]. [`run`] starts the callers and their kernel as
//! a process of its own, so that it can be killed, and [`settle`] compares the book with the cap.
//! [`gateway`] sends the same calls through LiteLLM's proxy.
//!
//! Amounts are whole millionths of a micro-dollar, so nothing is rounded away before a zero is printed.

pub mod callers;
pub mod gateway;
pub mod prices;
pub mod provider;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sift_client::{Clock, SystemClock};
use sift_spec::types::UnixMillis;

use crate::AnyError;
use prices::Pricing;
use provider::{Charge, Provider};

/// Calls that a cap has room for, at what they cost.
const CALLS_IN_CAP: u64 = 64;

/// Output tokens that every call asks for.
pub const MAX_OUTPUT: u64 = 500;

/// How often a kernel is killed in the middle, at most.
const KILLS: u64 = 4;

/// Longest that the callers of a cell may take.
const CELL: Duration = Duration::from_secs(180);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Nothing.
    None,
    /// The provider refuses, hangs or answers too late in a quarter of the calls, and callers try again.
    Errors,
    /// The kernel is killed (SIGKILL) under load and started again over the same directory.
    Crashes,
}

/// To what the cap applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One run, which all callers share.
    Run,
    /// All runs of one agent; there are four.
    Agent,
    /// All runs of the kernel; there are eight, of four agents.
    Kernel,
    /// All runs of the kernel in any sixty minutes. An hour of the clock passes in seconds.
    KernelHour,
}

impl Scope {
    /// All.
    pub const ALL: [Self; 4] = [Self::Run, Self::Agent, Self::Kernel, Self::KernelHour];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Agent => "agent",
            Self::Kernel => "kernel",
            Self::KernelHour => "kernel, any hour",
        }
    }
}

/// One cell of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The model's name, by which the provider knows the cell.
    pub model: String,
    /// What calls cost.
    pub pricing: Pricing,
    /// What goes wrong.
    pub trouble: Trouble,
    /// Callers at once.
    pub callers: usize,
    /// To what the cap applies.
    pub scope: Scope,
    /// How long in milliseconds whoever asks the provider waits for an answer.
    pub patience_ms: u64,
}

impl Cell {
    /// A cell. Where the provider answers, nobody gives it up; where it does not, the patience is longer the more
    /// callers share the machine.
    #[must_use]
    pub const fn new(
        model: String,
        pricing: Pricing,
        trouble: Trouble,
        callers: usize,
        scope: Scope,
    ) -> Self {
        let patience_ms = match trouble {
            Trouble::Errors => 150 + 4 * callers as u64,
            Trouble::None | Trouble::Crashes => 30_000,
        };
        Self { model, pricing, trouble, callers, scope, patience_ms }
    }

    /// The cap in micro-dollars: what the first calls cost.
    #[must_use]
    pub fn cap(&self) -> u64 {
        let charges = (0..CALLS_IN_CAP).map(|number| {
            let prompt = self.pricing.words(number) as u64 + 7;
            self.pricing.charge(&provider::tokens(self.pricing, number, prompt, MAX_OUTPUT))
        });
        u64::try_from(charges.sum::<u128>().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// How many times the callers ask at most. Whoever is refused asks again a little later, because what others hold
    /// comes free when they are billed less.
    #[must_use]
    pub const fn attempts(&self) -> u64 {
        3 * CALLS_IN_CAP / 2 + 8 * self.callers as u64
    }

    /// How long whoever asks the provider waits for an answer.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// How long a caller that was refused waits.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        let ms = 4 + self.callers as u64 / 2;
        Duration::from_millis(ms)
    }
}

/// A clock that runs faster than the machine's, so that a cap of an hour is reached, and comes free again, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastClock {
    start_ms: u64,
    times: u64,
}

impl FastClock {
    /// The clock of a cell that begins now. Few callers need more of the machine's time to reach the cap of an hour.
    #[must_use]
    pub fn of(cell: &Cell) -> Self {
        let times = match (cell.scope, cell.callers) {
            (Scope::KernelHour, 1) => 720,
            (Scope::KernelHour, 2..=8) => 1_800,
            (Scope::KernelHour, _) => 3_600,
            _ => 1,
        };
        Self { start_ms: SystemClock.now().get(), times }
    }

    /// Milliseconds since 1970 by this clock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.start_ms + SystemClock.now().get().saturating_sub(self.start_ms) * self.times
    }

    /// Whether the callers of an hour's cap have seen more than two hours pass.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.times > 1 && self.now_ms() - self.start_ms > 9_000_000
    }

    /// Whether it is the machine's time.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.times == 1
    }
}

impl Clock for FastClock {
    fn now(&self) -> UnixMillis {
        UnixMillis::new(self.now_ms()).unwrap_or_default()
    }
}

/// What came of a cell.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The cell.
    pub cell: Cell,
    /// The cap in micro-dollars.
    pub cap_micro_usd: u64,
    /// What the provider charged beyond it, in millionths of a micro-dollar.
    pub over: u128,
    /// Share of the cap that the provider charged.
    pub used: f64,
    /// Calls that the provider charged for.
    pub charged: usize,
    /// Calls that the budget refused; after a crash, those of the last process.
    pub refused: u64,
    /// How often the process was killed.
    pub killed: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Runs a cell: `program --callers` with callers and kernel in `dir`, against `provider`.
///
/// # Errors
/// When the callers fail; a cap that is passed is no error here.
pub fn run(cell: &Cell, provider: &Provider, program: &Path, dir: &Path) -> Result<Outcome, AnyError> {
    let clock = FastClock::of(cell);
    provider.open(cell, clock);
    let plan =
        callers::Plan { cell: cell.clone(), clock, provider: provider.host.clone(), dir: dir.join("kernel") };
    let path = dir.join("plan.json");
    std::fs::write(&path, serde_json::to_vec(&plan)?)?;
    let start = Instant::now();
    let mut killed = 0;
    let refused = loop {
        let mut process = Command::new(program)
            .arg("--callers")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        // In the middle of the load: when so many more have arrived.
        let until = (cell.trouble == Trouble::Crashes && killed < KILLS)
            .then(|| provider.arrived(&cell.model) + CALLS_IN_CAP / (KILLS + 2));
        if watch(&mut process, until.map(|until| (provider, cell.model.as_str(), until)), start)? {
            killed += 1;
            continue;
        }
        let output = process.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("{cell:?}: the callers ended with {}", output.status).into());
        }
        break serde_json::from_slice::<callers::Tally>(&output.stdout)?.refused;
    };
    let charges = provider.charges(&cell.model);
    Ok(settle(cell, &charges, refused, killed, start.elapsed()))
}

/// Waits until the process ends, or kills it when the provider has seen so many requests; whether it was killed.
fn watch(
    process: &mut Child,
    kill: Option<(&Provider, &str, u64)>,
    start: Instant,
) -> Result<bool, AnyError> {
    loop {
        if process.try_wait()?.is_some() {
            return Ok(false);
        }
        let due = kill.is_some_and(|(provider, model, until)| provider.arrived(model) >= until);
        let stuck = start.elapsed() > CELL;
        if due || stuck {
            process.kill()?;
            process.wait()?;
        }
        match (due, stuck) {
            (true, _) => return Ok(true),
            (_, true) => return Err("the callers of a cell did not come to an end".into()),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Holds the provider's book against the cap.
#[must_use]
pub fn settle(cell: &Cell, charges: &[Charge], refused: u64, killed: u64, elapsed: Duration) -> Outcome {
    let cap_micro_usd = cell.cap();
    let cap = u128::from(cap_micro_usd) * 1_000_000;
    let most = match cell.scope {
        Scope::Run => {
            let mut runs: std::collections::HashMap<&str, u128> = std::collections::HashMap::new();
            for charge in charges {
                *runs.entry(&charge.run).or_default() += charge.charge;
            }
            runs.into_values().max().unwrap_or(0)
        }
        Scope::Agent | Scope::Kernel => charges.iter().map(|charge| charge.charge).sum(),
        Scope::KernelHour => worst_hour(charges),
    };
    Outcome {
        cell: cell.clone(),
        cap_micro_usd,
        over: most.saturating_sub(cap),
        used: most as f64 / cap as f64,
        charged: charges.len(),
        refused,
        killed,
        seconds: elapsed.as_secs_f64(),
    }
}

/// The most that was charged in any sixty minutes.
fn worst_hour(charges: &[Charge]) -> u128 {
    let mut charges = charges.to_vec();
    charges.sort_by_key(|charge| charge.at_ms);
    let (mut first, mut sum, mut most) = (0, 0, 0);
    for charge in &charges {
        sum += charge.charge;
        while charges[first].at_ms + 3_600_000 <= charge.at_ms {
            sum -= charges[first].charge;
            first += 1;
        }
        most = most.max(sum);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(at_ms: u64, run: &str, charge: u128) -> Charge {
        Charge { at_ms, run: run.to_owned(), charge }
    }

    #[test]
    fn a_worst_hour_is_any_hour() {
        let book =
            [charge(0, "", 5), charge(3_599_999, "", 7), charge(3_600_000, "", 1), charge(9_000_000, "", 11)];
        assert_eq!(worst_hour(&book), 12);
        assert_eq!(worst_hour(&[]), 0);
    }

    /// A table that shows zeros must be able to show something else.
    #[test]
    fn whatever_is_above_the_cap_is_seen() {
        let over = |scope, book: &[Charge]| {
            let cell = Cell::new("m".to_owned(), Pricing::Plain, Trouble::None, 1, scope);
            settle(&cell, book, 0, 0, Duration::ZERO).over
        };
        let cell = Cell::new("m".to_owned(), Pricing::Plain, Trouble::None, 1, Scope::Run);
        let cap = u128::from(cell.cap()) * 1_000_000;
        let two_runs = [charge(0, "a", cap), charge(1, "b", 1)];
        assert_eq!(over(Scope::Run, &two_runs), 0);
        assert_eq!(over(Scope::Agent, &two_runs), 1);
        assert_eq!(over(Scope::Kernel, &two_runs), 1);
        assert_eq!(over(Scope::KernelHour, &two_runs), 1);
        let an_hour_apart = [charge(0, "a", cap), charge(3_600_000, "a", cap)];
        assert_eq!(over(Scope::KernelHour, &an_hour_apart), 0);
        assert_eq!(over(Scope::Run, &an_hour_apart), cap);
    }
}
