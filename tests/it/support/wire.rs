//! Requests as bytes, also such as no client library would send, and credentials in the forms that [`basic`] is not.
//!
//! [`basic`]: super::basic

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The header of a form.
pub const FORM: &[u8] = b"content-type: application/x-www-form-urlencoded";

/// Sends this on a connection of its own, and returns what comes until the server closes it.
pub async fn exchange(address: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let mut answer = Vec::new();
    // Either may fail: the server closes when it has seen enough.
    let both = join(reading.read_to_end(&mut answer), writing.write_all(sent));
    let _ = timeout(Duration::from_mins(1), both).await.expect("the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request with these lines as its head, the last of its connection.
pub fn request(line: &str, headers: &[&[u8]]) -> Vec<u8> {
    let headers: Vec<_> = headers.iter().flat_map(|header| [header, &b"\r\n"[..]]).collect();
    [line.as_bytes(), b"\r\nhost: check\r\nconnection: close\r\n", &headers.concat(), b"\r\n"].concat()
}

/// The same with a body.
pub fn with_body(line: &str, headers: &[&[u8]], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}", body.len());
    [&request(line, &[headers, &[length.as_bytes()]].concat()), body].concat()
}

/// A request with this value of `Authorization`.
pub fn authorized(line: &str, authorization: &[u8]) -> Vec<u8> {
    request(line, &[&[b"authorization: ", authorization].concat()])
}

/// An answer without what is different each time, or in each version of HTTP.
pub fn essence(answer: &str) -> String {
    let differs = |line: &&str| line.starts_with("date: ") || line.starts_with("connection: ");
    let lines = answer.split_inclusive("\r\n").filter(|line| !differs(line));
    lines.collect::<String>().replacen("HTTP/1.0", "HTTP/1.1", 1)
}

/// What a client of OAuth 1.0 sends.
pub fn oauth(key: &str, secret: &str) -> String {
    let signature = encoded(&format!("{}&", encoded(secret)));
    format!(r#"OAuth oauth_consumer_key="{key}", oauth_signature_method="PLAINTEXT", oauth_signature="{signature}""#)
}

/// What a client of OAuth 2.0 posts.
pub fn form(key: &str, secret: &str) -> String {
    format!("client_id={key}&client_secret={}", encoded(secret))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
