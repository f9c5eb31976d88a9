//! Evidence packs (SPEC §9).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::LazyLock;

use sift_spec::evidence::{Pack, PackError};
use sift_spec::proof::Proof;
use sift_spec::types::{LeafIndex, RunId};

use super::honest::Honest;
use super::input::Input;

static HONEST: LazyLock<(Pack, Vec<u8>)> = LazyLock::new(|| {
    let pack = Honest::new().pack();
    let bytes = pack.write().unwrap();
    (pack, bytes)
});

pub(crate) fn pack(bytes: &[u8]) {
    match Pack::read(bytes) {
        Ok(pack) => check(&pack, bytes),
        Err(PackError::NotCanonical(at) | PackError::Archive(at)) => assert!(at <= bytes.len()),
        Err(_) => {}
    }
    edited(bytes);
    made(bytes);
}

/// What is read prints as the same bytes, and any unzip finds the same members in it.
fn check(pack: &Pack, bytes: &[u8]) {
    assert_eq!(pack.write().as_deref(), Ok(bytes), "exactly one encoding");
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).expect("zip reads what we read");
    let mut members = BTreeMap::new();
    for at in 0..archive.len() {
        let mut member = archive.by_index(at).expect("a member");
        let mut content = Vec::new();
        member.read_to_end(&mut content).expect("its content, and the checksum of it");
        assert!(
            members.insert(member.name().expect("a name").into_owned(), content).is_none(),
            "each member once"
        );
    }
    let mut expected = BTreeMap::from([("checkpoint".to_owned(), pack.checkpoint.as_bytes().to_vec())]);
    expected.extend(
        pack.entries.iter().map(|(index, entry)| (format!("entries/{index:016}.note"), entry.clone())),
    );
    for (folder, contents) in [("bundles", &pack.bundles), ("objects", &pack.objects)] {
        expected.extend(
            contents.iter().map(|(digest, content)| (format!("{folder}/{}", digest.hex()), content.clone())),
        );
    }
    for fixed in ["README.txt", "manifest"] {
        assert!(members.remove(fixed).is_some(), "{fixed}");
    }
    assert!(members == expected, "zip finds other members or contents");
}

/// Bytes of an honest pack changed, cut or added: refused, or another pack.
fn edited(bytes: &[u8]) {
    let (honest, written) = &*HONEST;
    let mut input = Input::new(bytes);
    let mut edited = written.clone();
    for _ in 0..1 + input.byte() % 4 {
        let at = input.below(edited.len() as u64 + 1) as usize;
        match input.byte() % 4 {
            0 => edited.truncate(at),
            1 => edited.insert(at, input.byte()),
            2 if at < edited.len() => edited[at] ^= input.byte(),
            3 if at < edited.len() => drop(edited.remove(at)),
            _ => {}
        }
    }
    match Pack::read(&edited) {
        Ok(pack) => {
            assert_eq!(pack == *honest, edited == *written, "one pack has one encoding");
            check(&pack, &edited);
        }
        Err(_) => assert!(edited != *written),
    }
}

/// Whatever a pack holds, it reads back.
fn made(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut pack = Pack {
        run: RunId::from_parts(
            sift_spec::types::UnixMillis::new(input.integer()).unwrap(),
            &[input.byte(); 10],
        ),
        checkpoint: String::new(),
        entries: BTreeMap::new(),
        proof: Proof::default(),
        bundles: BTreeMap::new(),
        objects: BTreeMap::new(),
    };
    while !input.is_empty() {
        let kind = input.byte() % 5;
        let (hash, length) = (input.hash(), usize::from(input.byte()));
        match kind {
            0 => pack.checkpoint = String::from_utf8_lossy(input.take(length)).into_owned(),
            1 => {
                let index = LeafIndex::new(input.integer()).unwrap();
                pack.entries.insert(index, input.take(length).to_vec());
            }
            2 => pack.proof.0.push(hash),
            3 => drop(pack.bundles.insert(hash, input.take(length).to_vec())),
            _ => drop(pack.objects.insert(hash, input.take(length).to_vec())),
        }
    }
    let written = pack.write().expect("a small pack");
    assert_eq!(Pack::read(&written).as_ref(), Ok(&pack));
    check(&pack, &written);
}
