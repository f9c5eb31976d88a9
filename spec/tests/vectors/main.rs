//! The vectors in `spec/vectors`: every file is accepted or refused as its path says, and the generator makes
//! exactly these files. `SIFT_WRITE=1 cargo test -p sift-spec --test vectors` writes them anew.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod judge;
mod maker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use judge::check;
use maker::made;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");

fn on_disk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for item in std::fs::read_dir(folder).unwrap() {
        let item = item.unwrap();
        let name = format!("{prefix}{}", item.file_name().to_str().unwrap());
        if item.path().is_dir() {
            on_disk(&item.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(item.path()).unwrap());
        }
    }
}

#[test]
fn vectors() {
    let made = made();
    let folder = Path::new(FOLDER);
    if std::env::var_os("SIFT_WRITE").is_some() {
        for object in made.keys().map(|path| path.split('/').next().unwrap()).collect::<BTreeSet<_>>() {
            let _ = std::fs::remove_dir_all(folder.join(object));
        }
        for (path, bytes) in &made {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    let mut files = BTreeMap::new();
    on_disk(folder, "", &mut files);
    // Made by other means: see their own README.
    files.retain(|path, _| {
        path != "README.md" && !path.starts_with("zip215/") && !path.starts_with("finding/")
    });
    let bytes: usize = files.values().map(Vec::len).sum();
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (path, bytes) in files.iter().filter(|(path, _)| !path.starts_with("context/")) {
        let [object, verdict, name] = path.split('/').collect::<Vec<_>>()[..] else { panic!("{path}") };
        let count = counts.entry(object).or_default();
        match (verdict, check(object, bytes)) {
            ("ok", result) => {
                assert_eq!(result, Ok(()), "{path}");
                count.0 += 1;
            }
            ("bad", result) => {
                let (refusal, _) = name.split_once("--").unwrap();
                assert_eq!(result, Err(refusal.to_owned()), "{path}");
                count.1 += 1;
            }
            _ => panic!("{path}"),
        }
    }
    assert_eq!(files.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>(), "files and generator");
    for (path, bytes) in &made {
        assert!(files[path] == *bytes, "{path} is not what the generator makes");
    }
    let (ok, bad) = counts.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    for (object, (ok, bad)) in &counts {
        println!("{object:16} {ok:3} accepted {bad:4} refused");
    }
    println!("{ok} accepted, {bad} refused, {bytes} bytes");
    assert!(bad >= 5 * ok, "refusals outnumber acceptances five to one");
    assert!(bytes < 1 << 20, "vectors are small");
}
