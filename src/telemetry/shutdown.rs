//! One watcher for the signals that end a process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Returns a token that is cancelled at the first SIGTERM or SIGINT. A second one ends the process at once.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for attempt in 1.. {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if attempt == 1 {
                info!("shutting down: finishing what has begun");
                cancelled.cancel();
            } else {
                // Next step: none.
                warn!("second signal: the process ends at once, with code 130");
                std::process::exit(130);
            }
        }
    });
    Ok(token)
}
