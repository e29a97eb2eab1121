//! The sign-in check over HTTP.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Consumer, Credentials, Verdict, Verifier};
use crate::telemetry::{CheckOutcome, Metrics};

const CONSUMER_KEY: HeaderName = HeaderName::from_static("x-oauth-consumer-key");
const CONSUMER_NAME: HeaderName = HeaderName::from_static("x-oauth-consumer-name");
const CONSUMER_NAMESPACE: HeaderName = HeaderName::from_static("x-oauth-consumer-namespace");

/// Seconds after which asking again makes sense when the store does not answer.
const RETRY_AFTER: &str = "1";

/// `/signin` and everything below it, by any method: gateways forward the method and path of the original request.
pub fn routes(verifier: Arc<Verifier>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/signin", any(check))
        .route("/signin/", any(check))
        .route("/signin/{*path}", any(check))
        .with_state((verifier, metrics))
}

/// Serves the sign-in check until the token is cancelled, and finishes what had begun.
///
/// # Errors
/// When serving fails.
pub async fn serve(
    listener: TcpListener,
    verifier: Arc<Verifier>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, routes(verifier, metrics)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn check(State((verifier, metrics)): State<(Arc<Verifier>, Arc<Metrics>)>, headers: HeaderMap) -> Response {
    let begun = Instant::now();
    let verdict = match Credentials::from_headers(&headers) {
        Some(credentials) => verifier.check(credentials).await,
        None => Verdict::Refused,
    };
    metrics.signin_duration.observe(begun.elapsed().as_secs_f64());
    let (outcome, response) = match verdict {
        Verdict::Allowed(consumer) => (CheckOutcome::Allowed, allowed(&consumer)),
        Verdict::Refused => (CheckOutcome::Refused, refused()),
        Verdict::Unavailable => (CheckOutcome::Unavailable, unavailable()),
    };
    metrics.checked(outcome);
    response
}

fn allowed(consumer: &Consumer) -> Response {
    // Names are any text; keys and namespaces are plain ASCII already.
    let name = utf8_percent_encode(&consumer.name, NON_ALPHANUMERIC).to_string();
    let mut response = no_store(StatusCode::OK.into_response());
    for (header, value) in [(CONSUMER_KEY, &consumer.key), (CONSUMER_NAME, &name), (CONSUMER_NAMESPACE, &consumer.namespace)] {
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
    let headers = [
        (header::WWW_AUTHENTICATE, "Basic realm=\"OAuth consumers\", charset=\"UTF-8\""),
        (header::CONTENT_TYPE, "application/json"),
    ];
    no_store((StatusCode::UNAUTHORIZED, headers, "{\"error\":\"invalid_client\"}\n").into_response())
}

fn unavailable() -> Response {
    let headers = [(header::RETRY_AFTER, RETRY_AFTER), (header::CONTENT_TYPE, "application/json")];
    no_store((StatusCode::SERVICE_UNAVAILABLE, headers, "{\"error\":\"temporarily_unavailable\"}\n").into_response())
}

fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
