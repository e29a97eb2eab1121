//! The sign-in check over HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use tokio::time::timeout;

use super::{Consumer, Credentials, Verdict, Verifier};
use crate::telemetry::{CheckOutcome, Metrics};

const CONSUMER_KEY: HeaderName = HeaderName::from_static("x-oauth-consumer-key");
const CONSUMER_NAME: HeaderName = HeaderName::from_static("x-oauth-consumer-name");
const CONSUMER_NAMESPACE: HeaderName = HeaderName::from_static("x-oauth-consumer-namespace");

/// Seconds after which asking again makes sense when the store does not answer.
const SOON: HeaderValue = HeaderValue::from_static("1");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"OAuth consumers\", charset=\"UTF-8\"");

/// The largest form that is read, in bytes: a key and a secret have at most 128 and 512, each up to three when encoded.
const FORM_LIMIT: usize = 8 * 1024;

/// How long a client may take to send its form.
const FORM_PATIENCE: Duration = Duration::from_secs(10);

/// The address at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// `/signin` and everything below it, by any method: gateways forward the method and path of the original request. Requests
/// carry their [`Peer`] as an extension.
pub fn routes(verifier: Arc<Verifier>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/signin", any(check))
        .route("/signin/", any(check))
        .route("/signin/{*path}", any(check))
        .with_state((verifier, metrics))
}

async fn check(
    State((verifier, metrics)): State<(Arc<Verifier>, Arc<Metrics>)>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let credentials = if sends_form(&parts.method, parts.uri.path(), &parts.headers) {
        match timeout(FORM_PATIENCE, form(body)).await {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(refusal)) => return refusal,
            Err(_) => return no_store(StatusCode::REQUEST_TIMEOUT.into_response()),
        }
    } else {
        Credentials::from_headers(&parts.headers)
    };
    let verdict = match credentials {
        Some(credentials) => verifier.check(credentials, verifier.caller(peer, &parts.headers)).await,
        None => Verdict::Refused,
    };
    metrics.signin_duration.observe(begun.elapsed().as_secs_f64());
    let (outcome, response) = match verdict {
        Verdict::Allowed(entry) => (CheckOutcome::Allowed, allowed(&entry.consumer)),
        Verdict::Refused => (CheckOutcome::Refused, refused()),
        Verdict::Limited(pause) => (CheckOutcome::Limited, limited(pause)),
        Verdict::Unavailable => (CheckOutcome::Unavailable, unavailable()),
    };
    metrics.checked(outcome);
    response
}

/// Whether the credentials are in the body: only of a form that is posted to the check itself, because any other request may
/// be somebody else's; and not if there is a header, because one request has one kind of credentials.
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

async fn form(body: Body) -> Result<Option<Credentials>, Response> {
    match to_bytes(body, FORM_LIMIT).await {
        Ok(bytes) => Ok(Credentials::from_form(&bytes)),
        Err(_) => Err(no_store(StatusCode::PAYLOAD_TOO_LARGE.into_response())),
    }
}

fn allowed(consumer: &Consumer) -> Response {
    let mut response = no_store(StatusCode::OK.into_response());
    let Consumer { key, name, namespace } = consumer;
    for (header, value) in [(CONSUMER_KEY, key), (CONSUMER_NAME, name), (CONSUMER_NAMESPACE, namespace)] {
        match HeaderValue::from_str(value) {
            Ok(value) => response.headers_mut().insert(header, value),
            // Not to be had from the schema; and half an answer would be worse than none.
            Err(_) => return unavailable(),
        };
    }
    response
}

/// The same for every refusal: nobody learns which keys exist or why they do not work.
fn refused() -> Response {
    let headers = [(header::WWW_AUTHENTICATE, CHALLENGE), (header::CONTENT_TYPE, JSON)];
    no_store((StatusCode::UNAUTHORIZED, headers, "{\"error\":\"invalid_client\"}\n").into_response())
}

fn limited(pause: Duration) -> Response {
    let seconds = HeaderValue::from(pause.as_millis().div_ceil(1_000).clamp(1, 3_600) as u16);
    let headers = [(header::RETRY_AFTER, seconds), (header::CONTENT_TYPE, JSON)];
    no_store((StatusCode::TOO_MANY_REQUESTS, headers, "{\"error\":\"slow_down\"}\n").into_response())
}

fn unavailable() -> Response {
    let headers = [(header::RETRY_AFTER, SOON), (header::CONTENT_TYPE, JSON)];
    no_store((StatusCode::SERVICE_UNAVAILABLE, headers, "{\"error\":\"temporarily_unavailable\"}\n").into_response())
}

fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}
