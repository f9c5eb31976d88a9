//! The kernel's key: what signs records, and the file it is read from.
//!
//! The private half never leaves the signer, stands in no message, is kept out of swap ([`LockedKey`]) and wiped when
//! dropped. It may be in a process of its own, see [`ProcessSigner`]: then nothing that gets hold of the kernel's process
//! gets hold of the key.

mod harden;
mod locked;
mod process;

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sift_spec::note::{KeyError, KeyType, SignerKey, VerifierKey};
use sift_spec::types::KeyName;
use zeroize::Zeroizing;

pub use harden::{harden_process, lock_memory};
pub use locked::LockedKey;
pub use process::{ProcessSigner, SIGN_PROTOCOL, serve};

/// Longest key file in bytes.
const KEY_FILE_BYTES_MAX: u64 = 1024;

/// Permission bits that let others than the owner read or write.
const OTHERS: u32 = 0o077;

/// Signs what the kernel records. A hardware module implements this as well as a file does.
pub trait Signer: Send + Sync + 'static {
    /// The public half, as it was granted by the operator.
    fn verifier(&self) -> &VerifierKey;

    /// The Ed25519 signature (RFC 8032) of `message` under [`Signer::verifier`]. Called from several threads at once.
    ///
    /// # Errors
    /// When the key cannot be used now. The kernel then halts.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

impl<S: Signer + ?Sized> Signer for Box<S> {
    fn verifier(&self) -> &VerifierKey {
        (**self).verifier()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        (**self).sign(message)
    }
}

/// The key could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's key cannot sign: {0}")]
pub struct SignError(pub String);

impl Signer for SignerKey {
    fn verifier(&self) -> &VerifierKey {
        Self::verifier(self)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.sign_bytes(message))
    }
}

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be opened, read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// Others than the owner can read or change it.
    #[error("{path}: others can read or change this key (mode {mode:03o}); run: chmod 600 {path}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else can put another key in its place.
    #[error("{path}: {why}")]
    Place {
        /// The file, or its directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// Not the text of a key.
    #[error("{path}: {error}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong; never repeats the content.
        error: KeyError,
    },
    /// No randomness for a new key.
    #[error("the operating system gives no randomness: {0}")]
    Random(String),
}

/// Reads a signer key, one line `PRIVATE+KEY+name+id+base64`, from a file that only its owner may read.
///
/// # Errors
/// When the file cannot be read, others can read or replace it, it is a link, belongs to another user, or holds no key.
pub fn read_key(path: &Path) -> Result<SignerKey, KeyFileError> {
    let io = |error| KeyFileError::Io { path: path.to_owned(), error };
    let place = |path: &Path, why| KeyFileError::Place { path: path.to_owned(), why };
    if std::fs::symlink_metadata(path).map_err(io)?.is_symlink() {
        return Err(place(path, "a key is not read through a link; name the file itself"));
    }
    // No link that is put there now is followed either, and no pipe is waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
    // Checked on the open file, so that it is the file that is read.
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(place(path, "not a regular file"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(place(path, "this key belongs to another user; run: chown it to the one that reads it"));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir_meta = std::fs::metadata(dir).map_err(io)?;
    let (dir_mode, dir_owner) = (dir_meta.permissions().mode(), dir_meta.uid());
    // In a sticky directory, such as /tmp, nobody can replace what belongs to others.
    if dir_mode & 0o022 != 0 && dir_mode & 0o1000 == 0 {
        return Err(place(dir, "others can replace keys in this directory; run: chmod go-w it"));
    }
    if dir_owner != 0 && dir_owner != meta.uid() {
        return Err(place(dir, "this directory belongs to another user, who can replace keys in it"));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(KeyFileError::Permissions { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES_MAX as usize));
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(io)?;
    SignerKey::from_secret_text(text.trim_end())
        .map_err(|error| KeyFileError::Key { path: path.to_owned(), error })
}

/// Makes a new Ed25519 key and writes it to a file that does not exist yet, readable by its owner only.
///
/// # Errors
/// When there is no randomness, or the file exists or cannot be written.
pub fn create_key(path: &Path, name: KeyName) -> Result<VerifierKey, KeyFileError> {
    let io = |error| KeyFileError::Io { path: path.to_owned(), error };
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|error| KeyFileError::Random(error.to_string()))?;
    let key = SignerKey::from_seed(name, KeyType::Ed25519, &seed)
        .map_err(|error| KeyFileError::Key { path: path.to_owned(), error })?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(key.to_secret_text().as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(io)?;
    file.sync_all().map_err(io)?;
    Ok(key.verifier().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel.key");
        let made = create_key(&path, "acme.example/kernel".parse().unwrap()).unwrap();
        assert_eq!(*read_key(&path).unwrap().verifier(), made);
        assert!(matches!(create_key(&path, "other".parse().unwrap()), Err(KeyFileError::Io { .. })));
        for mode in [0o640, 0o604, 0o660, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_key(&path), Err(KeyFileError::Permissions { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_key_that_others_can_replace_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel.key");
        create_key(&path, "acme.example/kernel".parse().unwrap()).unwrap();
        let link = dir.path().join("link.key");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let refused = |path: &Path| matches!(read_key(path), Err(KeyFileError::Place { .. }));
        assert!(refused(&link) && refused(dir.path()) && !refused(&path));
        let mode =
            |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        for (bits, bad) in [(0o777, true), (0o770, true), (0o702, true), (0o1777, false), (0o755, false)] {
            mode(bits);
            assert_eq!(refused(&path), bad, "{bits:o}");
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(refused(&path), "another user's");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
            std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
            assert!(refused(&path), "in another user's directory");
        }
    }

    #[test]
    fn no_message_repeats_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel.key");
        create_key(&path, "acme.example/kernel".parse().unwrap()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        // PRIVATE+KEY+name+id+base64, which may have a plus of its own.
        let secret = text.trim_end().splitn(5, '+').last().unwrap().to_owned();
        assert!(secret.len() > 40);
        std::fs::write(&path, text.replacen("acme", "acne", 1)).unwrap();
        let message = read_key(&path).unwrap_err().to_string();
        assert!(!message.contains(&secret), "{message}");
    }
}
