//! PostgreSQL: the store for several replicas, and for use by other programs.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres};
use tokio::time::timeout;

use super::notifications::Notifications;
use super::sql::{self, INSERT_LOCKING, News, SqlStore};
use super::{Access, OpenError};

/// Connections of one pool. Reconciles and sign-in checks have a pool each, so that neither blocks the other.
const CONNECTIONS: u32 = 8;

pub(super) async fn open(url: &str, access: Access) -> Result<SqlStore<Postgres>, OpenError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| OpenError::BadUrl)?.application_name("oauthconsumer-operator");
    // A sign-in check reports an outage sooner than a reconcile, which has time.
    let seconds = |signin, controller| Duration::from_secs(if access == Access::SignIn { signin } else { controller });
    let (connect_timeout, query_timeout) = (seconds(1, 4), seconds(2, 5));
    // One connection first, because a pool does not report why it cannot connect.
    match timeout(connect_timeout, PgConnection::connect_with(&options)).await {
        Ok(connected) => connected?.close().await?,
        Err(elapsed) => return Err(sqlx::Error::Io(elapsed.into()).into()),
    }
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(connect_timeout).connect_with(options).await?;
    if access == Access::Controller {
        sql::migrate(sqlx::migrate!("src/store/migrations/postgres"), &pool).await?;
    }
    let news = match access {
        Access::SignIn => News::Told(Notifications::of(pool.clone())),
        Access::Controller => News::Ask(Duration::from_secs(1)),
    };
    let insert = INSERT_LOCKING.as_str();
    Ok(SqlStore { read: pool.clone(), write: pool, query_timeout, insert, file: None, news, _lock: None })
}
