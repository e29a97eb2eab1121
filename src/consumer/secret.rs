//! The consumer secret: which values are accepted, and the messages about all others.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Reason, SecretRef};

/// How long a consumer secret may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct SecretLimits {
    /// The shortest accepted secret. A setting; 16 by default.
    pub min: usize,
    /// The longest accepted secret: 512.
    pub max: usize,
}

/// An accepted consumer secret. It cannot be printed, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct SecretValue(SecretSlice<u8>);

/// Why a consumer has no usable secret. The docs of the variants are a part of docs/reference/messages.md.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumMessage,
    strum::EnumString,
    strum::VariantArray,
)]
pub enum SecretProblem {
    /// The namespace has no Secret with the name in `spec.secretRef.name`.
    NotFound,
    /// The Secret has no data key with the name in `spec.secretRef.key`.
    KeyMissing,
    /// The value has fewer bytes than `--min-secret-bytes`. It can be empty.
    TooShort,
    /// The value has more than 512 bytes.
    TooLong,
    /// The value is binary data, or text in another encoding.
    NotUtf8,
    /// The value ends with a newline, as files and the output of `echo` do.
    TrailingNewline,
    /// The value has a space, a tab or other white space at an end.
    SurroundingWhitespace,
    /// The value contains a newline, a tab, NUL or another control character.
    ControlCharacter,
}

/// A keyed digest of a secret, comparable within one process and useless outside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The random key of this process's [`Fingerprint`]s.
pub struct FingerprintKey(Hmac<Sha256>);

// === impl SecretLimits ===

impl Default for SecretLimits {
    fn default() -> Self {
        Self { min: 16, max: 512 }
    }
}

impl SecretLimits {
    /// The shortest accepted secret, as records keep it.
    pub fn floor(self) -> i64 {
        i64::try_from(self.min).unwrap_or(i64::MAX)
    }
}

// === impl SecretValue ===

impl SecretValue {
    /// Checks the bytes of a Secret's data key: first the length, then the content. Nothing is trimmed. If a newline were removed
    /// silently, two systems could disagree about the same secret.
    pub fn accept(bytes: &[u8], limits: SecretLimits) -> Result<Self, SecretProblem> {
        if bytes.len() < limits.min {
            return Err(SecretProblem::TooShort);
        }
        if bytes.len() > limits.max {
            return Err(SecretProblem::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| SecretProblem::NotUtf8)?;
        if text.ends_with(['\n', '\r']) {
            return Err(SecretProblem::TrailingNewline);
        }
        if text.trim() != text {
            return Err(SecretProblem::SurroundingWhitespace);
        }
        if text.chars().any(char::is_control) {
            return Err(SecretProblem::ControlCharacter);
        }
        Ok(Self(bytes.to_vec().into()))
    }

    /// The secret that a client presented: any bytes.
    pub fn presented(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    pub fn random() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec().into())
    }

    /// The secret itself, for hashing.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

// === impl SecretProblem ===

impl SecretProblem {
    pub fn reason(self) -> Reason {
        match self {
            Self::NotFound => Reason::SecretNotFound,
            Self::KeyMissing => Reason::SecretKeyMissing,
            Self::TooShort => Reason::SecretTooShort,
            Self::TooLong => Reason::SecretTooLong,
            Self::NotUtf8 | Self::TrailingNewline | Self::SurroundingWhitespace | Self::ControlCharacter => Reason::SecretInvalid,
        }
    }

    /// Whether the Secret may still be created. Then it is no mistake yet, and `Stalled` is not set.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::NotFound | Self::KeyMissing)
    }

    /// What is wrong and what to do, for the person who reads the status.
    pub fn message(self, namespace: &str, reference: &SecretRef, limits: SecretLimits) -> String {
        let (SecretRef { name: secret, key }, SecretLimits { min, max }) = (reference, limits);
        match self {
            Self::NotFound => {
                format!("Secret {secret:?} does not exist in this namespace. Create it, or name another in spec.secretRef.name.")
            }
            Self::KeyMissing => {
                format!("Secret {secret:?} has no key {key:?}. Add the key, or name another in spec.secretRef.key.")
            }
            Self::TooShort => {
                format!("The value of {key:?} in Secret {secret:?} is shorter than {min} bytes. Use {min} to {max} bytes.")
            }
            Self::TooLong => {
                format!("The value of {key:?} in Secret {secret:?} is longer than {max} bytes. Use {min} to {max} bytes.")
            }
            Self::NotUtf8 => format!("The value of {key:?} in Secret {secret:?} is not UTF-8 text. Replace it with text."),
            Self::TrailingNewline => format!(
                "The value of {key:?} in Secret {secret:?} ends with a newline, which clients do not send. Write it without: \
                 printf '{{\"data\":{{\"{key}\":\"%s\"}}}}' \"$(printf %s \"$VALUE\" | base64 -w0)\" | \
                 kubectl -n {namespace} patch secret {secret} --type merge --patch-file /dev/stdin"
            ),
            Self::SurroundingWhitespace => {
                format!("The value of {key:?} in Secret {secret:?} begins or ends with white space. Remove it.")
            }
            Self::ControlCharacter => {
                format!("The value of {key:?} in Secret {secret:?} contains a control character. Remove it.")
            }
        }
    }
}

// === impl FingerprintKey ===

impl FingerprintKey {
    /// A key from 64 random bytes: one block of SHA-256.
    pub fn new(random: [u8; 64]) -> Self {
        Self(Hmac::new(&random.into()))
    }

    pub fn of(&self, secret: &SecretValue) -> Fingerprint {
        let mut mac = self.0.clone();
        mac.update(secret.expose());
        Fingerprint(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(bytes: &[u8]) -> Option<SecretProblem> {
        SecretValue::accept(bytes, SecretLimits::default()).err()
    }

    #[test]
    fn secrets_are_judged_by_length_then_content() {
        use SecretProblem::*;
        let long = |n: usize| vec![b'x'; n];
        for (bytes, expected) in [
            (long(16), None),
            (long(512), None),
            ("sixteen bytes ü!".as_bytes().to_vec(), None),
            (b"inner spaces are fine".to_vec(), None),
            (vec![], Some(TooShort)),
            (long(15), Some(TooShort)),
            (b"short\n".to_vec(), Some(TooShort)),
            (long(513), Some(TooLong)),
            (vec![0xff; 1 << 20], Some(TooLong)),
            (vec![0xff; 20], Some(NotUtf8)),
            (b"0123456789abcdef\n".to_vec(), Some(TrailingNewline)),
            (b"0123456789abcdef\r\n".to_vec(), Some(TrailingNewline)),
            (b" 0123456789abcdef".to_vec(), Some(SurroundingWhitespace)),
            (b"0123456789abcdef\t".to_vec(), Some(SurroundingWhitespace)),
            ("0123456789abcdef\u{2003}".as_bytes().to_vec(), Some(SurroundingWhitespace)),
            (b"01234567\089abcdef".to_vec(), Some(ControlCharacter)),
            (b"01234567\n89abcdef".to_vec(), Some(ControlCharacter)),
            ("01234567\u{85}89abcdef".as_bytes().to_vec(), Some(ControlCharacter)),
        ] {
            assert_eq!(judge(&bytes), expected, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn the_newline_message_says_how_to_fix_it() {
        let reference = SecretRef { name: "jazz-oauth".into(), key: "consumerSecret".into() };
        let message = SecretProblem::TrailingNewline.message("team-a", &reference, SecretLimits::default());
        assert!(message.ends_with("kubectl -n team-a patch secret jazz-oauth --type merge --patch-file /dev/stdin"), "{message}");
    }

    #[test]
    fn fingerprints_tell_secrets_apart_within_a_process_only() {
        let secret = |text: &str| SecretValue::accept(text.as_bytes(), SecretLimits::default()).unwrap();
        let (a, b) = (secret("a secret, long enough"), secret("another secret, long enough"));
        let key = FingerprintKey::new([1; 64]);
        assert!(key.of(&a) == key.of(&a.clone()));
        assert!(key.of(&a) != key.of(&b));
        assert!(key.of(&a) != FingerprintKey::new([2; 64]).of(&a));
    }
}
