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
    /// Reads `Authorization`: `Basic` or `OAuth`, in any case. Anything but exactly one well-formed header is no credentials
    /// at all.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let value = value.as_bytes();
        let (scheme, rest) = value.split_at(value.iter().position(|byte| *byte == b' ')?);
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"basic") {
            Self::basic(rest)
        } else if scheme.eq_ignore_ascii_case(b"oauth") {
            Self::plaintext(rest)
        } else {
            None
        }
    }

    /// Reads `client_id` and `client_secret` from a form
    /// ([RFC 6749 §2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1)). Each has to be there exactly once; other
    /// fields, as `grant_type`, are not looked at.
    #[must_use]
    pub fn from_form(body: &[u8]) -> Option<Self> {
        let (mut id, mut secret) = (None, None);
        for field in body.split(|byte| *byte == b'&') {
            let (name, value) = split_once(field, b'=').unwrap_or((field, b""));
            let seen = match form_decoded(name).as_slice() {
                b"client_id" => &mut id,
                b"client_secret" => &mut secret,
                _ => continue,
            };
            once(seen, form_decoded(value))?;
        }
        Some(Self { key: key(id?)?, secrets: vec![SecretValue::presented(secret?)] })
    }

    /// [RFC 7617](https://www.rfc-editor.org/rfc/rfc7617). The secret is form-decoded, as
    /// [RFC 6749 §2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1) says, and also taken literally, because
    /// `curl -u` and most clients do not encode.
    fn basic(token: &[u8]) -> Option<Self> {
        let decoded = STANDARD.decode(token).ok()?;
        let (id, secret) = split_once(&decoded, b':')?;
        let readings = [form_decoded(secret), secret.to_vec()];
        let distinct = if readings[0] == readings[1] { 1 } else { 2 };
        Some(Self {
            // A key has no character that form-encoding would change, but an encoder may have encoded more than it had to.
            key: key(form_decoded(id))?,
            secrets: readings.into_iter().take(distinct).map(SecretValue::presented).collect(),
        })
    }

    /// OAuth 1.0 with the signature method `PLAINTEXT`
    /// ([RFC 5849 §3.5.1](https://www.rfc-editor.org/rfc/rfc5849#section-3.5.1) and
    /// [§3.4.4](https://www.rfc-editor.org/rfc/rfc5849#section-3.4.4)): the signature is the encoded secret, `&`, and the
    /// encoded token secret, which has to be empty, as there is no token. Other methods need the plain secret on our side.
    fn plaintext(mut rest: &[u8]) -> Option<Self> {
        let (mut consumer, mut method, mut signature) = (None, None, None);
        let (mut version, mut token) = (None, None);
        while !rest.is_empty() {
            let (name, value, next) = parameter(rest)?;
            rest = next;
            let seen = match percent_decode(name).collect::<Vec<_>>().as_slice() {
                b"oauth_consumer_key" => &mut consumer,
                b"oauth_signature_method" => &mut method,
                b"oauth_signature" => &mut signature,
                b"oauth_version" => &mut version,
                b"oauth_token" => &mut token,
                _ => continue,
            };
            once(seen, percent_decode(value).collect())?;
        }
        let signature = signature?;
        let secret = signature.strip_suffix(b"&").filter(|secret| !secret.contains(&b'&'))?;
        let is_plaintext = method? == b"PLAINTEXT";
        let is_version_1 = version.is_none_or(|version| version == b"1.0");
        if !is_plaintext || !is_version_1 || token.is_some_and(|token| !token.is_empty()) {
            return None;
        }
        Some(Self { key: key(consumer?)?, secrets: vec![SecretValue::presented(percent_decode(secret).collect())] })
    }
}

fn key(bytes: Vec<u8>) -> Option<ConsumerKey> {
    ConsumerKey::parse(&String::from_utf8(bytes).ok()?).ok()
}

/// Keeps a value that has not been seen before: two of a kind could be read one way by us and the other way by somebody else.
fn once(seen: &mut Option<Vec<u8>>, value: Vec<u8>) -> Option<()> {
    seen.replace(value).is_none().then_some(())
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The first of a list of `name="value"`, and the rest of the list. White space around the commas is allowed.
fn parameter(list: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = split_once(list, b'=')?;
    let (value, rest) = split_once(rest.strip_prefix(b"\"")?, b'"')?;
    let rest = rest.trim_ascii_start();
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix(b",")?.trim_ascii_start() };
    Some((name.trim_ascii(), value, rest))
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
