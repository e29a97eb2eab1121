//! Serves the connections of a port, within limits on their number and duration.

mod client_network;
mod progress;
mod slots;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Join, Take, join};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use client_network::ClientNetwork;
use progress::Progress;
use slots::{Slot, Slots};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes that a client may send before its TLS handshake has ended. A handshake takes about 2 KiB, and a first record of
/// 16 KiB may follow at once. rustls alone would buffer 64 KiB.
const HANDSHAKE_BYTES: u64 = 32 * 1024;

/// How long open requests may take at shutdown. Hashes that wait take less than two seconds.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of the other end of the connection, as an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddr(pub IpAddr);

/// The limits of a port.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    /// The largest head of a request, in bytes: 8 KiB or more.
    pub head: usize,
    /// The networks of gateways. Many clients share a gateway's address, so gateways may use all connections, and a quarter is
    /// kept for them.
    pub gateways: Vec<IpNet>,
}

pub struct Port {
    pub routes: Router,
    pub limits: Limits,
    /// Counts connections that get no slot, or lose theirs to another one.
    pub refused: Counter,
    /// Called for each connection. None for plain HTTP.
    pub acceptor: Option<Box<dyn Fn() -> TlsAcceptor + Send>>,
}

// === impl Limits ===

impl Limits {
    /// The most connections of one address that is no gateway. Where no gateway is known, each address may be one.
    pub fn per_address(&self) -> usize {
        self.connections / if self.gateways.is_empty() { 2 } else { 8 }
    }

    /// The most connections of all addresses together that are no gateways.
    pub fn for_clients(&self) -> usize {
        self.connections - if self.gateways.is_empty() { 0 } else { self.connections / 4 }
    }
}

// === impl Port ===

impl Port {
    /// Serves connections until the token is cancelled, and then finishes open requests.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let Self { routes, limits, refused, acceptor } = self;
        let (graceful, head) = (GracefulShutdown::new(), limits.head);
        let slots = Slots::new(limits, refused);
        loop {
            let accepted = tokio::select! { accepted = listener.accept() => accepted, () = shutdown.cancelled() => break };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Cause: the client has gone already, or the process has no file descriptor left. Both pass.
                    // Next step: none, or raise the limit of open files if `error` names it.
                    warn!(%error, "a connection could not be accepted; the port goes on to accept others");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // A connection without a slot is closed at once, so that the next one is accepted.
            let Some(slot) = slots.take(peer.ip()) else { continue };
            let connection =
                Connection { peer: RemoteAddr(peer.ip()), progress: slot.progress.clone(), routes: routes.clone(), head };
            tokio::spawn(hold(slot, stream, acceptor.as_ref().map(|acceptor| acceptor()), connection, graceful.watcher()));
        }
        drop(listener);
        if timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await.is_err() {
            // Cause: clients send or read too slowly.
            // Next step: none. The clients try again.
            warn!("the shutdown has closed connections whose requests were not finished");
        }
    }
}

/// Serves a connection for as long as it has its slot.
async fn hold(slot: Slot, stream: TcpStream, acceptor: Option<TlsAcceptor>, connection: Connection, watcher: Watcher) {
    let _ = stream.set_nodelay(true);
    let served = async {
        match acceptor {
            None => connection.serve(stream, watcher).await,
            Some(acceptor) => match timeout(HANDSHAKE_TIMEOUT, handshake(acceptor, stream)).await {
                Ok(Ok(stream)) => {
                    connection.progress.restart();
                    connection.serve(stream, watcher).await;
                }
                Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
                Err(_) => debug!("a TLS handshake took too long"),
            },
        }
    };
    tokio::select! {
        () = served => {}
        () = slot.evicted.notified() => debug!("a connection had to make room for another one"),
    }
}

type Limited = Join<Take<OwnedReadHalf>, OwnedWriteHalf>;

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<Limited>> {
    let (reading, writing) = stream.into_split();
    let mut stream = acceptor.accept(join(reading.take(HANDSHAKE_BYTES), writing)).await?;
    stream.get_mut().0.reader_mut().set_limit(u64::MAX);
    Ok(stream)
}

struct Connection {
    peer: RemoteAddr,
    progress: Progress,
    routes: Router,
    head: usize,
}

// === impl Connection ===

impl Connection {
    async fn serve<S>(self, stream: S, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { peer, progress, routes, head } = self;
        let (routes, observer, receiver) = (TowerToHyperService::new(routes), progress.clone(), progress.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            observer.begin(request.body().size_hint().exact());
            request.extensions_mut().insert(peer);
            let (answer, observer) = (routes.call(request), observer.clone());
            async move {
                let answer = answer.await;
                observer.finish();
                answer
            }
        });
        let connection = http1::Builder::new()
            // hyper's own timeout would also close idle connections.
            .header_read_timeout(None)
            .max_header_size(head)
            // Alone, this one would accept a larger head that is complete with the last read.
            .max_buf_size(head)
            .serve_connection(TokioIo::new(InspectReader::new(stream, move |bytes| receiver.receive(bytes))), service);
        tokio::select! {
            biased;
            ended = watcher.watch(connection) => if let Err(error) = ended {
                debug!(%error, "a connection ended");
            },
            () = progress.overdue() => debug!("a connection was idle or stuck"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use axum::extract::Request;
    use axum::routing::any;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::progress::{HEAD_TIMEOUT, IDLE_TIMEOUT};
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const HALF_A_HEAD: &[u8] = b"GET / HTTP/1.1\r\nauthorization: Bas";
    const MOMENT: Duration = Duration::from_millis(100);

    // Time is paused: it moves on when all tasks wait.

    /// Answers once the body has arrived.
    fn routes() -> Router {
        Router::new().fallback(async |request: Request| {
            let _ = axum::body::to_bytes(request.into_body(), 1 << 10).await;
        })
    }

    /// Serves one end of a connection.
    async fn serve(socket: DuplexStream) {
        let (peer, progress, graceful) = (RemoteAddr(Ipv4Addr::LOCALHOST.into()), Progress::new(), GracefulShutdown::new());
        let connection = Connection { peer, progress, routes: routes(), head: 16 << 10 };
        connection.serve(socket, graceful.watcher()).await;
    }

    /// How long a connection stays open while the client does this, and the answers.
    async fn open_while<F: Future>(client_does: impl FnOnce(tokio::io::WriteHalf<DuplexStream>) -> F) -> (Duration, String) {
        let (client, socket) = duplex(1 << 16);
        let (mut reading, writing) = tokio::io::split(client);
        let (since, mut answers) = (Instant::now(), Vec::new());
        let client = async {
            client_does(writing).await;
            std::future::pending::<()>().await;
        };
        let served = async {
            serve(socket).await;
            since.elapsed()
        };
        let open = tokio::select! {
            open = timeout(IDLE_TIMEOUT * 4, served) => open.expect("the connection is still open"),
            () = client => unreachable!("the client stays"),
        };
        reading.read_to_end(&mut answers).await.unwrap();
        (open, String::from_utf8(answers).unwrap())
    }

    fn is_about(open: Duration, expected: Duration) {
        assert!(open >= expected && open < expected + MOMENT, "{open:?} instead of {expected:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_in_the_middle_of_a_head_is_disconnected() {
        for sent in [&b""[..], b"\r\n\r\n", HALF_A_HEAD] {
            let (open, answers) = open_while(async |mut client| client.write_all(sent).await).await;
            is_about(open, HEAD_TIMEOUT);
            assert_eq!(answers, "");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_its_head_byte_by_byte_is_disconnected() {
        for first in [&b""[..], GET] {
            let sent_slowly = async |mut client: tokio::io::WriteHalf<_>| {
                client.write_all(first).await.unwrap();
                for byte in HALF_A_HEAD.iter().cycle() {
                    sleep(HEAD_TIMEOUT / 20).await;
                    let _ = client.write_all(&[*byte]).await;
                }
            };
            let (open, _) = open_while(sent_slowly).await;
            is_about(open, if first.is_empty() { HEAD_TIMEOUT } else { HEAD_TIMEOUT + HEAD_TIMEOUT / 20 });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_on_a_connection_that_was_idle_has_its_own_time() {
        let (open, answers) = open_while(async |mut client| {
            for _ in 0..3 {
                client.write_all(GET).await.unwrap();
                sleep(IDLE_TIMEOUT * 9 / 10).await;
            }
            client.write_all(HALF_A_HEAD).await.unwrap();
        })
        .await;
        is_about(open, IDLE_TIMEOUT * 9 / 10 * 3 + HEAD_TIMEOUT);
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_half_a_head_behind_a_request_starts_at_the_answer() {
        let form = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcd";
        let chunks = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n";
        for whole in [GET, form, chunks, b"\r\n\r\nGET / HTTP/1.1\nhost: a\n\n"] {
            let (open, answers) = open_while(async |mut client| client.write_all(&[whole, HALF_A_HEAD].concat()).await).await;
            is_about(open, HEAD_TIMEOUT);
            assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 1, "{answers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_its_connection_idle_is_disconnected() {
        let form = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
        for (head, body) in [(GET, &b""[..]), (form, b"abcd"), (b"\r\nGET / HTTP/1.1\nhost: a\n\n", b"")] {
            let (open, answers) = open_while(async |mut client| {
                client.write_all(head).await.unwrap();
                client.write_all(body).await.unwrap();
            })
            .await;
            is_about(open, IDLE_TIMEOUT);
            assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_the_connection() {
        let half = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab";
        let (open, _) = open_while(async |mut client| client.write_all(half).await).await;
        is_about(open, IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answers_is_disconnected() {
        let (mut client, socket) = duplex(1 << 10);
        let asking = async {
            while client.write_all(GET).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = timeout(IDLE_TIMEOUT + MOMENT, serve(socket)) => ended.expect("the connection is still open"),
            () = asking => unreachable!("it reads nothing"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_too_large_is_answered_with_431() {
        let head = |length: usize| {
            let padding = length - "GET / HTTP/1.1\r\nx: \r\n\r\n".len();
            ["GET / HTTP/1.1\r\nx: ", &"y".repeat(padding), "\r\n\r\n"].concat().into_bytes()
        };
        for (length, answer) in [(16 << 10, "HTTP/1.1 200 "), ((16 << 10) + 1, "HTTP/1.1 431 "), (17 << 10, "HTTP/1.1 431 ")] {
            let (open, answers) = open_while(async |mut client| client.write_all(&head(length)).await).await;
            assert!(answers.starts_with(answer), "{length}: {answers}");
            assert!(answer.contains("200") || open < MOMENT, "{open:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_stall_do_not_delay_the_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, asked) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
        let asks = asked.clone();
        let never = any(move || async move {
            asks.notify_one();
            std::future::pending::<()>().await;
        });
        let limits = Limits { connections: 8, head: 8 << 10, gateways: Vec::new() };
        let port = Port { routes: Router::new().route("/never", never), limits, refused: Counter::default(), acceptor: None };
        let serving = tokio::spawn(port.serve(listener, shutdown.clone()));
        let mut clients = Vec::new();
        for sent in [&b""[..], HALF_A_HEAD, b"GET /never HTTP/1.1\r\n\r\n"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent).await.unwrap();
            clients.push(client);
        }
        asked.notified().await;
        shutdown.cancel();
        timeout(SHUTDOWN_TIMEOUT * 2, serving).await.expect("it still serves").unwrap();
    }
}
