//! A kernel with the airline's rules, and what it adds to a call that itself takes no time.

use std::path::Path;
use std::time::{Duration, Instant};

use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{
    CloseReason, Config, Kernel, OpenRun, Payload, Report, Run, SpoolLimits, SystemClock, ToolCall, Verdict,
};
use sift_spec::bundle::Bundle;
use sift_spec::note::SignerKey;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::RunId;

use crate::AnyError;

/// An address at which nobody listens: the log is elsewhere and takes nothing of this machine's time.
pub const NO_LOG: &str = "http://127.0.0.1:9";

/// Opens a kernel in `dir`, in spool mode, with room for everything that a benchmark leaves unlogged.
///
/// # Errors
/// When it does not start.
pub async fn open(
    dir: &Path,
    url: &str,
    trust: &TrustPolicy,
    bundle: &Bundle,
    key: SignerKey,
) -> Result<Kernel, AnyError> {
    let mut config = Config::new(dir, url, trust.clone(), bundle.clone());
    config.beat = None;
    config.spool = SpoolLimits { records_max: 100_000_000, seconds_max: 360_000, bytes_max: 1 << 40 };
    Ok(Kernel::open(config, key, SystemClock).await?)
}

/// Opens a run.
///
/// # Errors
/// When the kernel has stopped.
pub async fn open_run(kernel: &Kernel) -> Result<Run, AnyError> {
    Ok(kernel.open_run(OpenRun::of("airline/gpt-4o".parse()?)).await?)
}

/// One look-up of a reservation, from proposal to settlement: policy, budget, a signed and synced intent, a signed and
/// synced outcome.
///
/// # Errors
/// When it is not permitted or not recorded.
pub async fn call(run: &Run, number: u64) -> Result<(), AnyError> {
    let reservation = format!("R{number:07}");
    let args = format!("{{\"reservation_id\": \"{reservation}\"}}").into_bytes();
    let (name, id) = ("get_reservation_details".to_owned(), format!("call_{number}"));
    let verdict = run.propose(ToolCall { name, id, args, proposed_by: None }).await?;
    let Verdict::Permitted(permit) = verdict else {
        return Err(format!("not permitted: {verdict:?}").into());
    };
    let done = permit.dispatch(|| async { Report::ok(Payload::json(result(&reservation))) }).await?;
    if done.overspent.is_none() { Ok(()) } else { Err("billed more than held".into()) }
}

/// A tool's answer of a common size.
fn result(reservation: &str) -> String {
    format!(
        r#"{{"reservation_id": "{reservation}", "user_id": "mia_li_3668", "origin": "JFK", "destination": "SEA", "flight_type": "one_way", "cabin": "economy", "flights": [{{"origin": "JFK", "destination": "ATL", "flight_number": "HAT083", "date": "2024-05-20", "price": 152}}, {{"origin": "ATL", "destination": "SEA", "flight_number": "HAT039", "date": "2024-05-20", "price": 103}}], "passengers": [{{"first_name": "Mia", "last_name": "Li", "dob": "1990-04-05"}}], "payment_history": [{{"payment_id": "credit_card_4421486", "amount": 255}}], "created_at": "2024-05-02T03:10:19", "total_baggages": 3, "nonfree_baggages": 0, "insurance": "no"}}"#
    )
}

/// The evidence pack of a run that has ended, with all payloads, once all of it is in the log at `url`.
///
/// # Errors
/// When it does not come there.
pub async fn evidence(
    kernel: &Kernel,
    url: &str,
    trust: &TrustPolicy,
    run: RunId,
) -> Result<Vec<u8>, AnyError> {
    if !kernel.drain(Duration::from_secs(300)).await {
        return Err(format!("{} records did not reach the log", kernel.unlogged()).into());
    }
    let pack = collect(run, kernel.store(), &LogClient::new(url)?, trust, Disclosure::Everything).await?;
    Ok(pack.write()?)
}

/// Time of each of `count` calls, one after the other.
///
/// # Errors
/// As [`call`].
pub async fn alone(kernel: &Kernel, count: u64) -> Result<Vec<u64>, AnyError> {
    let run = open_run(kernel).await?;
    let times = one_after_the_other(&run, 0..count).await?;
    run.close(CloseReason::Done).await?;
    Ok(times)
}

/// Time of each of `count` calls, `ways` of them at the same time, each way in a run of its own, and of all together.
///
/// # Errors
/// As [`call`].
pub async fn at_once(kernel: &Kernel, count: u64, ways: u64) -> Result<(Vec<u64>, Duration), AnyError> {
    let mut runs = Vec::new();
    for _ in 0..ways {
        runs.push(open_run(kernel).await?);
    }
    let start = Instant::now();
    let tasks: Vec<_> = runs
        .iter()
        .cloned()
        .map(|run| tokio::spawn(async move { one_after_the_other(&run, 0..count / ways).await }))
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let elapsed = start.elapsed();
    for run in runs {
        run.close(CloseReason::Done).await?;
    }
    Ok((times, elapsed))
}

/// Microseconds of each call.
async fn one_after_the_other(run: &Run, numbers: std::ops::Range<u64>) -> Result<Vec<u64>, AnyError> {
    let mut times = Vec::new();
    for number in numbers {
        let start = Instant::now();
        call(run, number).await?;
        times.push(start.elapsed().as_micros() as u64);
    }
    Ok(times)
}
