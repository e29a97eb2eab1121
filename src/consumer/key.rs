//! The consumer key: given once, never changed.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The key by which a consumer names itself when it signs in (`oauth_consumer_key`, `client_id`).
///
/// The key is derived from its object, so it stays the same even when status and record are lost: a version 5 UUID
/// ([RFC 9562 §5.5](https://www.rfc-editor.org/rfc/rfc9562#section-5.5)) over `<cluster id>/<object UID>`. Adopted keys keep
/// their form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConsumerKey(String);

/// A text that cannot be a consumer key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a consumer key has 8 to 128 characters out of A-Z a-z 0-9 . _ ~ -")]
pub struct InvalidKey;

// === impl ConsumerKey ===

impl ConsumerKey {
    /// The key of the object with this UID in this cluster.
    pub fn derive(cluster_id: &str, uid: &str) -> Self {
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"oauthconsumers.dev");
        Self(Uuid::new_v5(&namespace, format!("{cluster_id}/{uid}").as_bytes()).to_string())
    }

    /// A key from outside: a request, a column, or `spec.consumerKey`.
    ///
    /// # Errors
    /// [`InvalidKey`] unless it has 8 to 128 characters of the unreserved set of RFC 3986 §2.3.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
        if (8..=128).contains(&text.len()) && text.bytes().all(unreserved) { Ok(Self(text.to_owned())) } else { Err(InvalidKey) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_object_always_has_the_same_key() {
        let key = ConsumerKey::derive("cluster", "uid");
        assert_eq!(key, ConsumerKey::derive("cluster", "uid"));
        // A fixed value: a release that derives another key would break every consumer.
        assert_eq!(key.as_str(), "b5675db2-56ba-58a6-9edc-85c9ea8fdfc6");
    }

    #[test]
    fn other_objects_and_other_clusters_have_other_keys() {
        let key = ConsumerKey::derive("cluster", "uid");
        assert_ne!(key, ConsumerKey::derive("cluster", "uid2"));
        assert_ne!(key, ConsumerKey::derive("cluster2", "uid"));
    }

    #[test]
    fn keys_from_outside_are_checked() {
        for good in ["12345678", "a.b_c~d-E9", &"k".repeat(128)] {
            assert_eq!(ConsumerKey::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "1234567", "has space", "käse-key", "semi;colon", "nul\0nul\0", &"k".repeat(129)] {
            assert_eq!(ConsumerKey::parse(bad), Err(InvalidKey));
        }
    }
}
