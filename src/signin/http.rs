//! The sign-in check over HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use futures::StreamExt;
use tokio::time::timeout;

use super::{CheckResult, Consumer, Credentials, Verifier};
use crate::listener::RemoteAddr;
use crate::telemetry::{CheckOutcome, Metrics};

const CONSUMER_KEY: HeaderName = HeaderName::from_static("x-oauth-consumer-key");
const CONSUMER_NAME: HeaderName = HeaderName::from_static("x-oauth-consumer-name");
const CONSUMER_NAMESPACE: HeaderName = HeaderName::from_static("x-oauth-consumer-namespace");

/// Seconds after which to ask again when the store does not answer.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"OAuth consumers\", charset=\"UTF-8\"");

/// The largest form that is read, in bytes. A key has at most 128 bytes and a secret 512. Encoding makes up to three of each.
const FORM_BYTES: usize = 8 * 1024;

/// How long a client may take to send its form.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// `/signin` and everything below it, by any method: gateways forward the method and path of the original request. Requests
/// carry their [`RemoteAddr`] as an extension.
pub fn routes(verifier: Arc<Verifier>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/signin", any(check))
        .route("/signin/", any(check))
        .route("/signin/{*path}", any(check))
        .with_state((verifier, metrics))
}

async fn check(
    State((verifier, metrics)): State<(Arc<Verifier>, Arc<Metrics>)>,
    Extension(RemoteAddr(peer)): Extension<RemoteAddr>,
    request: Request,
) -> Response {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let sends_form = sends_form(&parts.method, parts.uri.path(), &parts.headers);
    let is_left_unread = !sends_form && !body.is_end_stream();
    let credentials = if sends_form {
        match timeout(FORM_TIMEOUT, form(body)).await {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(status)) => return closing(no_store(status.into_response())),
            Err(_) => return closing(no_store(StatusCode::REQUEST_TIMEOUT.into_response())),
        }
    } else {
        Credentials::from_headers(&parts.headers)
    };
    let result = match credentials {
        Some(credentials) => verifier.check(credentials, verifier.caller(peer, &parts.headers)).await,
        None => CheckResult::Refused,
    };
    metrics.signin_duration.observe(begun.elapsed().as_secs_f64());
    let (outcome, response) = match result {
        CheckResult::Allowed(consumer) => (CheckOutcome::Allowed, allowed(consumer)),
        CheckResult::Refused => (CheckOutcome::Refused, refused()),
        CheckResult::Limited(pause) => (CheckOutcome::Limited, limited(pause)),
        CheckResult::Unavailable => (CheckOutcome::Unavailable, unavailable()),
    };
    metrics.signin_checks.inc(outcome);
    if is_left_unread { closing(response) } else { response }
}

/// Whether the credentials are in the body: only in a form that is posted to `/signin` itself, because gateways forward all other
/// requests. Not beside an `Authorization` header, because a request has one kind of credentials.
fn sends_form(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let is_form = |value: &HeaderValue| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    };
    method == Method::POST
        && path == "/signin"
        && !headers.contains_key(header::AUTHORIZATION)
        && headers.get(header::CONTENT_TYPE).is_some_and(is_form)
}

/// Reads a form into a buffer of its own. A piece of a body keeps its whole receive buffer, and a client can make the pieces
/// small.
async fn form(body: Body) -> Result<Option<Credentials>, StatusCode> {
    if body.size_hint().lower() > FORM_BYTES as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut form = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| StatusCode::BAD_REQUEST)?;
        if form.len() + piece.len() > FORM_BYTES {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        form.extend_from_slice(&piece);
    }
    Ok(Credentials::from_form(&form))
}

fn allowed(Consumer { key, name, namespace }: Consumer) -> Response {
    let headers = [(CONSUMER_KEY, key), (CONSUMER_NAME, name), (CONSUMER_NAMESPACE, namespace)];
    no_store((StatusCode::OK, headers).into_response())
}

fn error(status: StatusCode, header: (HeaderName, HeaderValue), body: &'static str) -> Response {
    no_store((status, [header, (header::CONTENT_TYPE, JSON)], body).into_response())
}

/// The same answer to every refusal, so that it does not show which keys exist or why a check fails.
fn refused() -> Response {
    error(StatusCode::UNAUTHORIZED, (header::WWW_AUTHENTICATE, CHALLENGE), "{\"error\":\"invalid_client\"}\n")
}

fn limited(pause: Duration) -> Response {
    let seconds = HeaderValue::from(pause.as_millis().div_ceil(1_000).clamp(1, 3_600) as u16);
    error(StatusCode::TOO_MANY_REQUESTS, (header::RETRY_AFTER, seconds), "{\"error\":\"slow_down\"}\n")
}

fn unavailable() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, (header::RETRY_AFTER, RETRY_AFTER), "{\"error\":\"temporarily_unavailable\"}\n")
}

fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// The connection ends, because its body was not read. Without this header, a gateway would use the connection again.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, CLOSE);
    response
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Bytes;
    use futures::stream;
    use tower::ServiceExt;

    use super::*;
    use crate::consumer::HashCost;
    use crate::hashing::HashPool;
    use crate::signin::Settings;

    const FORM: &[u8] = b"client_id=0b9f3f4e-1111-5222-8333-444455556666&client_secret=secret&padding=";

    async fn status(body: Body) -> Result<bool, StatusCode> {
        form(body).await.map(|credentials| credentials.is_some())
    }

    fn pieces(pieces: impl Iterator<Item = &'static [u8]> + Send + 'static) -> Body {
        Body::from_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>)))
    }

    /// A byte in a buffer of its own, and the count of these buffers.
    struct Piece(u8, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            std::slice::from_ref(&self.0)
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_form_in_small_pieces_keeps_no_buffers() {
        let (held, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, peak) = (held.clone(), most.clone());
        let body = stream::iter(FORM).map(move |byte| {
            peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from_owner(Piece(*byte, count.clone())))
        });
        assert_eq!(status(Body::from_stream(body)).await, Ok(true));
        assert_eq!((held.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 1));
    }

    #[tokio::test]
    async fn a_form_is_read_up_to_its_limit() {
        let padded = |length: usize| [FORM, &vec![b'x'; length - FORM.len()]].concat();
        assert_eq!(status(padded(FORM_BYTES).into()).await, Ok(true));
        assert_eq!(status(padded(FORM_BYTES + 1).into()).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(status(pieces(std::iter::repeat(FORM))).await, Err(StatusCode::PAYLOAD_TOO_LARGE), "a body without end");
    }

    #[tokio::test]
    async fn a_form_that_breaks_off_is_no_form() {
        let broken = stream::iter([Ok(FORM), Err(std::io::Error::other("the client has gone"))]);
        assert_eq!(status(Body::from_stream(broken)).await, Err(StatusCode::BAD_REQUEST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_form_that_does_not_arrive_times_out() {
        let cheap = HashCost { memory: 32, passes: 1, lanes: 1 };
        let (metrics, hashing) = (Arc::new(Metrics::default()), HashPool::new(1, cheap).unwrap());
        let verifier = Verifier::new(Arc::new(OnceLock::new()), Settings::default(), hashing, metrics.clone()).await.unwrap();
        let half = stream::iter([Ok::<_, std::io::Error>(FORM)]).chain(stream::pending());
        let request = Request::post("/signin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .extension(RemoteAddr(IpAddr::from([127, 0, 0, 1])))
            .body(Body::from_stream(half));
        let response = routes(Arc::new(verifier), metrics).oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
