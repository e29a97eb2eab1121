//! PostgreSQL's notifications, as hints to read the feed.
//!
//! They only make changes visible sooner. Connections break and poolers drop notifications, so readers also read at intervals,
//! and a warning says when notifications do not arrive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};
use uuid::Uuid;

/// The channel on which the triggers notify.
const CHANNEL: &str = "oauth_consumers";

/// How often a listener sends itself a notification (a probe), to notice a dead connection.
const PROBE_PERIOD: Duration = Duration::from_secs(10);

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a lost connection is made again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Failed attempts to listen in a row before a warning. Through a pooler, some attempts work by chance.
const MAX_FAILURES: u32 = 3;

/// Listens on a connection of its own until it is dropped.
#[derive(Default)]
pub(super) struct Notifications {
    news: Notify,
    lost: AtomicBool,
}

// === impl Notifications ===

impl Notifications {
    pub(super) fn of(pool: PgPool) -> Arc<Self> {
        let this = Arc::new(Self::default());
        tokio::spawn(listen(pool, Arc::downgrade(&this)));
        this
    }

    /// Waits for a notification, unless one has come since the last wait.
    pub(super) async fn next(&self) {
        self.news.notified().await;
    }

    pub(super) fn complaint(&self) -> Option<&'static str> {
        self.lost.load(Ordering::Relaxed).then_some(
            "a pooler in transaction mode cannot LISTEN; connect to PostgreSQL directly, or through a pooler in session mode",
        )
    }

    fn set_lost(&self, lost: bool) {
        if self.lost.swap(lost, Ordering::Relaxed) != lost {
            if let Some(complaint) = self.complaint() {
                // Cause: a pooler in transaction mode, or PostgreSQL does not answer.
                // Next step: connect directly, or through [a pooler in session mode](../how-to/postgres.md#poolers-and-connections).
                warn!(complaint, "the store's notifications do not arrive, so changes are seen a little later");
            } else {
                info!("the store's notifications arrive again");
            }
        }
    }
}

async fn listen(pool: PgPool, of: Weak<Notifications>) {
    let mut failures = 0;
    while of.strong_count() > 0 && !pool.is_closed() {
        match listen_once(&pool, &of).await {
            Ok(()) => failures = 0,
            Err(cause) => {
                debug!(%cause, "listening for notifications failed; beginning again");
                failures += 1;
            }
        }
        if failures >= MAX_FAILURES
            && let Some(this) = of.upgrade()
        {
            this.set_lost(true);
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// Listens until the connection is lost, or a probe does not arrive.
async fn listen_once(pool: &PgPool, of: &Weak<Notifications>) -> Result<(), sqlx::Error> {
    // Not one of the pool's connections: a listener that is dropped on a silent connection would keep its place in the pool.
    let own = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PROBE_TIMEOUT)
        .connect_lazy_with((*pool.connect_options()).clone());
    let mut listener = PgListener::connect_with(&own).await?;
    listener.eager_reconnect(false);
    timeout(PROBE_TIMEOUT, listener.listen(CHANNEL)).await.map_err(|elapsed| sqlx::Error::Io(elapsed.into()))??;
    // There may have been changes before the listener started.
    let Some(this) = of.upgrade() else { return Ok(()) };
    this.news.notify_one();
    drop(this);
    loop {
        let (probe, sent) = (Uuid::new_v4().to_string(), Instant::now());
        let query = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(&probe);
        let mut connection = pool.acquire().await?;
        if let Ok(notified) = timeout(PROBE_TIMEOUT, query.execute(&mut *connection)).await {
            notified?;
            drop(connection);
        } else {
            // In the pool, a connection that hangs would keep its place.
            connection.close_on_drop();
            return Ok(());
        }
        let mut heard = false;
        loop {
            let until = sent + if heard { PROBE_PERIOD } else { PROBE_TIMEOUT };
            let received = tokio::select! {
                received = timeout_at(until, listener.try_recv()) => received,
                () = pool.close_event() => return Ok(()),
            };
            let Some(this) = of.upgrade() else { return Ok(()) };
            match received {
                Ok(notification) => match notification? {
                    Some(notification) if notification.payload() == probe => {
                        heard = true;
                        this.set_lost(false);
                    }
                    Some(_) => this.news.notify_one(),
                    None => return Ok(()),
                },
                Err(_) if heard => break,
                Err(_) => {
                    this.set_lost(true);
                    return Ok(());
                }
            }
        }
    }
}
