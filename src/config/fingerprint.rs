//! Whether a section says the same as before, contents of the files it names included, without keeping any of it.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use config::{Value, ValueKind};

/// Of a section of the configuration: the same only where everything in it is. Means nothing outside of this process, and
/// nothing can be learnt from it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Fingerprint(u64);

/// What it is made of may be secret, and its number is different each time.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Fingerprint {
    /// Of `section`, whose paths are absolute.
    pub(super) fn of(section: &Value) -> Self {
        let mut hasher = KEY.build_hasher();
        hash(section, false, &mut hasher);
        Self(hasher.finish())
    }
}

/// `is_file`: a text is the name of a file that counts by its content.
fn hash(value: &Value, is_file: bool, hasher: &mut impl Hasher) {
    if let ValueKind::Table(table) = &value.kind {
        let mut keys: Vec<_> = table.iter().collect();
        keys.sort_by_key(|(key, _)| key.as_str());
        keys.len().hash(hasher);
        for (key, child) in keys {
            key.hash(hasher);
            hash(child, key.ends_with("_file"), hasher);
        }
    } else if let ValueKind::Array(list) = &value.kind {
        list.len().hash(hasher);
        list.iter().for_each(|child| hash(child, false, hasher));
    } else if let (ValueKind::String(path), true) = (&value.kind, is_file) {
        // What is no file, a pipe for one, can be read once only: by whom it is for.
        let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
        (path, is_file.then(|| std::fs::read(path).ok())).hash(hasher);
    } else {
        // Numbers and text are told apart by their type.
        format!("{:?}", value.kind).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use std::path::Path;

    use super::Fingerprint;

    fn of(text: &str, folder: &Path) -> (Fingerprint, Fingerprint) {
        let text = format!("[database]\nurl = \"postgres://u@h/db?sslmode=disable\"\n{text}");
        let config = parse(&text, &folder.join("outboxd.toml"), std::iter::empty()).unwrap();
        (config.transports[0].fingerprint, config.transports[1].fingerprint)
    }

    #[test]
    #[cfg_attr(not(feature = "redis"), ignore = "its transports are redis")]
    fn a_section_is_another_where_a_key_or_a_secret_is() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "old").unwrap();
        let a = "[transports.a.redis]\nurl = \"redis://h\"\npassword_file = \"secret\"\n";
        let b = "[transports.b.redis]\nurl = \"redis://h\"\nack_timeout = \"1s\"\n";
        let routes = "[[routes]]\ntopic = \"*\"\ntransport = \"a\"\n";
        let (first, other) = of(&format!("{a}{b}{routes}"), folder.path());
        assert_eq!(
            of(&format!("{b}{a}{routes}"), folder.path()),
            (first, other),
            "the order of keys is none"
        );
        let slower = b.replace("1s", "2s");
        let (again, changed) = of(&format!("{a}{slower}{routes}"), folder.path());
        assert_eq!((again, changed == other), (first, false));
        std::fs::write(&secret, "new").unwrap();
        let (rotated, same) = of(&format!("{a}{b}{routes}"), folder.path());
        assert_eq!((rotated == first, same), (false, other));
    }
}
