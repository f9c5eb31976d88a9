//! `signer`: holds a key in a process of its own, and signs for the kernel.

use std::io::{stdin, stdout};

use sift_client::signer::{lock_memory, read_key, serve};

use crate::args::SignerArgs;
use crate::exit::{Failure, environment};

/// Signs what comes on standard input until it ends.
pub(crate) fn signer(args: &SignerArgs) -> Result<(), Failure> {
    if let Err(error) = lock_memory() {
        let why = format!(
            "its memory cannot be kept out of swap: {error}; raise the limit on locked memory (ulimit -l unlimited, or \
             LimitMEMLOCK=infinity of a systemd unit)"
        );
        if !args.allow_swap {
            return Err(environment(format!("{why}, or say --allow-swap")));
        }
        tracing::warn!("{why}");
    }
    let key = read_key(&args.key).map_err(environment)?;
    serve(&key, stdin().lock(), stdout().lock()).map_err(environment)
}
