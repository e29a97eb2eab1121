//! PostgreSQL: the store for more than one replica, and for the server to share.

use std::str::FromStr;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::sql::SqlStore;
use super::{Access, OpenError};

/// Connections of one process. Reconciles and sign-in checks have a pool each, so that neither starves the other.
const CONNECTIONS: u32 = 8;

pub(super) async fn open(url: &str, access: Access) -> Result<SqlStore<Postgres>, OpenError> {
    let options = PgConnectOptions::from_str(url)?.application_name("oauthconsumer-operator");
    let pool =
        PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(Duration::from_secs(4)).connect_with(options).await?;
    if access == Access::Controller {
        super::migrate(sqlx::migrate!("src/store/migrations/postgres"), &pool).await?;
    }
    Ok(SqlStore { read: pool.clone(), write: pool, _lock: None })
}
