//! The table: figures beside their targets, and what stands behind them.

use serde::Serialize;
use sift_benches::machine::Machine;

use crate::{growth, overshoot, peers, stages};

/// A row of the table.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    unit: &'static str,
    /// A floor or a ceiling; none where the row only explains another.
    target: Option<Target>,
    measured: f64,
    /// How far from the target: above 1 is better than it.
    ratio: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    figures: Vec<Figure>,
    /// The log as it grows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) curve: Vec<growth::Point>,
    /// Money over the cap.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) overshoot: Vec<overshoot::Line>,
    /// What governing a call costs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) costs: Vec<peers::Cost>,
    /// Where a call's time goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stages: Vec<stages::Split>,
    /// What stands behind the figures.
    pub(crate) notes: Vec<String>,
    /// What must not be: the program then ends with an error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<String>,
}

impl Table {
    pub(crate) fn row(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        target: impl Into<Option<Target>>,
        measured: f64,
    ) {
        let target = target.into();
        let ratio = target.map(|target| match target {
            Target::AtLeast(floor) => measured / floor,
            Target::AtMost(ceiling) => ceiling / measured,
        });
        self.figures.push(Figure { what: what.into(), unit, target, measured, ratio });
    }

    pub(crate) fn print(&self, machine: &Machine, quick: bool) {
        println!(
            "{}, {} cores, {} MiB; Linux {}",
            machine.cpu, machine.cores, machine.memory_mib, machine.kernel
        );
        println!(
            "scratch on {}, 4 KiB fdatasync {} us; load average before {:.2}{}",
            machine.filesystem,
            machine.fsync_us,
            machine.load,
            if quick { "; quick" } else { "" }
        );
        println!("{}", machine.profile);
        println!("load generator, log and kernel share the cores\n");
        growth::print(&self.curve);
        overshoot::print(&self.overshoot);
        peers::print(&self.costs);
        if !self.figures.is_empty() {
            self.print_figures();
        }
        stages::print(&self.stages);
        for note in &self.notes {
            println!("* {note}");
        }
    }

    fn print_figures(&self) {
        println!("{:<46} {:>12} {:>12} {:<10} {:>6}", "", "target", "measured", "", "ratio");
        for Figure { what, unit, target, measured, ratio } in &self.figures {
            let target = match target {
                Some(Target::AtLeast(floor)) => format!(">= {}", number(*floor)),
                Some(Target::AtMost(ceiling)) => format!("<= {}", number(*ceiling)),
                None => String::new(),
            };
            let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            println!("{what:<46} {target:>12} {:>12} {unit:<10} {ratio:>6}", number(*measured));
        }
        println!("\nratio: above 1.00 is better than the target\n");
    }
}

/// Three significant digits, or whole thousands with separators.
fn number(value: f64) -> String {
    if value < 100.0 {
        let text = format!("{value:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
