//! A record as a row, and the checksum that tells whether somebody edited it.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::StoreError;
use crate::consumer::{ConsumerKey, Decision, Owner, Phc, Record, Revocation, SecretOutcome, SecretSource, Stored};

/// The columns of `oauth_consumers` that a record is read from. Times are RFC 3339 in UTC.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    consumer_key: String,
    cluster_id: String,
    uid: String,
    installation: String,
    namespace: String,
    object: String,
    name: String,
    generation: i64,
    state: String,
    hold: Option<String>,
    phc: Option<String>,
    secret_problem: Option<String>,
    secret_name: Option<String>,
    secret_key: Option<String>,
    secret_uid: Option<String>,
    secret_resource_version: Option<String>,
    decision_approved: Option<bool>,
    decision_by: Option<String>,
    decision_at: Option<String>,
    decision_generation: Option<i64>,
    revoked_at: Option<String>,
    revoked_reason: Option<String>,
    revoked_generation: Option<i64>,
    version: i64,
    checksum: String,
}

/// SHA-256 over the record, in hexadecimal. It finds rows that were edited by hand or half restored. It is no signature:
/// whoever can write to the store can compute it, too.
///
/// Absent fields do not count, so that a column added later leaves the checksums of older rows alone.
pub(super) fn checksum(record: &Record) -> Result<String, StoreError> {
    let bytes = serde_json::to_vec(record).map_err(|e| StoreError::Unreadable(e.to_string()))?;
    Ok(Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

// === impl Row ===

impl TryFrom<Row> for Stored {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let bad = |column: &str, why: &dyn std::fmt::Display| {
            StoreError::Unreadable(format!("{column} of {}: {why}", row.consumer_key))
        };
        let time = |column, text: &str| text.parse().map_err(|e| bad(column, &e));

        let decision = match (row.decision_approved, &row.decision_at, row.decision_generation) {
            (Some(approved), Some(at), Some(generation)) => {
                Some(Decision { approved, by: row.decision_by.clone(), at: time("decision_at", at)?, generation })
            }
            _ => None,
        };
        let revocation = match (&row.revoked_at, &row.revoked_reason, row.revoked_generation) {
            (Some(at), Some(reason), Some(generation)) => {
                Some(Revocation { at: time("revoked_at", at)?, reason: reason.clone(), generation })
            }
            _ => None,
        };
        let secret_source = match (&row.secret_name, &row.secret_key, &row.secret_uid, &row.secret_resource_version) {
            (Some(name), Some(key), Some(uid), Some(resource_version)) => Some(SecretSource {
                name: name.clone(),
                key: key.clone(),
                uid: uid.clone(),
                resource_version: resource_version.clone(),
            }),
            _ => None,
        };
        let secret = match (&row.phc, &row.secret_problem) {
            (Some(phc), _) => SecretOutcome::Accepted(Phc::stored(phc.clone())),
            (None, problem) => {
                let problem = problem.as_deref().unwrap_or_default();
                SecretOutcome::Refused(problem.parse().map_err(|e| bad("secret_problem", &e))?)
            }
        };
        let record = Record {
            consumer_key: ConsumerKey::parse(&row.consumer_key).map_err(|e| bad("consumer_key", &e))?,
            state: row.state.parse().map_err(|e| bad("state", &e))?,
            owner: Owner { cluster_id: row.cluster_id, uid: row.uid },
            installation: row.installation,
            namespace: row.namespace,
            object: row.object,
            name: row.name,
            generation: row.generation,
            decision,
            hold: row.hold,
            revocation,
            secret_source,
            secret,
        };
        let intact = checksum(&record)? == row.checksum;
        Ok(Self { record, version: row.version, intact })
    }
}
