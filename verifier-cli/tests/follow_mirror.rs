//! The mirror: the log's own bytes, proven before they are kept, whatever happens meanwhile.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::follower::{Scene, checkpoint_at, entries, forked_at};
use common::kernel::honest;
use common::lying::Lie;
use common::{Sealed, tiles};
use sift_spec::note::NOTE_BYTES_MAX;
use sift_spec::tile::{TILE_WIDTH, TilePath};

/// Every file below a folder, by its path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                // A file that is being written may have got its name meanwhile.
                found.extend(fs::read(&path).ok().map(|bytes| (name, bytes)));
            }
        }
    }
    found
}

/// What a log of this size serves.
fn served(sealed: &Sealed, size: usize) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let part = Sealed { entries: sealed.entries[..size].to_vec(), in_pack: Vec::new() };
    tiles::write(&part, dir.path());
    fs::write(dir.path().join("checkpoint"), checkpoint_at(sealed, size)).unwrap();
    files(dir.path())
}

/// Checks that a mirror that has a checkpoint has the whole tree under it; gives its size.
fn check(dir: &Path, log: &Sealed) -> u64 {
    let Ok(note) = fs::read(dir.join("checkpoint")) else { return 0 };
    let text = sift_spec::note::Note::parse(&note, NOTE_BYTES_MAX).unwrap().text.to_owned();
    let size: usize = text.lines().nth(1).unwrap().parse().unwrap();
    for (path, bytes) in served(log, size) {
        let kept = fs::read(dir.join(&path)).unwrap_or_else(|_| panic!("{path} of {size} is missing"));
        assert!(kept == bytes, "{path} of {size} differs");
    }
    size as u64
}

#[test]
fn it_is_the_log_byte_for_byte_and_has_no_more() {
    let scene = Scene::new();
    let log = entries(0, 70_000);
    let mut before = 0;
    for size in [0, 1, 5, 255, 256, 257, 600, 65_536, 65_537, 70_000] {
        scene.show_at(&log, &checkpoint_at(&log, size));
        let begun = Instant::now();
        let round = scene.once(&["--mirror"]);
        assert_eq!(round.code, 0, "{size}: {round:?}");
        println!("{size:6} entries, {:4.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
        if size > 0 {
            let told = round.of("mirrored")[0];
            assert_eq!(
                (told["size"].as_u64(), told["entries"].as_u64()),
                (Some(size as u64), Some((size - before) as u64))
            );
        }
        let (kept, mut expected) = (files(&scene.path("dir/mirror")), served(&log, size));
        // Partial tiles of the size before are kept for whoever reads them now.
        let old = served(&log, before);
        expected.extend(old.into_iter().filter(|(path, _)| path.contains(".p/")));
        assert_eq!(kept.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{size}");
        assert!(kept == expected, "{size}");
        before = size;
    }
    // What is held already is not fetched again.
    scene.log.asked();
    assert_eq!(scene.once(&["--mirror"]).code, 0);
    assert_eq!(scene.log.asked(), ["checkpoint"]);
}

/// A log of records: what is mirrored passes the audit with nobody to ask.
#[test]
fn the_audit_of_the_mirror_needs_no_log() {
    let scene = Scene::new();
    scene.show(&honest().seal());
    assert_eq!(scene.once(&["--mirror"]).code, 0);
    let (code, said) = scene.verify(scene.folder.path(), &["log", "--trust", "trust.txt", "dir/mirror"]);
    assert_eq!(code, 0, "{said}");
    // And it is a log to be followed.
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_sift-verify"));
    again.current_dir(scene.folder.path());
    again.args([
        "follow",
        "--trust",
        "trust.txt",
        "--dir",
        "second",
        "--log",
        "dir/mirror",
        "--mirror",
        "--once",
    ]);
    assert!(again.status().unwrap().success());
    assert_eq!(files(&scene.path("second/mirror")), files(&scene.path("dir/mirror")));
}

#[test]
fn what_is_not_the_logs_is_not_kept() {
    let scene = Scene::new();
    let log = entries(0, 1000);
    scene.show_at(&log, &checkpoint_at(&log, 300));
    assert_eq!(scene.once(&["--mirror"]).code, 0);
    scene.show_at(&log, &checkpoint_at(&log, 1000));
    let mut bundle = served(&log, 1000)["tile/entries/002"].clone();
    bundle[40] ^= 1;
    let mut tile = served(&log, 1000)["tile/1/000.p/3"].clone();
    tile[40] ^= 1;
    for (path, lie, code, found) in [
        (
            "tile/entries/003",
            Lie::Bytes(served(&forked_at(900, 1000), 1000)["tile/entries/003.p/232"].clone()),
            1,
            Some("bundle-malformed"),
        ),
        ("tile/entries/002", Lie::Bytes(bundle.clone()), 1, Some("bundle-malformed")),
        ("tile/entries/002", Lie::Bytes(bundle[..bundle.len() - 1].to_vec()), 1, Some("bundle-malformed")),
        ("tile/entries/002", Lie::Bytes(Vec::new()), 1, Some("bundle-malformed")),
        ("tile/entries/", Lie::Status(404), 2, None),
        ("tile/entries/002", Lie::Endless, 2, None),
        ("tile/entries/002", Lie::Hang, 2, None),
        ("tile/entries/002", Lie::Cut, 2, None),
        ("tile/1/", Lie::Bytes(tile), 1, Some("tile-differs")),
    ] {
        // Other workers keep what is good while one is lied to.
        let _ = fs::remove_file(scene.path("dir/mirror/tile/entries/002"));
        let _ = fs::remove_dir_all(scene.path("dir/mirror/tile/entries/003.p"));
        scene.log.lie(path, lie.clone());
        let round = scene.once(&["--mirror"]);
        let lie = format!("{lie:?}").chars().take(40).collect::<String>();
        assert_eq!((round.code, round.findings().first().copied()), (code, found), "{path} {lie}: {round:?}");
        assert_eq!(check(&scene.path("dir/mirror"), &log), 300, "{path} {lie}");
        // Whatever is there beyond the checkpoint is right.
        let all = served(&log, 1000);
        for (path, bytes) in files(&scene.path("dir/mirror"))
            .iter()
            .filter(|(path, _)| !path.contains(".p/") && *path != "checkpoint")
        {
            assert!(all.get(path) == Some(bytes), "{path}");
        }
        scene.log.be_honest();
    }
    assert_eq!(scene.once(&["--mirror"]).code, 0);
    assert_eq!(check(&scene.path("dir/mirror"), &log), 1000);
}

/// Killed at any moment: what has a checkpoint is whole, the next pass goes on, and what a disk has lost meanwhile is
/// fetched again.
#[test]
fn a_kill_at_any_moment_leaves_a_whole_tree() {
    let scene = Scene::new();
    let log = entries(0, 20_000);
    let (mut finished, mut sizes) = (0, vec![]);
    for round in 0..14_u64 {
        let size = 1000 + 1300 * usize::try_from(round).unwrap();
        scene.show_at(&log, &checkpoint_at(&log, size));
        let mut child =
            scene.command(&["--mirror", "--once"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        // Killed when it has kept so many files more, or at once.
        let before = files(&scene.path("dir/mirror")).len();
        while files(&scene.path("dir/mirror")).len() < before + usize::try_from(round).unwrap()
            && child.try_wait().unwrap().is_none()
        {}
        let _ = child.kill();
        finished += u32::from(child.wait().unwrap().code() == Some(0));
        sizes.push(check(&scene.path("dir/mirror"), &log));
    }
    println!("killed at sizes {sizes:?}; {finished} of 14 were done before");
    assert!(sizes.is_sorted());
    // Beyond the checkpoint, a bundle that a disk has spoilt, and one that it lost.
    scene.show_at(&log, &checkpoint_at(&log, 20_000));
    scene.log.lie("tile/entries/077", Lie::Status(404));
    assert_eq!(scene.once(&["--mirror"]).code, 2);
    scene.log.be_honest();
    let mirror = scene.path("dir/mirror");
    let kept: Vec<u64> = (check(&mirror, &log).div_ceil(TILE_WIDTH)..77)
        .filter(|index| mirror.join(TilePath::Entries { index: *index, width: 256 }.to_string()).exists())
        .collect();
    if let [first, .., last] = kept[..] {
        let path = |index| mirror.join(TilePath::Entries { index, width: 256 }.to_string());
        fs::write(path(first), b"spoilt").unwrap();
        fs::remove_file(path(last)).unwrap();
    }
    assert_eq!(scene.once(&["--mirror"]).code, 0);
    assert_eq!(check(&mirror, &log), 20_000);
    // No partial tile of the sizes between is left.
    let partial = files(&mirror).into_keys().filter(|path| path.contains(".p/")).count();
    assert!(partial <= 6, "{partial}");
    assert!(files(&mirror).keys().all(|path| !path.contains("unfinished")), "and nothing unfinished");
}

/// A copy that is taken while heads come: the daemon never stops judging, and ends at once.
#[test]
fn a_daemon_copies_while_it_watches() {
    let scene = Scene::new();
    let log = entries(0, 3000);
    scene.show_at(&log, &checkpoint_at(&log, 2000));
    scene.log.lie("tile/entries/003", Lie::Hang);
    let daemon = scene.start(&["--every", "1", "--mirror"]);
    daemon.until_size("head", 2000);
    scene.show_at(&log, &checkpoint_at(&log, 2500));
    daemon.until_size("head", 2500);
    daemon.until("trouble", |told| {
        told["event"] == "trouble" && told["detail"].as_str().unwrap().contains("mirror is behind")
    });
    scene.log.be_honest();
    daemon.until_size("mirrored", 2500);
    scene.show_at(&log, &checkpoint_at(&log, 3000));
    daemon.until_size("mirrored", 3000);
    let begun = Instant::now();
    assert_eq!(daemon.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert_eq!(check(&scene.path("dir/mirror"), &log), 3000);
    // Tiles of the copy prove that the log forked, when the log has lost its own.
    scene.show(&entries(0, 10));
    let fork = forked_at(1500, 2800);
    scene.show_at(&entries(0, 10), &checkpoint_at(&fork, 2800));
    let round = scene.once(&["--mirror"]);
    assert!(round.findings().contains(&"heads-inconsistent"), "{round:?}");
    let all = files(&round.evidence());
    assert!(all.keys().any(|path| path.starts_with("tile/")), "{:?}", all.keys());
}
