//! Records as rows: one table of columns to write and read them, and the checksum that shows an edited row.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::query::Query;
use sqlx::{ColumnIndex, Database, Decode, Encode, Type};
use tracing::error;

use super::{Change, Controller, Epoch, Head, OpenRecords};
use crate::consumer::{
    ConsumerKey, Decision, Owner, Phc, Profile, Record, Revocation, SecretOutcome, SecretProblem, SecretSource, State, Stored,
};

/// A statement with what is bound to it.
pub(super) type Statement<DB> = Query<'static, DB, <DB as Database>::Arguments>;

/// Makes `COLUMNS`, `bind` and `read` from the table of columns below.
macro_rules! columns {
    (
        written and read ($record:ident, $damage:ident) {
            $($($column:ident: $type:ty = $value:expr),+ => $field:ident: $read:expr;)+
        }
        written only ($version:ident, $now:ident) { $($own:ident: $own_type:ty = $own_value:expr;)+ }
    ) => {
        /// The columns by name, never `*`: another release may add some while this one runs.
        pub(super) const COLUMNS: &[&str] = &[$($(stringify!($column),)+)+ $(stringify!($own)),+];

        /// Binds the values of [`COLUMNS`].
        pub(super) fn bind<DB: Database>(query: Statement<DB>, $record: &Record, $version: i64, $now: Timestamp) -> Statement<DB>
        where
            $($(for<'q> $type: Encode<'q, DB> + Type<DB>,)+)+
            $(for<'q> $own_type: Encode<'q, DB> + Type<DB>,)+
        {
            query$($(.bind::<$type>($value))+)+$(.bind::<$own_type>($own_value))+
        }

        /// Any row makes a record. What cannot be read is left out, and `damage` says why.
        fn read<R: sqlx::Row>(row: &R, $damage: &mut Option<String>) -> Record
        where
            &'static str: ColumnIndex<R>,
            $($(for<'r> $type: Decode<'r, R::Database> + Type<R::Database>,)+)+
        {
            $($(let $column: $type = row.try_get(stringify!($column)).unwrap_or_else(|cause| {
                $damage.get_or_insert_with(|| cause.to_string());
                <$type>::default()
            });)+)+
            Record { $($field: $read),+ }
        }
    };
}

// For each field of a record: its columns (name, type, what is written), and how the field is read from them. A row that
// cannot be understood makes a record that does not fit its checksum. Times are RFC 3339 in UTC.
columns! {
    written and read (record, damage) {
        consumer_key: String = record.consumer_key.to_string() => consumer_key:
            ConsumerKey::parse(&consumer_key).unwrap_or_else(|cause| {
                damage.get_or_insert_with(|| cause.to_string());
                ConsumerKey::derive(&cluster_id, &uid)
            });
        cluster_id: String = record.owner.cluster_id.clone(),
        uid: String = record.owner.uid.clone() => owner: Owner { cluster_id, uid };
        installation: String = record.installation.clone() => installation: installation;
        namespace: String = record.namespace.clone() => namespace: namespace;
        object: String = record.object.clone() => object: object;
        name: String = record.profile.name.clone() => profile: Profile { name };
        generation: i64 = record.generation => generation: generation;
        state: String = record.state.to_string() => state: state.parse().unwrap_or(State::Disapproved);
        unproved_generation: Option<i64> = record.unproved_approval => unproved_approval: unproved_generation;
        hold: Option<String> = record.hold.clone() => hold: hold;
        phc: Option<String> = record.phc().map(|phc| phc.as_str().to_owned()),
        secret_problem: Option<String> = match &record.secret {
            SecretOutcome::Refused(problem) => Some(problem.to_string()),
            SecretOutcome::Accepted(_) => None,
        } => secret: match (phc, secret_problem) {
            (Some(phc), _) => SecretOutcome::Accepted(Phc::stored(phc)),
            (None, problem) => {
                let problem = problem.and_then(|problem| problem.parse().ok());
                SecretOutcome::Refused(problem.unwrap_or(SecretProblem::NotFound))
            }
        };
        secret_floor: i64 = record.secret_floor => secret_floor: secret_floor;
        secret_name: Option<String> = record.secret_source.as_ref().map(|source| source.name.clone()),
        secret_key: Option<String> = record.secret_source.as_ref().map(|source| source.key.clone()),
        secret_uid: Option<String> = record.secret_source.as_ref().map(|source| source.uid.clone()),
        secret_resource_version: Option<String> = record.secret_source.as_ref().map(|source| source.resource_version.clone())
            => secret_source: match (secret_name, secret_key, secret_uid, secret_resource_version) {
                (Some(name), Some(key), Some(uid), Some(resource_version)) => {
                    Some(SecretSource { name, key, uid, resource_version })
                }
                _ => None,
            };
        decision_approved: Option<bool> = record.decision.as_ref().map(|decision| decision.approved),
        decision_by: Option<String> = record.decision.as_ref().and_then(|decision| decision.by.clone()),
        decision_at: Option<String> = record.decision.as_ref().map(|decision| decision.at.to_string()),
        decision_generation: Option<i64> = record.decision.as_ref().map(|decision| decision.generation) => decision:
            match (decision_approved, time(decision_at), decision_generation) {
                (Some(approved), Some(at), Some(generation)) => Some(Decision { approved, by: decision_by, at, generation }),
                _ => None,
            };
        revoked_at: Option<String> = record.revocation.as_ref().map(|revocation| revocation.at.to_string()),
        revoked_reason: Option<String> = record.revocation.as_ref().map(|revocation| revocation.reason.clone()),
        revoked_disapproved: Option<bool> = record.revocation.as_ref().map(|revocation| revocation.disapproved) => revocation:
            // Anything in these columns is a revocation: an edit must not lift one.
            match (revoked_at, revoked_reason, revoked_disapproved) {
                (None, None, None) => None,
                (at, reason, disapproved) => Some(Revocation {
                    at: time(at).unwrap_or_default(),
                    reason: reason.unwrap_or_default(),
                    disapproved: disapproved.unwrap_or_default(),
                }),
            };
    }
    written only (version, now) {
        reserved: bool = record.reserves_key();
        updated_at: String = now.to_string();
        version: i64 = version;
        checksum: String = checksum(record);
    }
}

fn time(text: Option<String>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// The format of [`checksum`]. A row in a format that this release does not know counts as edited, so it lets no consumer in.
/// A release that changes the format has to write the old one while the release before it may still run.
const FORMAT: u32 = 1;

/// `<format>:<SHA-256 of the record in hexadecimal>`. It finds rows that were edited by hand or half restored. It is no
/// signature: a user who can write to the store can compute it, too.
fn checksum(record: &Record) -> String {
    // A record is made of texts and numbers, which always serialize.
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    Sha256::digest(bytes).iter().fold(format!("{FORMAT}:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A row of either database.
pub(super) trait Readable {
    fn head(&self) -> Result<Head, sqlx::Error>;
    /// None in a row with only the head of the feed.
    fn change(&self) -> Result<Option<Change>, sqlx::Error>;
    fn sequence(&self) -> Result<i64, sqlx::Error>;
    fn stored(&self) -> Result<Stored, sqlx::Error>;
    fn controller(&self) -> Result<(Controller, i64), sqlx::Error>;
    fn open_records(&self) -> Result<OpenRecords, sqlx::Error>;
}

impl<R: sqlx::Row> Readable for R
where
    &'static str: ColumnIndex<R>,
    for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn head(&self) -> Result<Head, sqlx::Error> {
        Ok(Head {
            sequence: self.try_get("feed_sequence")?,
            reload: self.try_get("reload")?,
            last_verification: self.try_get("last_verification")?,
            epoch: Epoch { id: self.try_get("epoch")?, lineage: self.try_get("lineage")?, rank: self.try_get("rank")? },
            verified: self.try_get("feed_verified")?,
        })
    }

    fn change(&self) -> Result<Option<Change>, sqlx::Error> {
        let Some(sequence) = self.try_get("sequence")? else { return Ok(None) };
        Ok(Some(Change { sequence, stored: self.stored()?, verified: self.try_get("verified")? }))
    }

    fn sequence(&self) -> Result<i64, sqlx::Error> {
        self.try_get("sequence")
    }

    fn stored(&self) -> Result<Stored, sqlx::Error> {
        let mut damage = None;
        let record = read(self, &mut damage);
        let fits = self.try_get::<String, _>("checksum").is_ok_and(|stored| stored == checksum(&record));
        let stored = Stored { record, version: self.try_get("version")?, intact: fits && damage.is_none() };
        if let Some(cause) = damage {
            // Cause: another program has written to the store.
            // Next step: none for the row, which the controller restores from its object. Find out who writes to the store.
            error!(%cause, "a row of the store cannot be read and lets no consumer in");
            // It is put right like any other edit, unless it does not say whose it is.
            for column in ["consumer_key", "cluster_id", "uid"] {
                self.try_get::<String, _>(column)?;
            }
        }
        Ok(stored)
    }

    fn controller(&self) -> Result<(Controller, i64), sqlx::Error> {
        let namespaces: String = self.try_get("namespaces")?;
        let controller = Controller {
            instance: self.try_get("instance")?,
            cluster_id: self.try_get("cluster_id")?,
            installation: self.try_get("installation")?,
            namespaces: namespaces.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            period: Duration::from_millis(u64::try_from(self.try_get::<i64, _>("period_ms")?).unwrap_or_default()),
        };
        Ok((controller, self.try_get("beat")?))
    }

    fn open_records(&self) -> Result<OpenRecords, sqlx::Error> {
        Ok(OpenRecords {
            cluster_id: self.try_get("cluster_id")?,
            namespace: self.try_get("namespace")?,
            installation: self.try_get("installation")?,
            count: self.try_get("count")?,
        })
    }
}
