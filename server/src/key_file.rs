//! Files of private keys: one line, readable by its owner alone.

use std::path::Path;

use sift_spec::note::SignerKey;
use zeroize::Zeroizing;

use crate::config::{ConfigError, content, file, read};

/// Reads a private key. The file must be readable by its owner alone; errors never repeat its content.
///
/// # Errors
/// When it cannot be read, others may read it, or it is not a key.
pub fn read_key(path: &Path) -> Result<SignerKey, ConfigError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map_err(|error| file(path, error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let why = format!(
                "others may read this key (mode {:o}); run: chmod 600 {}",
                mode & 0o777,
                path.display()
            );
            return Err(content(path, why));
        }
    }
    let text = Zeroizing::new(read(path)?);
    SignerKey::from_secret_text(text.trim_end()).map_err(|error| content(path, error.to_string()))
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
