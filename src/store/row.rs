//! A record as a row, and the checksum that tells whether somebody edited it.

use std::fmt::Write;

use sha2::{Digest, Sha256};
use sqlx::{ColumnIndex, Decode, FromRow, Type};
use tracing::error;

use super::{Change, Head};
use crate::consumer::{
    ConsumerKey, Decision, Owner, Phc, Record, Revocation, SecretOutcome, SecretProblem, SecretSource, State, Stored,
};

/// The columns of `oauth_consumers` that a record is read from. Times are RFC 3339 in UTC.
#[derive(Default, sqlx::FromRow)]
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
    unproved_generation: Option<i64>,
    hold: Option<String>,
    phc: Option<String>,
    secret_problem: Option<String>,
    secret_floor: i64,
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
    revoked_disapproved: Option<bool>,
    version: i64,
    checksum: String,
}

/// A row of the feed's head joined with records: there is at least one, which may have no record.
pub(super) struct Joined {
    pub(super) head: Head,
    pub(super) change: Option<Change>,
}

/// The format of [`checksum`]. A row in a format that this release does not know counts as edited, so it lets no consumer in.
const FORMAT: u32 = 1;

/// `<format>:<SHA-256 of the record in hexadecimal>`. It finds rows that were edited by hand or half restored. It is no
/// signature: whoever can write to the store can compute it, too.
pub(super) fn checksum(record: &Record) -> String {
    // A record is made of texts and numbers, which always serialize.
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    Sha256::digest(bytes).iter().fold(format!("{FORMAT}:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A row, whatever is in it. What cannot be read was edited by hand: it makes a record that fits no checksum, admits nobody, and
/// is put right like any other edit.
pub(super) struct AnyRow(Row);

// === impl AnyRow ===

impl<'r, R: sqlx::Row> FromRow<'r, R> for AnyRow
where
    Row: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Row::from_row(row).map(Self).or_else(|cause| {
            error!(%cause, "a row of the store cannot be read; it admits nobody");
            let (consumer_key, cluster_id, uid) = (row.try_get("consumer_key")?, row.try_get("cluster_id")?, row.try_get("uid")?);
            Ok(Self(Row { consumer_key, cluster_id, uid, version: row.try_get("version")?, ..Row::default() }))
        })
    }
}

impl From<AnyRow> for Stored {
    fn from(row: AnyRow) -> Self {
        row.0.into()
    }
}

// === impl Joined ===

impl<'r, R: sqlx::Row> FromRow<'r, R> for Joined
where
    Head: FromRow<'r, R>,
    AnyRow: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let change = |change| {
            let stored = AnyRow::from_row(row).ok()?.into();
            Some(Change { change, stored, vouched: row.try_get("vouched").ok()? })
        };
        Ok(Self { head: Head::from_row(row)?, change: row.try_get::<Option<i64>, _>("change")?.and_then(change) })
    }
}

// === impl Row ===

impl From<Row> for Stored {
    /// Any row makes a record: what cannot be understood was edited by hand, and is put right like any other edit.
    fn from(row: Row) -> Self {
        let time = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let owner = Owner { cluster_id: row.cluster_id, uid: row.uid };
        let key = ConsumerKey::parse(&row.consumer_key);
        let readable = key.is_ok();
        let record = Record {
            consumer_key: key.unwrap_or_else(|_| ConsumerKey::derive(&owner.cluster_id, &owner.uid)),
            owner,
            installation: row.installation,
            namespace: row.namespace,
            object: row.object,
            name: row.name,
            generation: row.generation,
            state: row.state.parse().unwrap_or(State::Disapproved),
            decision: match (row.decision_approved, time(row.decision_at), row.decision_generation) {
                (Some(approved), Some(at), Some(generation)) => Some(Decision { approved, by: row.decision_by, at, generation }),
                _ => None,
            },
            unproved_approval: row.unproved_generation,
            hold: row.hold,
            // Anything in these columns is a revocation: an edit must not lift one.
            revocation: match (row.revoked_at, row.revoked_reason, row.revoked_disapproved) {
                (None, None, None) => None,
                (at, reason, disapproved) => Some(Revocation {
                    at: time(at).unwrap_or_default(),
                    reason: reason.unwrap_or_default(),
                    disapproved: disapproved.unwrap_or_default(),
                }),
            },
            secret_source: match (row.secret_name, row.secret_key, row.secret_uid, row.secret_resource_version) {
                (Some(name), Some(key), Some(uid), Some(resource_version)) => {
                    Some(SecretSource { name, key, uid, resource_version })
                }
                _ => None,
            },
            secret: match (row.phc, row.secret_problem) {
                (Some(phc), _) => SecretOutcome::Accepted(Phc::stored(phc)),
                (None, problem) => {
                    let problem = problem.and_then(|problem| problem.parse().ok());
                    SecretOutcome::Refused(problem.unwrap_or(SecretProblem::NotFound))
                }
            },
            secret_floor: row.secret_floor,
        };
        let intact = readable && row.checksum == checksum(&record);
        Self { record, version: row.version, intact }
    }
}
