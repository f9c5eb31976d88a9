//! What the run used against its limits, as drawings in the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{Body, Effect, Open, Record, Scope, Window};
use sift_spec::types::{MicroUsd, Seq};

/// Size of a drawing, in its own units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 150.0;

/// Most steps that are drawn; beyond, only every so many.
const STEPS_MAX: usize = 2000;

/// What was settled and held after a record.
#[derive(Clone, Copy)]
struct Step {
    settled: u64,
    held: u64,
}

/// A drawing for each meter that the run has a limit on, and for money.
pub(super) fn render<'a>(open: &Open, records: impl Iterator<Item = &'a Record>) -> String {
    let limit = |meter| {
        let of_run = open
            .limits
            .meters
            .iter()
            .filter(|limit| limit.scope == Scope::Run && limit.window == Window::Run);
        of_run.filter(|limit| limit.meter == meter).map(|limit| limit.limit).min()
    };
    let steps = steps(records);
    let drawings: String = Meter::ALL
        .into_iter()
        .filter(|meter| limit(*meter).is_some() || *meter == Meter::MicroUsd)
        .filter_map(|meter| drawing(meter, limit(meter), &steps))
        .collect();
    if drawings.is_empty() {
        return String::new();
    }
    format!(
        "<section><h2>Spend against limits</h2><p>As the records state it, record by record: <span class=\"key settled\">settled</span>, \
         and <span class=\"key held\">held for calls under way</span>, against the <span class=\"key limit\">limit of the run</span>.\
         </p><div class=\"drawings\">{drawings}</div></section>"
    )
}

/// Sums after each record; the sums of a record that cannot be added are those before it.
fn steps<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<(Amounts, Amounts)> {
    let (mut settled, mut held) = (Amounts::ZERO, Amounts::ZERO);
    let mut holds: BTreeMap<Seq, Amounts> = BTreeMap::new();
    let mut steps = Vec::new();
    for record in records {
        match &record.body {
            Body::Intent(intent) if intent.effect() != Effect::Deny => {
                held = held.checked_add(&intent.reserved).unwrap_or(held);
                holds.insert(record.seq, intent.reserved);
            }
            Body::Outcome(outcome) => {
                let hold = holds.remove(&outcome.intent).unwrap_or(Amounts::ZERO);
                held = held.checked_sub(&hold).unwrap_or(held);
                settled = settled.checked_add(&outcome.settled).unwrap_or(settled);
            }
            _ => {}
        }
        steps.push((settled, held));
    }
    steps
}

/// One meter; none where nothing was used of it.
fn drawing(meter: Meter, limit: Option<u64>, steps: &[(Amounts, Amounts)]) -> Option<String> {
    let steps: Vec<Step> = steps
        .iter()
        .map(|(settled, held)| Step { settled: settled.get(meter), held: held.get(meter) })
        .collect();
    let used = steps.last()?.settled;
    let peak =
        steps.iter().map(|step| step.settled.saturating_add(step.held)).max().filter(|peak| *peak > 0)?;
    // A limit far above is said and not drawn: use would be a line on the floor.
    let drawn = limit.filter(|limit| *limit <= peak.saturating_mul(5));
    let top = drawn.unwrap_or(peak).max(peak) as f64 * 1.08;
    let y = |amount: u64| HEIGHT - amount as f64 / top * HEIGHT;
    let every = steps.len().div_ceil(STEPS_MAX);
    let x = |position: usize| position as f64 / steps.len().max(1) as f64 * WIDTH;
    let line = |amount: &dyn Fn(&Step) -> u64| {
        let mut path = format!("M0 {HEIGHT}");
        for (position, step) in steps.iter().enumerate().step_by(every) {
            let _ = write!(path, "V{:.1}H{:.1}", y(amount(step)), x((position + every).min(steps.len())));
        }
        path
    };
    let held = line(&|step| step.settled.saturating_add(step.held));
    let settled = line(&|step| step.settled);
    let rule = drawn.map_or_else(String::new, |limit| {
        format!("<line class=\"limit\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>", y(limit))
    });
    let above = if drawn.is_none() { " (far above what is drawn)" } else { "" };
    let of = limit.map_or_else(
        || "no limit of the run".to_owned(),
        |limit| format!("of {}{above}", amount(meter, limit)),
    );
    let name = name(meter);
    let caption =
        format!("{} settled, {of}; at most {} with what was held", amount(meter, used), amount(meter, peak));
    Some(format!(
        "<figure><figcaption><b>{name}</b> {caption}</figcaption>\
         <svg viewBox=\"-1 -4 {} {}\" role=\"img\" aria-label=\"{name}: {caption}\" preserveAspectRatio=\"none\">\
         <path class=\"held\" d=\"{held}V{HEIGHT}Z\"/><path class=\"settled\" d=\"{settled}V{HEIGHT}Z\"/>{rule}\
         <line class=\"floor\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/></svg></figure>",
        WIDTH + 2.0,
        HEIGHT + 6.0
    ))
}

/// A meter for people.
fn name(meter: Meter) -> String {
    if meter == Meter::MicroUsd { "money".to_owned() } else { meter.name().replace('_', " ") }
}

/// An amount for people: dollars, or a number in groups of three.
pub(super) fn amount(meter: Meter, amount: u64) -> String {
    if meter == Meter::MicroUsd {
        let dollars = MicroUsd::new(amount).unwrap_or_default().dollars();
        return format!("{dollars} USD");
    }
    let digits = amount.to_string();
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Amounts for people.
pub(super) fn amounts(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts
        .iter()
        .map(|(meter, value)| match meter {
            Meter::MicroUsd => amount(meter, value),
            _ if value == 1 => format!("1 {}", name(meter).trim_end_matches('s')),
            _ => format!("{} {}", amount(meter, value), name(meter)),
        })
        .collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_for_people() {
        assert_eq!(amount(Meter::Tokens, 0), "0");
        assert_eq!(amount(Meter::Tokens, 999), "999");
        assert_eq!(amount(Meter::Tokens, 1_234_567), "1,234,567");
        assert_eq!(amount(Meter::MicroUsd, 1_250_000), "1.250000 USD");
        let some = Amounts::ZERO.with(Meter::ToolCalls, 2).with(Meter::MicroUsd, 5);
        assert_eq!(amounts(&some), "0.000005 USD, 2 tool calls");
        assert_eq!(amounts(&Amounts::ZERO.with(Meter::Tokens, 1)), "1 token");
        assert_eq!(amounts(&Amounts::ZERO), "nothing");
    }
}
