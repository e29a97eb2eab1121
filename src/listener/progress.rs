//! How far a connection is with its request, and when the next step is due.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// How long a client may take for a head, counted from the connection or from the first byte of the head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle, and how long a client may take to read its answer. Gateways keep idle connections for less,
/// so they close first, and no request meets a closed connection.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How far a connection is. The connection writes it; the port reads it when it needs the connection's slot.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<State>>);

struct State {
    stage: Stage,
    since: Instant,
    received: Received,
    /// The length of the current request, if known.
    length: Option<u64>,
    /// Whether more than one request came at once, or a body without a length. Then the start of the next head is unknown. So the
    /// connection never counts as idle again, and has the time of a head between requests.
    pipelines: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing of the next request has come.
    Idle,
    /// A head is due.
    Head,
    /// The head is complete and the answer is not.
    Request,
}

/// What was received since the last request.
#[derive(Default)]
struct Received {
    bytes: u64,
    /// The length of the head, once it is complete.
    head: Option<u64>,
    /// Whether the head has begun. Empty lines before that do not end it.
    has_begun: bool,
    is_line_empty: bool,
}

// === impl Progress ===

impl Progress {
    /// A connection that was just accepted: its first head is due.
    pub(super) fn new() -> Self {
        let (since, received) = (Instant::now(), Received::default());
        Self(Arc::new(Mutex::new(State { stage: Stage::Head, since, received, length: None, pipelines: false })))
    }

    /// A TLS handshake has ended: the time for the first head starts again.
    pub(super) fn restart(&self) {
        self.0.lock().since = Instant::now();
    }

    pub(super) fn receive(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        state.received.count(bytes);
        if state.stage == Stage::Idle && !bytes.is_empty() {
            state.enter(Stage::Head);
        }
    }

    /// The head is complete. `body` is the length of the body, if known.
    pub(super) fn begin(&self, body: Option<u64>) {
        let mut state = self.0.lock();
        state.length = state.received.head.zip(body).map(|(head, body)| head.saturating_add(body));
        state.enter(Stage::Request);
    }

    /// The answer is ready.
    pub(super) fn finish(&self) {
        let mut state = self.0.lock();
        state.pipelines |= state.length != Some(state.received.bytes);
        state.received = Received::default();
        let next = if state.pipelines { Stage::Head } else { Stage::Idle };
        state.enter(next);
    }

    /// Since when the connection waits for its client. None while a complete request is being answered. A request without a
    /// length never counts as complete.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let state = self.0.lock();
        let is_complete = state.length.is_some_and(|length| state.received.bytes >= length);
        (state.stage != Stage::Request || !is_complete).then_some(state.since)
    }

    fn deadline(&self) -> Instant {
        let state = self.0.lock();
        state.since + if state.stage == Stage::Head { HEAD_TIMEOUT } else { IDLE_TIMEOUT }
    }

    /// Returns when the deadline has passed. Poll it after the connection, in the same task: then it sees an earlier deadline at
    /// once, and a later deadline costs nothing.
    pub(super) async fn overdue(&self) {
        let mut timer = std::pin::pin!(sleep_until(self.deadline()));
        std::future::poll_fn(|context| {
            loop {
                let deadline = self.deadline();
                if deadline < timer.deadline() {
                    timer.as_mut().reset(deadline);
                }
                ready!(timer.as_mut().poll(context));
                if self.deadline() <= Instant::now() {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(self.deadline());
            }
        })
        .await;
    }
}

// === impl State ===

impl State {
    fn enter(&mut self, stage: Stage) {
        (self.stage, self.since) = (stage, Instant::now());
    }
}

// === impl Received ===

impl Received {
    fn count(&mut self, bytes: &[u8]) {
        for (before, byte) in (self.bytes..).zip(bytes) {
            match byte {
                _ if self.head.is_some() => break,
                b'\n' if self.is_line_empty && self.has_begun => self.head = Some(before + 1),
                b'\n' => self.is_line_empty = true,
                b'\r' => {}
                _ => (self.has_begun, self.is_line_empty) = (true, false),
            }
        }
        self.bytes += bytes.len() as u64;
    }
}
