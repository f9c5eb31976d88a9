//! Files of secrets: keys and tokens, readable by their owner alone.

use std::path::Path;

use sift_spec::note::SignerKey;
use zeroize::Zeroizing;

use crate::config::{ConfigError, content, file, read};

/// Largest file of secrets in bytes: 4,096 tokens of 512 characters with names as long.
const SECRET_BYTES_MAX: u64 = 4 << 20;

/// Reads a private key. The file must be readable by its owner alone; errors never repeat its content.
///
/// # Errors
/// When it cannot be read, others may read it, or it is not a key.
pub fn read_key(path: &Path) -> Result<SignerKey, ConfigError> {
    let text = read_private(path)?;
    SignerKey::from_secret_text(text.trim_end()).map_err(|error| content(path, error.to_string()))
}

/// Reads a file of secrets, which must be its owner's alone.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let metadata = std::fs::metadata(path).map_err(|error| file(path, error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            let why = format!(
                "others may read this secret (mode {:o}); run: chmod 600 {}",
                mode & 0o777,
                path.display()
            );
            return Err(content(path, why));
        }
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(content(path, format!("more than {SECRET_BYTES_MAX} bytes: this is no file of secrets")));
    }
    Ok(Zeroizing::new(read(path)?))
}

/// Writes a new private key, durably.
pub(crate) fn write_secret(path: &Path, key: &SignerKey) -> Result<(), ConfigError> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let text = key.to_secret_text();
    let written = options.open(path).and_then(|mut file| {
        writeln!(file, "{}", *text)?;
        file.sync_all()
    });
    written.map_err(|error| file(path, error))
}
