//! What the machine says: files that keys name, its name.

use std::path::Path;

use secrecy::SecretString;

use super::ConfigError;
use super::bounds::wrong;

pub(super) fn read_secret(key: &str, path: &Path) -> Result<SecretString, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        what: key.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Err(wrong(key, format!("{} is empty", path.display())));
    }
    Ok(SecretString::from(text))
}

pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
