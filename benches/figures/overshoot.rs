//! Money over the cap, in a table: Sift, and LiteLLM beside it.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use sift_benches::AnyError;
use sift_benches::overshoot::gateway::{Budget, Proxy, configuration};
use sift_benches::overshoot::prices::Pricing;
use sift_benches::overshoot::provider::Provider;
use sift_benches::overshoot::{self, Cell, Outcome, Scope, Trouble};
use sift_benches::{python, rules};

use crate::Bench;
use crate::table::Table;

/// How many ask at once.
const CALLERS: &[usize] = &[1, 8, 64, 256];

/// The same for a first look.
const CALLERS_QUICK: &[usize] = &[1, 64];

const COLUMNS: [(&str, Pricing, Trouble); 5] = [
    ("plain", Pricing::Plain, Trouble::None),
    ("cached", Pricing::Cached, Trouble::None),
    ("tiered", Pricing::Tiered, Trouble::None),
    ("errors, retries", Pricing::All, Trouble::Errors),
    ("crashes", Pricing::All, Trouble::Crashes),
];

/// The lines of a table.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    system: &'static str,
    /// To what the cap applies.
    cap_of: &'static str,
    callers: usize,
    /// In the order of the columns; none where it was not run.
    cells: Vec<Option<Outcome>>,
}

pub(crate) fn measure(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let provider = bench.runtime.block_on(Provider::start())?;
    let program = std::env::current_exe()?;
    let counts = if bench.divisor > 1 { CALLERS_QUICK } else { CALLERS };
    for scope in Scope::ALL {
        for &callers in counts {
            let mut cells = Vec::new();
            for (number, (_, pricing, trouble)) in COLUMNS.into_iter().enumerate() {
                let model = format!("sift-{scope:?}-{callers}-{number}").to_lowercase();
                let cell = Cell::new(model, pricing, trouble, callers, scope);
                let dir = tempfile::tempdir_in(bench.dir)?;
                let outcome = overshoot::run(&cell, &provider, &program, dir.path())?;
                if outcome.over > 0 {
                    table.failures.push(format!("Sift let money pass over the cap: {outcome:?}"));
                }
                cells.push(Some(outcome));
            }
            table.overshoot.push(Line { system: "Sift", cap_of: scope.name(), callers, cells }.told());
        }
    }
    if let Err(error) = beside(bench, &provider, counts, table) {
        table.notes.push(format!("LiteLLM was not run: {error}"));
    }
    Ok(())
}

/// LiteLLM with the same provider, prices and callers.
fn beside(
    bench: &Bench<'_>,
    provider: &Provider,
    counts: &[usize],
    table: &mut Table,
) -> Result<(), AnyError> {
    let peers = rules::project().join("benches/peers");
    let environment = python::environment(&peers.join("requirements-litellm.txt"))?;
    let versions = python::versions(&environment, &["litellm=="])?;
    let mut cells = Vec::new();
    for budget in Budget::ALL {
        for &callers in counts {
            for (number, (_, pricing, trouble)) in COLUMNS.into_iter().enumerate() {
                let model = format!("litellm-{}-{callers}-{number}", budget.name());
                let mut cell = Cell::new(model, pricing, trouble, callers, Scope::Kernel);
                if trouble == Trouble::Errors {
                    // A gateway takes time of its own, which must not count as the provider's.
                    cell.patience_ms = 1_000 + 10 * callers as u64;
                }
                cells.push((budget, cell));
            }
        }
    }
    let configuration = configuration(&cells, &provider.host)?;
    let dir = tempfile::tempdir_in(bench.dir)?;
    let auth = peers.join("litellm_auth.py");
    bench.runtime.block_on(async {
        let proxy = Proxy::start(&environment, dir.path(), &auth, &configuration).await?;
        for line in cells.chunks(COLUMNS.len()) {
            let mut outcomes = Vec::new();
            for (budget, cell) in line {
                // What a crash would lose it keeps in a database or in Redis, which are not here.
                let run = cell.trouble != Trouble::Crashes;
                outcomes.push(if run { Some(proxy.run(*budget, cell, provider).await?) } else { None });
            }
            if let Some((budget, cell)) = line.first() {
                let (cap_of, callers) = (budget.name(), cell.callers);
                table.overshoot.push(Line { system: "LiteLLM", cap_of, callers, cells: outcomes }.told());
            }
        }
        Ok::<_, AnyError>(())
    })?;
    table.notes.push(format!(
        "{versions}: its proxy, one worker; custom_auth_run_common_checks and fail_closed_budget_enforcement on, \
         no retries or cool-downs of its own; keys without its database, see benches/peers/README.md"
    ));
    Ok(())
}

/// The process that makes the calls of one cell, told by a file; prints what it saw.
pub(crate) fn callers(plan: &Path) -> Result<(), AnyError> {
    let plan = serde_json::from_slice(&std::fs::read(plan)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let tally = runtime.block_on(overshoot::callers::run(&plan))?;
    println!("{}", serde_json::to_string(&tally)?);
    Ok(())
}

pub(crate) fn print(lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    println!(
        "money over the cap in dollars; share of the cap that was used; calls that the budget refused\n"
    );
    print!("{:<8} {:<16} {:>7}", "", "cap of", "callers");
    for (name, _, _) in COLUMNS {
        print!(" | {name:^20}");
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    println!();
}

impl Line {
    /// The same, shown to whoever waits for the table.
    fn told(self) -> Self {
        eprintln!("  {self}");
        self
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:<16} {:>7}", self.system, self.cap_of, self.callers)?;
        for cell in &self.cells {
            match cell {
                Some(Outcome { over, used, refused, .. }) => {
                    write!(f, " | {:>7} {:>4.0} % {refused:>5}", dollars(*over), 100.0 * used)?;
                }
                None => write!(f, " | {:^20}", "not run")?,
            }
        }
        Ok(())
    }
}

/// Dollars and cents, rounded up, of millionths of a micro-dollar: whatever is above nothing is not 0.00.
fn dollars(over: u128) -> String {
    let cents = over.div_ceil(10_000_000_000);
    format!("{}.{:02}", cents / 100, cents % 100)
}
