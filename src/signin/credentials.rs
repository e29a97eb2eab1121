//! Credentials from a request.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;

use crate::consumer::{ConsumerKey, SecretValue};

/// A consumer key and the secret presented with it, in the readings that the standards allow. All readings together are
/// one attempt.
#[derive(Clone)]
pub struct Credentials {
    /// The key.
    pub key: ConsumerKey,
    /// The secret as presented: form-decoded, then literal if that differs.
    pub secrets: Vec<SecretValue>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads `Authorization: Basic` ([RFC 7617](https://www.rfc-editor.org/rfc/rfc7617)). The secret is form-decoded, as
    /// [RFC 6749 §2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1) says, and also taken literally, because
    /// `curl -u` and most clients do not encode.
    ///
    /// Anything but exactly one well-formed header is no credentials at all.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(token.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (key, secret) = (&decoded[..colon], &decoded[colon + 1..]);

        // A key has no character that form-encoding would change, but an encoder may have encoded more than it had to.
        let key = String::from_utf8(form_decoded(key)).ok()?;
        let key = ConsumerKey::parse(&key).ok()?;
        let readings = [form_decoded(secret), secret.to_vec()];
        let distinct = if readings[0] == readings[1] { 1 } else { 2 };
        Some(Self { key, secrets: readings.into_iter().take(distinct).map(SecretValue::presented).collect() })
    }
}

/// `application/x-www-form-urlencoded`: a plus is a space, `%XX` a byte.
fn form_decoded(bytes: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0b9f3f4e-1111-5222-8333-444455556666";

    fn read(values: &[&[u8]]) -> Option<(String, Vec<Vec<u8>>)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, axum::http::HeaderValue::from_bytes(value).unwrap());
        }
        let credentials = Credentials::from_headers(&headers)?;
        Some((credentials.key.to_string(), credentials.secrets.iter().map(|secret| secret.expose().to_vec()).collect()))
    }

    fn basic(pair: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(pair)).into_bytes()
    }

    #[test]
    fn a_secret_is_read_form_decoded_and_then_literally() {
        let (key, secrets) = read(&[&basic(&format!("{KEY}:plain-secret"))]).unwrap();
        assert_eq!((key.as_str(), secrets), (KEY, vec![b"plain-secret".to_vec()]));
        let (_, secrets) = read(&[&basic(&format!("{KEY}:a%2Bb+c"))]).unwrap();
        assert_eq!(secrets, [b"a+b c".to_vec(), b"a%2Bb+c".to_vec()]);
        let (_, secrets) = read(&[&basic(&format!("{KEY}:with:colons"))]).unwrap();
        assert_eq!(secrets, [b"with:colons".to_vec()]);
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        let header = basic(&format!("{KEY}:secret"));
        let lower = [b"basic", &header[5..]].concat();
        assert!(read(&[&lower]).is_some());
    }

    #[test]
    fn anything_else_is_no_credentials() {
        let good = basic(&format!("{KEY}:secret"));
        assert!(read(&[]).is_none());
        assert!(read(&[&good, &good]).is_none(), "two headers");
        for bad in [
            &b"Basic"[..],
            b"Basic ",
            b"Basic !!!!",
            b"Bearer abcdef",
            b"Basic \xff\xfe",
            &basic("no-colon-in-here"),
            &basic("short:secret"),
            &basic(":secret"),
            &basic("key with spaces:secret"),
            &[b"Basic ", STANDARD.encode(b"\xff\xff\xff\xff\xff\xff\xff\xff:x").as_bytes()].concat(),
        ] {
            assert!(read(&[bad]).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
