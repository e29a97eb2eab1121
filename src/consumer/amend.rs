//! Changes of a record that `decide` does not make. None of them lets a consumer in.

use jiff::Timestamp;

use super::{Phc, Record, Revocation, SecretOutcome, State, Stored};

// === impl Stored ===

impl Stored {
    /// Closed until a controller compares it with its object. An edited row loses decision and secret: a new checksum must not
    /// make them valid. A revocation needs a new disapproval.
    pub fn out_of_scope(self) -> Record {
        let revocation = self.record.revocation.map(|revocation| Revocation { disapproved: false, ..revocation });
        let record = Record { state: State::OutOfScope, revocation, ..self.record };
        if self.intact { record } else { Record { decision: None, ..record }.without_secret() }
    }

    /// Revoked in the store. A disapproval before this does not help to end the revocation.
    pub fn revoked(self, reason: &str, at: Timestamp) -> Record {
        let revocation = Revocation { at, reason: reason.to_owned(), disapproved: false };
        Record { state: State::Revoked, revocation: Some(revocation), ..self.out_of_scope() }
    }

    /// The same secret with a hash of another cost.
    pub fn rehashed(self, phc: Phc) -> Record {
        Record { secret: SecretOutcome::Accepted(phc), ..self.record }
    }

    /// Without the version of its Secret: after a restore of the cluster, an equal version may have another value. None if there
    /// is no such version, or if the row was edited.
    pub fn without_secret_version(mut self) -> Option<Record> {
        let source = self.record.secret_source.as_mut().filter(|source| self.intact && !source.resource_version.is_empty())?;
        source.resource_version.clear();
        Some(self.record)
    }
}
