//! Where recorded history is read from.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use sift_client::policy::history::{self, Event, Happened, Told};
use sift_client::recording;
use sift_rules::PolicyBundle;
use sift_spec::types::UnixMillis;

use super::HistoryArgs;
use crate::exit::{Failure, environment};
use crate::runs::open_store;

/// Gives the whole history that the arguments name, with a bar while it takes long.
pub(super) fn each(
    args: &HistoryArgs,
    bundle: &PolicyBundle,
    mut each: impl FnMut(Happened),
) -> Result<(), Failure> {
    let progress = bar();
    let mut given = |happened: Happened| {
        progress.inc(1);
        each(happened);
    };
    if let Some(dir) = &args.from.dir {
        let store = open_store(dir)?;
        progress.set_length(history::store_len(&store).map_err(environment)?);
        history::store(&store, &mut given).map_err(environment)?;
    } else if !args.from.packs.is_empty() {
        let happened = packs(&args.from.packs)?;
        progress.set_length(happened.len() as u64);
        happened.into_iter().for_each(&mut given);
    } else {
        let mut conversations = Vec::new();
        for file in &args.from.recordings {
            conversations.extend(recording::read(file).map_err(environment)?);
        }
        progress.set_length(conversations.iter().map(|one| one.messages.len() as u64).sum());
        let told = Told {
            agent: args.agent.clone(),
            provider: args.provider.parse().map_err(environment)?,
            model: args.model.parse().map_err(environment)?,
            max_output: bundle.budget().default_max_output(),
            time: now(),
        };
        // The bar counts messages, of which a turn of a model makes two records.
        let counted = |happened: Happened| {
            progress.inc(u64::from(matches!(happened.event, Event::Outcome(_))));
            each(happened);
        };
        history::conversations(&conversations, &told, counted)
            .map_err(|(name, error)| environment(format!("conversation {name}: {error}")))?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// Reads packs of one log.
pub(super) fn packs(paths: &[PathBuf]) -> Result<Vec<Happened>, Failure> {
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).map_err(|error| at(path, &error))?;
        Ok((path.clone(), bytes))
    };
    let files = paths.iter().map(read).collect::<Result<_, Failure>>()?;
    history::packs(files).map_err(environment)
}

pub(super) fn at(path: &Path, error: &std::io::Error) -> Failure {
    environment(format!("{}: {error}", path.display()))
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(0).with_style(
        indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len}, {per_sec}, {eta} left")
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
    )
}

fn now() -> UnixMillis {
    use sift_client::Clock as _;
    sift_client::SystemClock.now()
}
