//! Connections to the sign-in check: how many, for how long, with or without TLS.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Certificate;
use super::http::Peer;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 4_096;

/// A connection without a new request for this long is closed, at the latest after twice as long: whether it is idle, sends a
/// head that does not end, or does not read its answers. Longer than gateways keep theirs, so that they close first and nothing
/// is lost. Answers themselves take seconds.
const IDLE: Duration = Duration::from_secs(75);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes. Gateways forward their clients' cookies.
const HEAD: usize = 64 * 1024;

/// How long requests that have begun may take once told to stop. Hashes that wait take less than two seconds.
const GRACE: Duration = Duration::from_secs(10);

/// The pause when there is no room for one more connection in the process.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until the token is cancelled, and finishes what has begun.
pub async fn serve(listener: TcpListener, certificate: Option<Arc<Certificate>>, routes: Router, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async { (places.clone().acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! { next = next => next, () = shutdown.cancelled() => break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The client has gone already, or the process has no file descriptor left. Both pass.
                warn!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (routes, watcher) = (routes.clone(), graceful.watcher());
        let acceptor = certificate.as_ref().map(|certificate| certificate.acceptor());
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let peer = Peer(peer.ip());
            match acceptor {
                None => connection(stream, peer, routes, watcher).await,
                Some(acceptor) => match handshake(acceptor, stream).await {
                    Ok(stream) => connection(stream, peer, routes, watcher).await,
                    Err(error) => debug!(%error, "a TLS handshake failed"),
                },
            }
        });
    }
    drop(listener);
    if timeout(GRACE, graceful.shutdown()).await.is_err() {
        warn!("clients that were still sending were cut off");
    }
}

async fn handshake<S>(acceptor: TlsAcceptor, stream: S) -> io::Result<tokio_rustls::server::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(HANDSHAKE, acceptor.accept(stream)).await?
}

async fn connection<S>(stream: S, peer: Peer, routes: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let routes = TowerToHyperService::new(routes);
    let requests = Arc::new(AtomicU64::new(0));
    let count = requests.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        count.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        routes.call(request)
    });
    // One timer for all that a client may leave undone, instead of one for each request.
    let unused = async {
        let mut before = None;
        while before != Some(requests.load(Ordering::Relaxed)) {
            before = Some(requests.load(Ordering::Relaxed));
            sleep(IDLE).await;
        }
    };
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(HEAD)
        // This alone would let through what fits into the last buffer that is read.
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = watcher.watch(connection) => if let Err(error) = ended {
            debug!(%error, "a connection ended");
        },
        () = unused => debug!("a connection was idle or stuck"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::any;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpStream;

    use super::*;

    const PEER: Peer = Peer(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));
    const HALF_A_HEAD: &[u8] = b"GET /signin HTTP/1.1\r\nauthorization: Bas";

    // Time is paused: it goes on at once when all that is left to do is to wait for it.

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_in_the_middle_of_a_head_is_left() {
        let (mut client, socket) = duplex(1 << 16);
        client.write_all(HALF_A_HEAD).await.unwrap();
        let graceful = GracefulShutdown::new();
        let served = connection(socket, PEER, Router::new(), graceful.watcher());
        timeout(IDLE * 5 / 2, served).await.expect("the connection is still open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_its_head_byte_by_byte_is_left() {
        let (mut client, socket) = duplex(1 << 16);
        let graceful = GracefulShutdown::new();
        let served = connection(socket, PEER, Router::new(), graceful.watcher());
        let sending = async {
            for byte in HALF_A_HEAD.iter().cycle() {
                let _ = client.write_all(&[*byte]).await;
                sleep(IDLE / 10).await;
            }
        };
        tokio::select! {
            ended = timeout(IDLE * 5 / 2, served) => ended.expect("the connection is still open"),
            () = sending => unreachable!("it sends for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_its_connection_idle_is_left() {
        let (mut client, socket) = duplex(1 << 16);
        client.write_all(b"GET /signin HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let graceful = GracefulShutdown::new();
        let served = connection(socket, PEER, Router::new(), graceful.watcher());
        timeout(IDLE * 5 / 2, served).await.expect("the connection is still open");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answers_is_left() {
        let (mut client, socket) = duplex(1 << 10);
        let graceful = GracefulShutdown::new();
        let served = connection(socket, PEER, Router::new(), graceful.watcher());
        let asking = async {
            while client.write_all(b"GET /signin HTTP/1.1\r\nhost: a\r\n\r\n").await.is_ok() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = timeout(IDLE * 5 / 2, served) => ended.expect("the connection is still open"),
            () = asking => unreachable!("it reads nothing"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_stalls_keeps_it_from_ending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, asked) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
        let asks = asked.clone();
        let never = any(move || async move {
            asks.notify_one();
            std::future::pending::<()>().await;
        });
        let serving = tokio::spawn(serve(listener, None, Router::new().route("/never", never), shutdown.clone()));
        let mut clients = Vec::new();
        for sent in [&b""[..], HALF_A_HEAD, b"GET /never HTTP/1.1\r\n\r\n"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent).await.unwrap();
            clients.push(client);
        }
        asked.notified().await;
        shutdown.cancel();
        timeout(GRACE * 2, serving).await.expect("it still serves").unwrap();
    }
}
