//! Benchmarks of the parts, by criterion. `cargo bench --workspace --profile dev --bench sift -- FILTER` runs those
//! whose names contain FILTER.

mod audit;
mod decision;
mod hashing;
mod kernel;
mod parsing;
mod proofs;
mod signatures;

use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;
use sift_benches::AnyError;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), AnyError> {
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    let mut criterion = criterion.configure_from_args();
    for benches in [
        hashing::benches as fn(&mut Criterion) -> Result<(), AnyError>,
        proofs::benches,
        parsing::benches,
        signatures::benches,
        decision::benches,
        kernel::benches,
        audit::benches,
    ] {
        benches(&mut criterion)?;
    }
    criterion.final_summary();
    Ok(())
}
