//! The corners of the overshoot table that are quick: money over the cap is 0, and the cap is used.

use std::path::Path;

use sift_benches::AnyError;
use sift_benches::overshoot::prices::Pricing;
use sift_benches::overshoot::provider::Provider;
use sift_benches::overshoot::{self, Cell, Scope, Trouble};

#[test]
fn no_money_over_the_cap() -> Result<(), AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let provider = runtime.block_on(Provider::start())?;
    let program = Path::new(env!("CARGO_BIN_EXE_sift-figures"));
    for (callers, pricing, trouble, least) in [
        (1, Pricing::Plain, Trouble::None, 0.9),
        (64, Pricing::Plain, Trouble::None, 0.9),
        // Whatever failed or was under way when it was killed stays held: how much of the cap is used depends on luck.
        (64, Pricing::All, Trouble::Errors, 0.0),
        (1, Pricing::All, Trouble::Crashes, 0.0),
        (64, Pricing::All, Trouble::Crashes, 0.0),
    ] {
        let model = format!("{callers}-{trouble:?}").to_lowercase();
        let cell = Cell::new(model, pricing, trouble, callers, Scope::Kernel);
        let dir = tempfile::tempdir()?;
        let outcome = overshoot::run(&cell, &provider, program, dir.path())?;
        println!(
            "{callers:>3} callers, {pricing:?}, {trouble:?}: {} over, {:.0} % of the cap used, {} refused, killed {} times",
            outcome.over,
            100.0 * outcome.used,
            outcome.refused,
            outcome.killed
        );
        assert_eq!(outcome.over, 0, "{outcome:?}");
        assert!(outcome.used > least && outcome.refused > 0, "{outcome:?}");
        assert!(trouble != Trouble::Crashes || outcome.killed > 0, "{outcome:?}");
    }
    Ok(())
}
