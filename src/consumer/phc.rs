//! argon2id hashes as PHC strings.

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};

use super::SecretValue;

/// A hash in the [PHC string format](https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md):
/// `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`. Kept out of logs: it is no secret, but food for guessing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Phc(String);

/// What a hash costs. Memory in KiB, passes, lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// A hash that could not be computed.
#[derive(Debug, thiserror::Error)]
#[error("failed to compute argon2id: {0}")]
pub struct PhcError(String);

/// The most that verifying a stored PHC string may cost: whoever can write to the store must not be able to make a
/// sign-in allocate gigabytes.
const CEILING: HashCost = HashCost { memory: 64 * 1024, passes: 10, lanes: 4 };

// === impl HashCost ===

impl HashCost {
    /// 19 MiB, 2 passes, 1 lane: the floor of the
    /// [OWASP cheat sheet](https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html), about 28 ms.
    pub const STANDARD: Self = Self { memory: 19 * 1024, passes: 2, lanes: 1 };

    fn argon2(self) -> Result<Argon2<'static>, PhcError> {
        let params = Params::new(self.memory, self.passes, self.lanes, None).map_err(|e| PhcError(e.to_string()))?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

// === impl Phc ===

impl Phc {
    /// Hashes a secret with a fresh random salt.
    ///
    /// # Errors
    /// When the cost is out of argon2's bounds, or the system has no randomness.
    pub fn hash(secret: &SecretValue, cost: HashCost) -> Result<Self, PhcError> {
        let hash = cost.argon2()?.hash_password(secret.expose()).map_err(|e| PhcError(e.to_string()))?;
        Ok(Self(hash.to_string()))
    }

    /// A PHC string as it was stored. Nothing is checked before it is used.
    #[must_use]
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The string, for the store.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the hash of these bytes. A string that is no argon2id hash, or one that would cost more than
    /// 64 MiB, 10 passes or 4 lanes, is the hash of nothing.
    #[must_use]
    pub fn verify(&self, candidate: &[u8]) -> bool {
        let Ok(hash) = PasswordHash::new(&self.0) else { return false };
        let Ok(params) = Params::try_from(&hash) else { return false };
        let affordable =
            params.m_cost() <= CEILING.memory && params.t_cost() <= CEILING.passes && params.p_cost() <= CEILING.lanes;
        let argon2id = Algorithm::new(hash.algorithm.as_str()).is_ok_and(|a| a == Algorithm::Argon2id);
        affordable && argon2id && Argon2::default().verify_password(candidate, &hash).is_ok()
    }
}

impl fmt::Debug for Phc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phc(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::SecretLimits;

    const CHEAP: HashCost = HashCost { memory: 32, passes: 1, lanes: 1 };

    fn secret() -> SecretValue {
        SecretValue::accept(b"correct horse battery", SecretLimits::default()).unwrap()
    }

    #[test]
    fn a_hash_fits_its_secret_and_no_other() {
        let phc = Phc::hash(&secret(), CHEAP).unwrap();
        assert!(phc.verify(b"correct horse battery"));
        assert!(!phc.verify(b"correct horse battery "));
        assert!(!phc.verify(b""));
    }

    #[test]
    fn salts_are_fresh_and_the_standard_cost_is_what_the_docs_say() {
        let (a, b) = (Phc::hash(&secret(), HashCost::STANDARD).unwrap(), Phc::hash(&secret(), HashCost::STANDARD).unwrap());
        assert!(a.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", a.as_str());
        assert_ne!(a, b);
    }

    #[test]
    fn hostile_strings_match_nothing_and_cost_nothing() {
        let good = Phc::hash(&secret(), CHEAP).unwrap().as_str().to_owned();
        for hostile in [
            String::new(),
            "plain".to_owned(),
            good.replace("m=32", "m=4194304"),
            good.replace("t=1", "t=4000000"),
            good.replace("argon2id", "argon2i"),
            good.replace("argon2id", "scrypt"),
            good[..good.len() / 2].to_owned(),
        ] {
            assert!(!Phc::stored(hostile.clone()).verify(b"correct horse battery"), "{hostile}");
        }
    }

    #[test]
    fn a_hash_is_not_printed() {
        assert_eq!(format!("{:?}", Phc::stored("$argon2id$...".into())), "Phc(..)");
    }
}
