//! `/livez`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::store::ConsumerStore;

/// What has to be true before this process is of use, and what is missing.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Check>>>);

type Check = Box<dyn Fn() -> Result<(), String> + Send>;

/// What the admin port serves.
#[derive(Clone)]
pub struct AdminState {
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` waits for.
    pub readiness: Readiness,
    /// Asked by `/readyz` each time, once it is open.
    pub store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
}

/// Serves the admin port until the token is cancelled.
///
/// # Errors
/// When serving fails.
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: CancellationToken) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state);
    axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], state.metrics.render())
}

async fn readyz(State(state): State<AdminState>) -> impl IntoResponse {
    let mut checks = state.readiness.checks();
    if let Some(store) = state.store.get() {
        checks.insert("store", store.head().await.map(|_| ()).map_err(|error| error.to_string()));
    }
    let ready = checks.values().all(Result::is_ok);
    let body = checks.iter().fold(String::new(), |mut text, (name, result)| {
        let _ = match result {
            Ok(()) => writeln!(text, "[+] {name} ok"),
            Err(missing) => writeln!(text, "[-] {name}: {missing}"),
        };
        text
    });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

// === impl Readiness ===

impl Readiness {
    /// Says what is missing; the check counts from now on.
    pub fn missing(&self, check: &'static str, what: impl Into<String>) {
        self.set(check, Err(what.into()));
    }

    /// Says that nothing is missing any more.
    pub fn met(&self, check: &'static str) {
        self.set(check, Ok(()));
    }

    fn set(&self, check: &'static str, result: Result<(), String>) {
        self.ask(check, move || result.clone());
    }

    /// Asks each time.
    pub fn ask(&self, check: &'static str, answer: impl Fn() -> Result<(), String> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(check, Box::new(answer));
    }

    fn checks(&self) -> BTreeMap<&'static str, Result<(), String>> {
        let checks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checks.iter().map(|(check, answer)| (*check, answer())).collect()
    }
}
