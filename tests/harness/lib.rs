//! What the end-to-end tests share: a log in this process or in one of its own, a key that signs records
//! by hand, and a check of a whole log from nothing.

mod check;
mod events;
mod follower;
mod go;
mod http;
mod kernel;
mod log;
mod metrics;
mod open_admission;
mod process;
pub mod python;
mod told;
mod witness;
mod writer;

pub use check::check_log;
pub use events::Events;
pub use follower::Follower;
pub use go::{go_build, go_install};
pub use http::{Http, Raw};
pub use kernel::{BUNDLE, bundle, config, done, tool};
pub use log::TestLog;
pub use metrics::Scrape;
pub use open_admission::{Added, OpenAdmission};
pub use process::{LogProcess, program};
pub use told::{Sent, Told};
pub use witness::{Manner, Seen, Witness};
pub use writer::{Operator, Writer, now};

use sift_spec::note::{KeyType, SignerKey};

/// A fresh key under this name.
///
/// # Panics
/// When the operating system gives no randomness.
#[must_use]
pub fn new_key(name: &str) -> SignerKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("randomness");
    SignerKey::from_seed(name.parse().expect("a key name"), KeyType::Ed25519, &seed).expect("a key")
}
