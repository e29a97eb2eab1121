//! Something between a client and a server that can be made to fail.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to a server.
pub struct Proxy {
    /// The server's URL, but through here.
    pub url: String,
    target: Arc<Mutex<Option<String>>>,
    line: watch::Sender<Line>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    Frozen,
    Cut,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy before the server of this URL: `scheme://[user@]host:port/...`.
    pub async fn before(url: &str) -> Self {
        Self::listening(std::net::Ipv4Addr::LOCALHOST, url).await
    }

    /// The same, for clients that come to this address.
    pub async fn listening(address: std::net::Ipv4Addr, url: &str) -> Self {
        let target = url.split(['@', '/']).find(|part| part.contains(':') && !part.ends_with(':')).unwrap().to_owned();
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let url = url.replace(&target, &listener.local_addr().unwrap().to_string());
        let (line, state) = watch::channel(Line::Open);
        let target = Arc::new(Mutex::new(Some(target)));
        let towards = target.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (target, mut state) = (towards.lock().unwrap().clone(), state.clone());
                state.mark_unchanged();
                tokio::spawn(async move {
                    let Some(target) = target else { return };
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    let ended = tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => None,
                        changed = state.changed() => changed.ok().map(|()| *state.borrow()),
                    };
                    if ended == Some(Line::Frozen) {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { url, target, line }
    }

    /// Holds on to the connections that there are and passes nothing on, as when the server loses its power. New ones work, as
    /// with a server that took over.
    pub fn freeze(&self) {
        self.line.send_replace(Line::Frozen);
    }

    /// Cuts the connections that there are. New ones work.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// Leads new connections to this `host:port`, or nowhere, and cuts those that there are.
    pub fn lead_to(&self, target: Option<&str>) {
        *self.target.lock().unwrap() = target.map(ToOwned::to_owned);
        self.cut();
    }
}
