//! `sift-server backup` and `restore`.

use std::path::Path;

use sift_server::backup::{Backup, Manifest};
use sift_server::config::Config;
use sift_server::fsck::Depth;

use crate::AnyError;
use crate::fsck::{bar, log_key, show};

pub(crate) fn backup(path: &Path, to: &Path, with_keys: bool, depth: Depth) -> Result<(), AnyError> {
    let config = Config::read(path)?;
    let log = log_key(&config)?;
    let bar = bar("checking  {bar:30} {pos}/{len} entries  {eta} left")?;
    let backup = Backup { config: &config, config_file: path, log: &log, to, with_keys, depth };
    let manifest = backup.run(&|done, all| show(&bar, done, all));
    bar.finish_and_clear();
    print("backed up", to, &manifest?);
    if !with_keys {
        println!("  keys     none: keep {} elsewhere, and safe", config.log_key.display());
    }
    Ok(())
}

pub(crate) fn restore(from: &Path, dir: &Path) -> Result<(), AnyError> {
    let bar = bar("copying  {bar:30} {bytes}/{total_bytes}  {eta} left")?;
    let manifest = sift_server::backup::restore(from, dir, &|done, all| show(&bar, done, all));
    bar.finish_and_clear();
    let manifest = manifest?;
    print("restored", dir, &manifest);
    println!();
    if !manifest.files.iter().any(|file| file.path == "log.key") {
        println!("Put the log's private key into it:  {}", dir.join("log.key").display());
    }
    println!("Then start it with the newest checkpoint of this log that anybody else holds:");
    println!("  sift-server serve --dir {} --seen CHECKPOINT", dir.display());
    println!("If that is of more than {} entries, this backup is too old to go on from.", manifest.size);
    Ok(())
}

fn print(what: &str, to: &Path, manifest: &Manifest) {
    println!("{what} to {}", to.display());
    println!("  log      {}", manifest.log);
    println!("  size     {} entries", manifest.size);
    println!("  root     {}", manifest.root);
    println!("  files    {}, {} bytes", manifest.files.len(), manifest.bytes());
}
