//! Writes of a record that no object asks for. Each closes the record, or stores another hash of the same secret; `decide` does the
//! rest.

use jiff::Timestamp;

use super::{Phc, Record, Revocation, SecretOutcome, State, Stored};

// === impl Stored ===

impl Stored {
    /// Closed until a controller compares it with its object. The decision and the secret of an edited row are not carried on under a
    /// new checksum. A revocation begins anew: a disapproval has to be seen again.
    pub fn out_of_scope(self) -> Record {
        let revocation = self.record.revocation.map(|revocation| Revocation { disapproved: false, ..revocation });
        let record = Record { state: State::OutOfScope, revocation, ..self.record };
        if self.intact { record } else { Record { decision: None, ..record }.without_secret() }
    }

    /// Revoked in the store. Whatever it said before is no decision after this.
    pub fn revoked(self, reason: &str, at: Timestamp) -> Record {
        let revocation = Revocation { at, reason: reason.to_owned(), disapproved: false };
        Record { state: State::Revoked, revocation: Some(revocation), ..self.out_of_scope() }
    }

    /// The same secret with a hash of another cost.
    pub fn rehashed(self, phc: Phc) -> Record {
        Record { secret: SecretOutcome::Accepted(phc), ..self.record }
    }

    /// Without the version of its Secret, which proves nothing after a restore of the cluster. None if there is no such version, or if
    /// the row was edited.
    pub fn without_secret_version(mut self) -> Option<Record> {
        let source = self.record.secret_source.as_mut().filter(|source| self.intact && !source.resource_version.is_empty())?;
        source.resource_version.clear();
        Some(self.record)
    }
}
