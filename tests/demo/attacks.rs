//! Three attacks by somebody who owns the log's machine and its key.

use std::collections::BTreeMap;

use rocksdb::{DB, Options};
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::proof::prove_multi_inclusion;
use sift_spec::record::{Body, Effect};
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, parse_entries};
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{LeafIndex, TreeSize};

use crate::stage::{Failure, Stage, fetch, free_address};

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string())
}

/// All entries of the log, as it serves them.
fn entries(stage: &Stage) -> Result<(String, Vec<Vec<u8>>), Failure> {
    let url = stage.url();
    let checkpoint = String::from_utf8(fetch(&format!("{url}/checkpoint"))?).map_err(failed)?;
    let trust = std::fs::read_to_string(stage.at("log/trust.policy"))?;
    let trust = TrustPolicy::parse(&trust).map_err(failed)?;
    let size = trust.verify(checkpoint.as_bytes()).map_err(failed)?.checkpoint().head.size;
    let mut entries = Vec::new();
    for index in 0..size.get().div_ceil(TILE_WIDTH) {
        let width = TileId { level: 0, index }.width(size);
        let bundle = fetch(&format!("{url}/{}", TilePath::Entries { index, width }))?;
        entries.extend(parse_entries(&bundle, 256).map_err(failed)?.into_iter().map(<[u8]>::to_vec));
    }
    Ok((checkpoint, entries))
}

/// A denied call is made to look allowed, in the log's own store.
pub(crate) fn edit_a_stored_step(stage: &mut Stage) -> Result<(), Failure> {
    stage.heading("1. A stored step is edited");
    let (_, entries) = entries(stage)?;
    let denied = |entry: &Vec<u8>| {
        let entry = Entry::parse(entry.clone()).ok()?;
        let Body::Intent(intent) = &entry.record()?.body else { return None };
        (intent.effect() == Effect::Deny && intent.refusal.is_none())
            .then(|| entry.record().map(|record| record.run))?
    };
    let found = entries.iter().enumerate().find_map(|(index, entry)| Some((index, denied(entry)?)));
    let (index, run) = found.ok_or_else(|| Failure("no denied call in the log".to_owned()))?;
    stage.say(&format!(
        "Entry {index} says that a call was denied. Somebody with the log's disk in hand writes \"allow\" instead."
    ));
    let original = &entries[index];
    let text = String::from_utf8(original.clone()).map_err(failed)?;
    let edited = text.replacen("\"effect\":\"deny\"", "\"effect\":\"allow\"", 1);
    stage.stop()?;
    store(stage, index as u64, edited.as_bytes())?;
    stage.serve("log")?;
    let url = stage.url();
    stage.say("The whole log no longer gives the root that was signed:");
    stage.caught(&["log", "--trust", "log/trust.policy", &url], "root-differs")?;
    stage.say("And the run's evidence, as the log now tells it, does not verify:");
    std::fs::create_dir_all(stage.at("attacks"))?;
    std::fs::write(stage.at("attacks/edited.sift"), fetch(&format!("{url}/v1/runs/{run}/evidence"))?)?;
    stage.caught(&["run", "--trust", "log/trust.policy", "attacks/edited.sift"], "not-included")?;
    stage.stop()?;
    store(stage, index as u64, original)?;
    stage.serve("log")?;
    Ok(())
}

fn store(stage: &Stage, index: u64, entry: &[u8]) -> Result<(), Failure> {
    let path = stage.at("log/data");
    let columns = DB::list_cf(&Options::default(), &path).map_err(failed)?;
    let db = DB::open_cf(&Options::default(), &path, columns).map_err(failed)?;
    let column = db.cf_handle("entries").ok_or_else(|| failed("no entries"))?;
    db.put_cf(column, index.to_be_bytes(), entry).map_err(failed)
}

/// The end of a run is left out of its evidence, with an honest proof for the rest.
pub(crate) fn drop_a_tail(stage: &mut Stage) -> Result<(), Failure> {
    stage.heading("2. A run's tail is dropped");
    let (checkpoint, all) = entries(stage)?;
    let packs = stage.packs()?;
    let file = packs.first().ok_or_else(|| failed("no pack"))?;
    let mut pack = Pack::read(&std::fs::read(stage.at(file))?).map_err(failed)?;
    let own = |entry: &Vec<u8>| Entry::parse(entry.clone()).is_ok_and(|entry| entry.record().is_some());
    let tail: Vec<LeafIndex> =
        pack.entries.iter().filter(|(_, entry)| own(entry)).map(|(index, _)| *index).rev().take(3).collect();
    tail.iter().for_each(|index| drop(pack.entries.remove(index)));
    stage.say(&format!(
        "The last {} records of a run are left out of its evidence. What is left is genuine, and the log, which\n\
         plays along, proves every entry of it.",
        tail.len()
    ));
    let tree = MemoryTree::of_entries(all.iter().map(Vec::as_slice));
    let indices: Vec<LeafIndex> = pack.entries.keys().copied().collect();
    pack.proof = prove_multi_inclusion(&indices, size(&all)?, &tree).map_err(failed)?;
    pack.checkpoint = checkpoint;
    // Payloads that only the dropped records named would give it away: they go too.
    let named: Vec<_> = pack.entries.values().filter_map(|entry| Entry::parse(entry.clone()).ok()).collect();
    let kept: BTreeMap<_, _> = std::mem::take(&mut pack.objects)
        .into_iter()
        .filter(|(digest, _)| named.iter().any(|entry| contains(entry.bytes(), &digest.to_string())))
        .collect();
    pack.objects = kept;
    std::fs::write(stage.at("attacks/tail-dropped.sift"), pack.write().map_err(failed)?)?;
    stage.caught(&["run", "--trust", "log/trust.policy", "attacks/tail-dropped.sift"], "tail-missing")
}

fn size(entries: &[Vec<u8>]) -> Result<TreeSize, Failure> {
    TreeSize::new(entries.len() as u64).map_err(failed)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The log shows one history to some, and another to others.
pub(crate) fn fork_the_log(stage: &mut Stage) -> Result<(), Failure> {
    stage.heading("3. The log is forked");
    stage.say(
        "Somebody copies the log, key and all, and runs both. One goes on with one entry, the other with another:\n\
         two trees of the same size, both signed.",
    );
    stage.stop()?;
    copy(&stage.at("log"), &stage.at("attacks/log-copy"))?;
    let other = free_address()?;
    let config = stage.at("attacks/log-copy/sift-server.toml");
    let text = std::fs::read_to_string(&config)?.replace(stage.address(), &other);
    std::fs::write(&config, text)?;
    let one = stage.serve("log")?;
    let two = stage.serve("attacks/log-copy")?;
    let digest = "0".repeat(64);
    stage.operate_at(
        &one,
        "log/operator.key",
        &["erase", "--digest", &digest, "--reason", "what some are told"],
    )?;
    stage.operate_at(
        &two,
        "attacks/log-copy/operator.key",
        &["erase", "--digest", &digest, "--reason", "what others are told"],
    )?;
    std::fs::write(stage.at("attacks/head-one"), fetch(&format!("{one}/checkpoint"))?)?;
    std::fs::write(stage.at("attacks/head-two"), fetch(&format!("{two}/checkpoint"))?)?;
    stage.say("Anybody who holds both heads holds the proof against the log:");
    stage.caught(
        &["consistency", "--trust", "log/trust.policy", "attacks/head-one", "attacks/head-two"],
        "heads-inconsistent",
    )?;
    stage.stop()
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy(&item.path(), &target)?;
        } else {
            std::fs::copy(item.path(), target)?;
        }
    }
    Ok(())
}
