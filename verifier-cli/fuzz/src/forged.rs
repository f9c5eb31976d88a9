//! Packs by somebody who holds the kernel's key and the log's, and says what they like.

use serde_json::{Value, json};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::payload::Object;
use sift_spec::proof::{TreeHead, prove_multi_inclusion};
use sift_spec::tree::MemoryTree;
use sift_spec::types::{Hash, LeafIndex};

/// An honest run with approvals, payloads and its bundle. Under a trust file that asks for no witness it verifies.
const HONEST: &[u8] = include_bytes!("../../../spec/vectors/finding/not-witnessed/run.sift");

pub(crate) struct Forger {
    pack: Pack,
    kernel: SignerKey,
    log: SignerKey,
}

impl Forger {
    pub(crate) fn new() -> Self {
        let key = |name: &str, seed| {
            SignerKey::from_seed(name.parse().unwrap(), KeyType::Ed25519, &[seed; 32]).unwrap()
        };
        let pack = Pack::read(HONEST).unwrap();
        Self { pack, kernel: key("acme.example/kernel", 3), log: key("log.example/sift", 1) }
    }

    /// The pack as it is where nobody changes anything: of a log that has its entries alone.
    pub(crate) fn honest(&self) -> Vec<u8> {
        self.logged(self.pack.entries.values().cloned().collect(), self.pack.clone()).unwrap()
    }

    /// A record says something else.
    pub(crate) fn record(&self, edits: &mut Edits<'_>) -> Option<Vec<u8>> {
        let at = edits.below(self.pack.entries.len());
        self.signed(self.pack.clone(), |place, text| {
            if place != at {
                return Some(text);
            }
            let mut bytes = text.into_bytes();
            edits.edit(&mut bytes);
            String::from_utf8(bytes).ok()
        })
    }

    /// A payload holds something else, and the records commit to it.
    pub(crate) fn payload(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (choice, content) = bytes.split_first()?;
        let at = usize::from(*choice) % self.pack.objects.len();
        let (digest, honest) = self.pack.objects.iter().nth(at)?;
        let salt = honest.first_chunk::<16>()?;
        // An honest start leaves more for the end to say.
        let mut whole = honest[16..].to_vec();
        Edits::new(content).edit(&mut whole);
        let object = Object::new(*salt, if choice.is_multiple_of(2) { content } else { &whole }).ok()?;
        let mut pack = self.pack.clone();
        pack.objects.remove(digest);
        pack.objects.insert(object.digest(), object.as_bytes().to_vec());
        self.signed(pack, |_, text| {
            let (header, rest) = text.split_once('\n')?;
            let mut record: Value = serde_json::from_str(rest).ok()?;
            recommit(&mut record, &json!(digest), &object);
            Some(format!("{header}\n{record}\n"))
        })
    }

    /// Signs and chains the run's records anew, with these texts.
    fn signed(&self, pack: Pack, mut say: impl FnMut(usize, String) -> Option<String>) -> Option<Vec<u8>> {
        let mut entries = Vec::new();
        // The record before, as it was and as it is.
        let mut before: Option<(Hash, Hash)> = None;
        for (place, entry) in self.pack.entries.values().enumerate() {
            let text = std::str::from_utf8(entry).ok()?.rsplit_once("\n\n")?.0.to_owned() + "\n";
            if !text.starts_with("sift/record@v1\n") {
                entries.push(entry.clone());
                continue;
            }
            let text = match before {
                Some((was, is)) => text.replace(&was.to_string(), &is.to_string()),
                None => text,
            };
            let text = say(place, text)?;
            let printable = |byte: u8| byte >= 0x20 || byte == b'\n';
            if !text.ends_with('\n') || !text.bytes().all(printable) {
                return None;
            }
            let signed = self.kernel.sign_note(&text).into_bytes();
            before = Some((leaf_hash(entry), leaf_hash(&signed)));
            entries.push(signed);
        }
        self.logged(entries, pack)
    }

    /// A log that has these entries, and a pack of all of them.
    fn logged(&self, entries: Vec<Vec<u8>>, pack: Pack) -> Option<Vec<u8>> {
        let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
        let head = TreeHead { size: tree.size(), root: tree.root(tree.size())? };
        let indices: Vec<LeafIndex> =
            (0..entries.len() as u64).filter_map(|index| LeafIndex::new(index).ok()).collect();
        let checkpoint = Checkpoint::new(self.log.verifier().name().clone(), head).ok()?.sign(&self.log);
        let proof = prove_multi_inclusion(&indices, tree.size(), &tree).ok()?;
        Pack { checkpoint, proof, entries: indices.into_iter().zip(entries).collect(), ..pack }.write().ok()
    }
}

/// Replaces every commitment to a digest.
fn recommit(value: &mut Value, digest: &Value, object: &Object) {
    match value {
        Value::Object(members) => {
            if members.get("digest") == Some(digest) {
                members.insert("digest".to_owned(), json!(object.digest()));
                members.insert("size".to_owned(), json!(object.content().len()));
            }
            members.values_mut().for_each(|value| recommit(value, digest, object));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| recommit(value, digest, object)),
        _ => {}
    }
}

/// Bytes as a supply of choices; when they run out, every further choice is zero.
pub(crate) struct Edits<'a>(&'a [u8]);

impl<'a> Edits<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number below `bound`; 0 where there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bound.max(1)
    }

    /// Changes, cuts, adds, and copies from elsewhere in the text.
    pub(crate) fn edit(&mut self, text: &mut Vec<u8>) {
        for _ in 0..1 + self.byte() % 3 {
            let at = self.below(text.len() + 1);
            let length = usize::from(self.byte() % 24);
            let end = (at + length).min(text.len());
            match self.byte() % 4 {
                0 if at < text.len() => text[at] ^= self.byte(),
                1 => drop(text.splice(at..end, self.take(length).iter().copied())),
                2 => drop(text.splice(at..at, self.take(length).iter().copied())),
                _ => {
                    let from = self.below(text.len() + 1);
                    let copied = text[from..(from + length).min(text.len())].to_vec();
                    drop(text.splice(at..end, copied));
                }
            }
        }
    }
}
