//! A key whose memory is not swapped.

use sift_spec::note::{SignerKey, VerifierKey};

use super::{SignError, Signer};

/// A key in pages of its own, kept out of swap as long as it lives, and wiped before they are released.
///
/// A few bytes may be locked by anybody on most systems (`ulimit -l`); where they may not, that is said in the trace and
/// by [`LockedKey::is_locked`], and the key is wiped all the same. What a key passed through on its way here, the stack
/// of the thread that read it, is not locked: a [`super::ProcessSigner`] never has it in this process.
pub struct LockedKey {
    // Dropped in this order: wiped, then unlocked.
    key: Box<Pages>,
    locked: Option<region::LockGuard>,
}

/// Locks hold for whole pages, and unlocking one for all that is in it.
#[repr(align(4096))]
struct Pages(SignerKey);

impl LockedKey {
    /// Takes a key over.
    #[must_use]
    pub fn new(key: SignerKey) -> Self {
        let key = Box::new(Pages(key));
        let locked = region::lock(std::ptr::from_ref(&*key), size_of::<Pages>());
        let locked = locked.map_err(|error| {
            tracing::warn!(%error, "the key's memory cannot be kept out of swap; raise the limit (ulimit -l)");
        });
        Self { key, locked: locked.ok() }
    }

    /// Whether its memory is kept out of swap.
    #[must_use]
    pub const fn is_locked(&self) -> bool {
        self.locked.is_some()
    }
}

impl std::fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockedKey").field("name", self.verifier().name()).finish_non_exhaustive()
    }
}

impl Signer for LockedKey {
    fn verifier(&self) -> &VerifierKey {
        self.key.0.verifier()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Signer::sign(&self.key.0, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::note::KeyType;

    /// Kilobytes that are locked at the address of the key, as the system tells it.
    fn locked_kb(key: &LockedKey) -> u64 {
        let address = std::ptr::from_ref(&*key.key).addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines();
        let here = |line: &str| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            let parse = |text| usize::from_str_radix(text, 16).ok();
            Some((parse(start)?..parse(end)?).contains(&address))
        };
        lines.find(|line| here(line) == Some(true)).unwrap();
        let line = lines.find_map(|line| line.strip_prefix("Locked:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn the_pages_of_a_key_are_locked() {
        let key = SignerKey::from_seed("test/locked".parse().unwrap(), KeyType::Ed25519, &[3; 32]).unwrap();
        let expected = key.sign_bytes(b"text");
        let locked = LockedKey::new(key);
        assert!(locked.is_locked());
        assert!(locked_kb(&locked) >= 4, "{}", locked_kb(&locked));
        assert_eq!(Signer::sign(&locked, b"text").unwrap(), expected);
        assert!(!format!("{locked:?}").contains("3, 3"));
    }
}
