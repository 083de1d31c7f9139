//! What tells one key of one topic from another in 16 bytes, however long they are.

use sha2::{Digest, Sha256};

/// A (topic, key): the first half of the SHA-256 of both, with a zero byte between, which neither can hold. The database makes
/// the same of a row (`sql/fragments/key_id.sql`), so that a key need not be read to know that it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId([u8; Self::SIZE]);

impl KeyId {
    const SIZE: usize = 16;

    /// Of this topic and key.
    #[must_use]
    pub fn of(topic: &str, key: &str) -> Self {
        let hash = Sha256::new()
            .chain_update(topic)
            .chain_update([0])
            .chain_update(key)
            .finalize();
        let (half, _) = hash.split_first_chunk().expect("SHA-256 has 32 bytes");
        Self(*half)
    }

    /// As the database sends it; `None`: that is no such value.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// As the database takes it: 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_and_key_are_told_apart() {
        assert_eq!(KeyId::of("orders", "7"), KeyId::of("orders", "7"));
        assert_ne!(KeyId::of("orders", "7"), KeyId::of("orders7", ""));
        assert_ne!(KeyId::of("", "orders7"), KeyId::of("orders7", ""));
    }
}
