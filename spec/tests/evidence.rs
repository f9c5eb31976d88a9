//! Evidence packs and bundles: one encoding, every byte, hostile archives, and the crate `zip` as a second opinion.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::time::Instant;

use common::honest::{Honest, run, trust};
use common::{Random, index};
use sift_spec::bundle::Bundle;
use sift_spec::evidence::{Pack, PackError};
use sift_spec::hash::{leaf_hash, object_digest};
use sift_spec::proof::{Proof, verify_multi_inclusion};
use sift_spec::types::{Hash, LeafIndex};

/// Everything that is hashed or signed in a pack holds: what `sift-verify` checks before it looks at meaning.
fn holds(pack: &Pack) -> bool {
    let Ok(checkpoint) = trust().verify(pack.checkpoint.as_bytes()) else { return false };
    let leaves: Vec<(LeafIndex, Hash)> =
        pack.entries.iter().map(|(at, entry)| (*at, leaf_hash(entry))).collect();
    verify_multi_inclusion(&leaves, &checkpoint.checkpoint().head, &pack.proof).is_ok()
        && pack.objects.iter().chain(&pack.bundles).all(|(digest, bytes)| object_digest(bytes) == *digest)
}

#[test]
fn every_byte_of_a_pack_is_checked_or_hashed() {
    let honest = Honest::new().pack();
    let bytes = honest.write().unwrap();
    assert_eq!(Pack::read(&bytes).as_ref(), Ok(&honest));
    assert!(holds(&honest));
    let (mut refused, mut differ) = (0, 0);
    for at in 0..bytes.len() {
        for mask in [1 << (at % 8), 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            match Pack::read(&changed) {
                Err(_) => refused += 1,
                // The run's name stands in README and manifest, twice: one change cannot fit both.
                Ok(pack) => {
                    assert_ne!(pack, honest);
                    assert!(!holds(&pack), "byte {at}");
                    differ += 1;
                }
            }
        }
        assert!(Pack::read(&bytes[..at]).is_err(), "cut at {at}");
        if at % 7 == 0 {
            let inserted = [&bytes[..at], b"x", &bytes[at..]].concat();
            assert!(Pack::read(&inserted).is_err(), "a byte more at {at}");
            let removed = [&bytes[..at], &bytes[at + 1..]].concat();
            assert!(Pack::read(&removed).is_err(), "a byte less at {at}");
        }
    }
    for tail in [&b"x"[..], b"\0", b"PK\x05\x06", &bytes] {
        assert!(Pack::read(&[&bytes, tail].concat()).is_err());
        assert!(Pack::read(&[tail, &bytes].concat()).is_err());
    }
    println!(
        "{} bytes: {refused} changes refused by the encoding, {differ} by hashes and signatures",
        bytes.len()
    );
}

#[test]
fn the_zip_crate_reads_our_packs() {
    let pack = Honest::new().pack();
    let bytes = pack.write().unwrap();
    let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let mut names = Vec::new();
    let mut contents = BTreeMap::new();
    for at in 0..archive.len() {
        let mut member = archive.by_index(at).unwrap();
        assert_eq!(
            (member.compression(), member.unix_mode()),
            (zip::CompressionMethod::Stored, Some(0o100_644))
        );
        let mut content = Vec::new();
        member.read_to_end(&mut content).unwrap();
        names.push(member.name().unwrap().into_owned());
        contents.insert(member.name().unwrap().into_owned(), content);
    }
    assert_eq!(names.len(), 3 + pack.entries.len() + pack.bundles.len() + pack.objects.len());
    assert_eq!(&names[..4], ["README.txt", "manifest", "checkpoint", "entries/0000000000000000.note"]);
    for (at, entry) in &pack.entries {
        assert_eq!(contents[&format!("entries/{:016}.note", at.get())], *entry);
    }
    for (digest, object) in &pack.objects {
        assert_eq!(contents[&format!("objects/{}", digest.hex())], *object);
    }
    assert_eq!(pack.file_name(), format!("{}.sift", run()));
}

/// A pack of `count` entries of one byte.
fn wide(count: u64) -> Pack {
    Pack {
        run: run(),
        checkpoint: "none".to_owned(),
        entries: (0..count).map(|at| (index(at), vec![at as u8])).collect(),
        proof: Proof::default(),
        bundles: BTreeMap::new(),
        objects: BTreeMap::new(),
    }
}

#[test]
fn packs_around_65535_members() {
    for count in [65_531, 65_532, 65_533, 70_000] {
        let pack = wide(count);
        let bytes = pack.write().unwrap();
        let zip64 = bytes.windows(4).rev().take(200).any(|window| window == b"PK\x06\x06");
        assert_eq!(zip64, count + 3 >= 65_535, "ZIP64 end record for {count} entries");
        assert_eq!(Pack::read(&bytes).unwrap(), pack);
        let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
        assert_eq!(archive.len() as u64, count + 3);
        let mut last = archive.by_name(&format!("entries/{:016}.note", count - 1)).unwrap();
        let mut content = Vec::new();
        last.read_to_end(&mut content).unwrap();
        assert_eq!(content, [(count - 1) as u8]);
        // The records at the end are checked like everything else.
        let end = bytes.len() - if zip64 { 98 } else { 22 };
        for at in (end..bytes.len()).step_by(9) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Pack::read(&changed), Err(PackError::NotCanonical(at)));
        }
    }
}

/// An archive of these members, by the other crate.
fn foreign(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in members {
        writer.start_file(*name, options).unwrap();
        std::io::Write::write_all(&mut writer, content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

type Member = (String, Vec<u8>);
type Members = Vec<Member>;

/// The members of a pack by name, in their order.
fn members(bytes: &[u8]) -> Members {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    (0..archive.len())
        .map(|at| {
            let mut member = archive.by_index(at).unwrap();
            let mut content = Vec::new();
            member.read_to_end(&mut content).unwrap();
            (member.name().unwrap().into_owned(), content)
        })
        .collect()
}

/// Stored members byte by byte as SPEC §9 says, written here a second time.
fn stored(members: &[Member]) -> Vec<u8> {
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    }
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let mut common = vec![45, 0, 0, 8, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc32(content).to_le_bytes());
        common.extend([(content.len() as u32).to_le_bytes(); 2].concat());
        common.extend([(name.len() as u16).to_le_bytes(), [0, 0]].concat());
        let offset = (out.len() as u32).to_le_bytes();
        out.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        let attributes = [0, 0, 0xa4, 0x81];
        directory.extend(
            [b"PK\x01\x02", &[45, 3][..], &common, &[0; 6], &attributes, &offset, name.as_bytes()].concat(),
        );
    }
    let count = (members.len() as u16).to_le_bytes();
    let (start, length) = ((out.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    out.extend(directory);
    out.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &length, &start, &[0, 0]].concat());
    out
}

#[test]
fn members_out_of_place_are_refused() {
    let bytes = Honest::new().pack().write().unwrap();
    let good = members(&bytes);
    assert_eq!(stored(&good), bytes, "the profile of SPEC §9, written twice");
    let refused = |what: &str, change: &dyn Fn(&mut Members)| {
        let mut changed = good.clone();
        change(&mut changed);
        let verdict = Pack::read(&stored(&changed));
        assert!(verdict.is_err(), "{what}");
    };
    for (at, member) in good.iter().enumerate() {
        refused(&format!("{} twice", member.0), &|members| members.insert(at, member.clone()));
        refused(&format!("{} at the end again", member.0), &|members| members.push(member.clone()));
        refused(&format!("{} renamed", member.0), &|members| members[at].0.push('x'));
        refused(&format!("{} in upper case", member.0), &|members| {
            members[at].0 = if at == 0 { "readme.txt".to_owned() } else { members[at].0.to_uppercase() };
        });
        if at > 0 {
            refused(&format!("{} before its place", member.0), &|members| members.swap(at, at - 1));
        }
    }
    for (at, member) in good.iter().enumerate().take(3) {
        refused(&format!("without {}", member.0), &|members| {
            members.remove(at);
        });
    }
    // One entry fewer is another pack; its README and its proof no longer fit.
    refused("an entry fewer", &|members| {
        members.remove(5);
    });
    for (name, content) in [
        ("entries/", &b""[..]),
        ("entries/0000000000000099", b""),
        ("entries/99.note", b""),
        ("entries/+000000000000099.note", b""),
        ("entries/00000000000000099.note", b""),
        ("entries/9007199254740992.note", b""),
        ("entries/../evil.note", b""),
        ("objects/00", b""),
        ("bundles/../../etc/passwd", b""),
        ("/manifest", b""),
        ("manifest/", b""),
        ("..", b""),
        ("", b""),
        ("other/x", b""),
    ] {
        refused(name, &|members| members.push((name.to_owned(), content.to_vec())));
    }
    refused("an entry of 65,536 bytes", &|members| members[3].1 = vec![b'x'; 65_536]);
    refused("a manifest of another header", &|members| members[1].1[0] = b'S');
    refused("a manifest without a final line feed", &|members| {
        members[1].1.pop();
    });
    refused("a manifest with a line more", &|members| members[1].1.extend(b"\n"));
    refused("a manifest of another run", &|members| {
        let text = String::from_utf8(members[1].1.clone()).unwrap();
        members[1].1 = text.replace("019ab697", "019ab698").into_bytes();
    });
    refused("a checkpoint that is not UTF-8", &|members| members[2].1[0] = 0xff);
    let theirs =
        foreign(&good.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect::<Vec<_>>());
    assert!(Pack::read(&theirs).is_err(), "another encoding of the same members");
}

#[test]
fn every_byte_of_every_member_is_refused_or_hashed() {
    // As above, but with the checksums of ZIP put right, as an attacker would.
    let honest = Honest::new().pack();
    let good = members(&honest.write().unwrap());
    let (mut refused, mut differ) = (0, 0);
    for member in 0..good.len() {
        for at in 0..good[member].1.len() {
            let mut changed = good.clone();
            changed[member].1[at] ^= 1 << (at % 8);
            match Pack::read(&stored(&changed)) {
                Err(_) => refused += 1,
                Ok(pack) => {
                    let line = String::from_utf8_lossy(&changed[2].1).into_owned();
                    // One witness's name or id changed: its line is unknown, the other one makes the quorum.
                    let unknown_witness = member == 2
                        && trust().verify(line.as_bytes()).is_ok_and(|head| head.witnesses().len() == 1);
                    assert!(!holds(&pack) || unknown_witness, "{} at {at}", good[member].0);
                    assert_ne!(pack, honest);
                    differ += 1;
                }
            }
        }
    }
    println!("{refused} changed members refused by the encoding, {differ} by hashes and signatures");
    assert!(differ > 1000);
}

#[test]
fn hostile_archives_end_quickly_and_without_a_panic() {
    let start = Instant::now();
    let bytes = Honest::new().pack().write().unwrap();
    // Every 16 and 32 bit field of the first header at its extremes.
    for at in 0..64 {
        for value in [0_u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff] {
            let mut changed = bytes.clone();
            changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = Pack::read(&changed);
        }
    }
    // Nothing but headers of empty members.
    let header = [&b"PK\x03\x04"[..], &[0; 26]].concat();
    for tail in [&b""[..], b"PK\x01\x02", b"PK\x05\x06"] {
        let many = [header.repeat(200_000), tail.to_vec()].concat();
        assert!(Pack::read(&many).is_err());
    }
    let mut random = Random::seeded("hostile_archives", 29);
    for _ in 0..20_000 {
        let mut changed = bytes.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(changed.len() as u64) as usize;
            changed[at] = random.next() as u8;
        }
        changed.truncate(random.below(bytes.len() as u64 + 1) as usize);
        assert!(Pack::read(&changed).is_err());
    }
    assert!(Pack::read(b"").is_err());
    println!("hostile archives in {} ms", start.elapsed().as_millis());
}

#[test]
fn bundles_from_random_bytes_have_one_encoding() {
    let good = common::honest::bundle().encode();
    let mut random = Random::seeded("bundles_from_random_bytes_have_one_encoding", 31);
    let mut accepted = 0;
    for _ in 0..50_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(3) {
            match random.below(3) {
                0 => bytes[random.below(good.len() as u64 - 9) as usize] = random.next() as u8 & 0x7f,
                1 => bytes
                    .insert(random.below(bytes.len() as u64) as usize, b"0 \n/.a"[random.below(6) as usize]),
                _ => drop(bytes.remove(random.below(bytes.len() as u64) as usize)),
            }
        }
        if let Ok(bundle) = Bundle::decode(&bytes) {
            assert_eq!(bundle.encode(), bytes);
            let again = Bundle::new(bundle.files().clone()).unwrap();
            assert_eq!(again, bundle);
            accepted += 1;
        }
    }
    println!("{accepted} of 50000 changed bundles are other bundles in their one encoding");
}
