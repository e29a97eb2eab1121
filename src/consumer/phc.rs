//! argon2id hashes as PHC strings.

use std::fmt;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};

use super::SecretValue;

/// A hash in the [PHC string format](https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md):
/// `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`. Never logged: with it, a secret can be guessed offline.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Phc(String);

/// What a hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory: u32,
    pub passes: u32,
    pub lanes: u32,
}

/// Memory for one hash at a time, used again. With 19 MiB allocated for each hash, the allocator would keep several times as
/// much.
#[derive(Default)]
pub struct HashMemory(Vec<Block>);

#[derive(Debug, thiserror::Error)]
#[error("failed to compute argon2id: {0}")]
pub struct PhcError(String);

/// The highest cost of a stored hash that is verified. A row in the store must not make a sign-in allocate gigabytes.
const CEILING: HashCost = HashCost { memory: 64 * 1024, passes: 10, lanes: 4 };

// === impl HashCost ===

impl HashCost {
    /// 19 MiB, 2 passes, 1 lane: the minimum of the
    /// [OWASP cheat sheet](https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html), about 28 ms.
    pub const STANDARD: Self = Self { memory: 19 * 1024, passes: 2, lanes: 1 };

    fn argon2(self) -> Result<Argon2<'static>, PhcError> {
        let length = Some(Params::DEFAULT_OUTPUT_LEN);
        let params = Params::new(self.memory, self.passes, self.lanes, length).map_err(PhcError::new)?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

// === impl HashMemory ===

impl HashMemory {
    fn compute(&mut self, argon2: &Argon2<'_>, secret: &[u8], salt: &Salt) -> Result<Output, PhcError> {
        self.0.resize(argon2.params().block_count(), Block::new());
        self.0.shrink_to_fit();
        let mut buffer = [0; Output::MAX_LENGTH];
        let length = argon2.params().output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        let output = buffer.get_mut(..length).ok_or_else(|| PhcError::new("the output is too long"))?;
        argon2.hash_password_into_with_memory(secret, salt, output, self.0.as_mut_slice()).map_err(PhcError::new)?;
        Output::new(output).map_err(PhcError::new)
    }
}

// === impl PhcError ===

impl PhcError {
    fn new(cause: impl fmt::Display) -> Self {
        Self(cause.to_string())
    }
}

// === impl Phc ===

impl Phc {
    /// Hashes a secret with a fresh random salt.
    ///
    /// # Errors
    /// If the cost is out of argon2's bounds, or the system has no randomness.
    pub fn hash(secret: &SecretValue, cost: HashCost, memory: &mut HashMemory) -> Result<Self, PhcError> {
        let (argon2, salt) = (cost.argon2()?, Salt::generate());
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(argon2.params()).map_err(PhcError::new)?,
            salt: Some(salt),
            hash: Some(memory.compute(&argon2, secret.expose(), &salt)?),
        };
        Ok(Self(hash.to_string()))
    }

    /// A PHC string from the store. It is checked when it is used.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the hash of these bytes. False for a string that is no argon2id hash, or costs more than 64 MiB, 10 passes
    /// or 4 lanes.
    pub fn verify(&self, candidate: &[u8], memory: &mut HashMemory) -> bool {
        let Ok(hash) = PasswordHash::new(&self.0) else { return false };
        let (Some(salt), Some(expected), Ok(params)) = (&hash.salt, &hash.hash, Params::try_from(&hash)) else { return false };
        let (algorithm, version) = (Algorithm::new(hash.algorithm.as_str()), hash.version.map(Version::try_from));
        let (Ok(Algorithm::Argon2id), Some(Ok(version))) = (algorithm, version) else { return false };
        if params.m_cost() > CEILING.memory || params.t_cost() > CEILING.passes || params.p_cost() > CEILING.lanes {
            return false;
        }
        let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
        // Outputs are compared in constant time.
        memory.compute(&argon2, candidate, salt).is_ok_and(|computed| computed == *expected)
    }

    /// Whether this hash is less work than one of this cost, as memory times passes.
    pub fn costs_less_than(&self, cost: HashCost) -> bool {
        let work = |memory: u32, passes: u32| u64::from(memory) * u64::from(passes);
        let Ok(hash) = PasswordHash::new(&self.0) else { return false };
        Params::try_from(&hash).is_ok_and(|params| work(params.m_cost(), params.t_cost()) < work(cost.memory, cost.passes))
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
        let phc = Phc::hash(&secret(), CHEAP, &mut HashMemory::default()).unwrap();
        let memory = &mut HashMemory::default();
        for _ in 0..2 {
            assert!(phc.verify(b"correct horse battery", memory));
            assert!(!phc.verify(b"correct horse battery ", memory));
            assert!(!phc.verify(b"", memory));
        }
    }

    #[test]
    fn hashes_of_the_reference_implementation_verify() {
        // argon2id of "password", salt "somesalt", by the reference implementation (its test vectors).
        let reference = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(Phc::stored(reference.into()).verify(b"password", &mut HashMemory::default()));
        assert!(!Phc::stored(reference.into()).verify(b"Password", &mut HashMemory::default()));
    }

    #[test]
    fn salts_are_fresh_and_the_standard_cost_is_what_the_docs_say() {
        let memory = &mut HashMemory::default();
        let a = Phc::hash(&secret(), HashCost::STANDARD, memory).unwrap();
        let b = Phc::hash(&secret(), HashCost::STANDARD, memory).unwrap();
        assert!(a.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", a.as_str());
        assert_ne!(a, b);
    }

    #[test]
    fn hostile_strings_match_nothing_and_cost_nothing() {
        let good = Phc::hash(&secret(), CHEAP, &mut HashMemory::default()).unwrap().as_str().to_owned();
        for hostile in [
            String::new(),
            "plain".to_owned(),
            good.replace("m=32", "m=4194304"),
            good.replace("t=1", "t=4000000"),
            good.replace("argon2id", "argon2i"),
            good.replace("argon2id", "scrypt"),
            good[..good.len() / 2].to_owned(),
        ] {
            assert!(!Phc::stored(hostile.clone()).verify(b"correct horse battery", &mut HashMemory::default()), "{hostile}");
        }
    }

    #[test]
    fn a_hash_is_not_printed() {
        assert_eq!(format!("{:?}", Phc::stored("$argon2id$...".into())), "Phc(..)");
    }
}
