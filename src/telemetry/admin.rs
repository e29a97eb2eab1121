//! `/livez`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;

use super::{Metrics, PortName};
use crate::listener::{Limits, Port};

/// The checks that make this process ready, and notes about problems that do not.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    checks: BTreeMap<&'static str, Check>,
    notes: Notes,
}

/// The result of each check.
type Checked = BTreeMap<&'static str, Result<(), String>>;

/// Notes, by their subject.
type Notes = BTreeMap<&'static str, String>;

type Check = Box<dyn Fn() -> Result<(), String> + Send>;

#[derive(Clone)]
struct Shown {
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

/// The most connections at once: 2 MiB in all. The kubelet opens one for each probe, and a Prometheus keeps one.
const CONNECTIONS: usize = 64;

/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 8 * 1024;

/// The admin port.
pub fn port(metrics: Arc<Metrics>, readiness: Readiness) -> Port {
    let refused = metrics.connections_refused.counter(PortName::Admin);
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(Shown { metrics, readiness });
    let limits = Limits { connections: CONNECTIONS, head: HEAD_BYTES, gateways: Vec::new() };
    Port { routes, limits, refused, acceptor: None }
}

async fn show_metrics(State(state): State<Shown>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], state.metrics.render())
}

async fn readyz(State(state): State<Shown>) -> impl IntoResponse {
    let (checks, notes) = state.readiness.known();
    let ready = checks.values().all(Result::is_ok);
    let mut body = checks.iter().fold(String::new(), |mut text, (name, result)| {
        let _ = match result {
            Ok(()) => writeln!(text, "[+] {name} ok"),
            Err(missing) => writeln!(text, "[-] {name}: {missing}"),
        };
        text
    });
    for (name, note) in notes {
        let _ = writeln!(body, "[!] {name}: {note}");
    }
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

// === impl Readiness ===

impl Readiness {
    /// Sets a check to failed, with what is missing.
    pub fn missing(&self, check: &'static str, what: impl Into<String>) {
        self.set(check, Err(what.into()));
    }

    /// Sets a check to passed.
    pub fn met(&self, check: &'static str) {
        self.set(check, Ok(()));
    }

    fn set(&self, check: &'static str, result: Result<(), String>) {
        self.ask(check, move || result.clone());
    }

    /// Runs a check for each request.
    pub fn ask(&self, check: &'static str, answer: impl Fn() -> Result<(), String> + Send + 'static) {
        self.0.lock().checks.insert(check, Box::new(answer));
    }

    /// Sets a note about a problem that does not make the process unready. None removes the note.
    pub fn note(&self, about: &'static str, note: Option<String>) {
        let mut known = self.0.lock();
        match note {
            Some(note) => known.notes.insert(about, note),
            None => known.notes.remove(about),
        };
    }

    /// The results of all checks now, and the notes.
    pub fn known(&self) -> (Checked, Notes) {
        let known = self.0.lock();
        (known.checks.iter().map(|(check, answer)| (*check, answer())).collect(), known.notes.clone())
    }
}
