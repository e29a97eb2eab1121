//! Credentials from a request.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;

use crate::consumer::{ConsumerKey, SecretLimits, SecretValue};

/// A consumer key and the secret presented with it, decoded in each way that the standards allow. All values together are one
/// attempt.
#[derive(Clone)]
pub struct Credentials {
    pub key: ConsumerKey,
    /// The secret as presented: form-decoded, then literal if that differs.
    pub secrets: Vec<SecretValue>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads `Authorization`: `Basic` or `OAuth`, in any case. None unless there is exactly one header, and it is well-formed.
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
    /// ([RFC 6749 §2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1)). Each has to be there exactly once. Other
    /// fields, such as `grant_type`, are ignored.
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
        Self::of(id?, [secret?])
    }

    /// [RFC 7617](https://www.rfc-editor.org/rfc/rfc7617). The secret is form-decoded, as
    /// [RFC 6749 §2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1) says, and also taken literally, because
    /// `curl -u` and most clients do not encode.
    fn basic(token: &[u8]) -> Option<Self> {
        let decoded = STANDARD.decode(token).ok()?;
        let (id, secret) = split_once(&decoded, b':')?;
        // No character of a key needs encoding, but a client may encode it anyway.
        let id = form_decoded(id);
        let decoded = form_decoded(secret);
        if decoded == secret { Self::of(id, [decoded]) } else { Self::of(id, [decoded, secret.to_vec()]) }
    }

    /// OAuth 1.0 with the signature method `PLAINTEXT`
    /// ([RFC 5849 §3.5.1](https://www.rfc-editor.org/rfc/rfc5849#section-3.5.1) and
    /// [§3.4.4](https://www.rfc-editor.org/rfc/rfc5849#section-3.4.4)). The signature is the encoded secret, `&`, and the encoded
    /// token secret. The latter has to be empty, because there is no token. Other methods would need the plain secret here.
    fn plaintext(list: &[u8]) -> Option<Self> {
        let (mut consumer, mut method, mut signature) = (None, None, None);
        let (mut version, mut token) = (None, None);
        let mut rest = after_commas(list);
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
            // Percent-encoded text has no backslash. A backslash here could be a character of its own, or HTTP's escape of the
            // next one.
            let is_plain = !value.contains(&b'\\');
            once(seen, is_plain.then(|| percent_decode(value).collect())?)?;
        }
        let signature = signature?;
        let secret = signature.strip_suffix(b"&").filter(|secret| !secret.contains(&b'&'))?;
        let is_plaintext = method? == b"PLAINTEXT";
        let is_version_1 = version.is_none_or(|version| version == b"1.0");
        if !is_plaintext || !is_version_1 || token.is_some_and(|token| !token.is_empty()) {
            return None;
        }
        Self::of(consumer?, [percent_decode(secret).collect()])
    }

    /// Drops values that are longer than [`SecretLimits`] allow, so that they cost neither a hash nor a place in the queue.
    fn of<const N: usize>(key: Vec<u8>, readings: [Vec<u8>; N]) -> Option<Self> {
        let key = ConsumerKey::parse(&String::from_utf8(key).ok()?).ok()?;
        let could_be = |reading: &Vec<u8>| reading.len() <= SecretLimits::default().max;
        let secrets: Vec<_> = readings.into_iter().filter(could_be).map(SecretValue::presented).collect();
        (!secrets.is_empty()).then_some(Self { key, secrets })
    }
}

/// Keeps a value. None if there was one before: another program could use the other one.
fn once(seen: &mut Option<Vec<u8>>, value: Vec<u8>) -> Option<()> {
    seen.replace(value).is_none().then_some(())
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The first of a list of `name="value"`, and the rest of the list
/// ([RFC 9110 §11.2](https://www.rfc-editor.org/rfc/rfc9110#section-11.2)). White space is allowed around `=` and commas; a
/// value may hold commas, and quotes after a backslash. It has to be quoted, as RFC 5849 says.
fn parameter(list: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = split_once(list, b'=')?;
    let name = name.trim_ascii_end();
    let quoted = rest.trim_ascii_start().strip_prefix(b"\"")?;
    let mut is_escaped = false;
    let end = quoted.iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })?;
    let (value, rest) = (&quoted[..end], quoted[end + 1..].trim_ascii_start());
    // A name has to be a token. Otherwise an unquoted parameter before it would count as a part of the name, and be ignored.
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_sound = !name.is_empty() && name.iter().all(is_token) && (rest.is_empty() || rest.starts_with(b","));
    is_sound.then(|| (name, value, after_commas(rest)))
}

/// Elements of a list may be empty ([RFC 9110 §5.6.1.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2)).
fn after_commas(list: &[u8]) -> &[u8] {
    let start = list.iter().position(|byte| !b", \t".contains(byte)).unwrap_or(list.len());
    &list[start..]
}

/// `application/x-www-form-urlencoded`: a plus is a space, `%XX` a byte.
fn form_decoded(bytes: &[u8]) -> Vec<u8> {
    if !bytes.iter().any(|byte| b"+%".contains(byte)) {
        return bytes.to_vec();
    }
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0b9f3f4e-1111-5222-8333-444455556666";

    /// The key, and the readings of the secret.
    type Read = Option<(String, Vec<Vec<u8>>)>;

    fn shown(credentials: Option<Credentials>) -> Read {
        let Credentials { key, secrets } = credentials?;
        Some((key.to_string(), secrets.iter().map(|secret| secret.expose().to_vec()).collect()))
    }

    fn read(values: &[&[u8]]) -> Read {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, axum::http::HeaderValue::from_bytes(value).unwrap());
        }
        shown(Credentials::from_headers(&headers))
    }

    fn basic(pair: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(pair)).into_bytes()
    }

    fn oauth(parameters: &str) -> Read {
        read(&[format!("OAuth {parameters}").as_bytes()])
    }

    fn form(body: &str) -> Read {
        shown(Credentials::from_form(body.as_bytes()))
    }

    /// [`KEY`] and one reading.
    fn key_and(secret: &str) -> (String, Vec<Vec<u8>>) {
        (KEY.into(), vec![secret.into()])
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
    fn a_key_may_be_form_encoded() {
        let encoded = KEY.replace('-', "%2d");
        assert_eq!(read(&[&basic(&format!("{encoded}:secret"))]), Some(key_and("secret")));
        assert_eq!(form(&format!("client_id={encoded}&client_secret=secret")), Some(key_and("secret")));
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        let header = basic(&format!("{KEY}:secret"));
        for scheme in [&b"basic"[..], b"BASIC", b"bAsIc"] {
            assert_eq!(read(&[&[scheme, &header[5..]].concat()]), Some(key_and("secret")));
        }
        let list = format!(r#"oauth_consumer_key="{KEY}",oauth_signature_method="PLAINTEXT",oauth_signature="secret%26""#);
        for scheme in ["oauth", "OAUTH", "oAuth"] {
            assert_eq!(read(&[format!("{scheme} {list}").as_bytes()]), Some(key_and("secret")));
        }
    }

    #[test]
    fn anything_else_is_no_credentials() {
        let good = basic(&format!("{KEY}:secret"));
        assert!(read(&[]).is_none());
        assert!(read(&[&good, &good]).is_none(), "two headers");
        let unpadded = basic(&format!("{KEY}:secret!"));
        let unpadded = unpadded.strip_suffix(b"=").unwrap();
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
            &[b"Basic\t", &good[6..]].concat(),
            &[&good, &b", "[..], &good].concat(),
            &[&good, &b" x"[..]].concat(),
            unpadded,
        ] {
            assert!(read(&[bad]).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn plaintext_is_read_in_every_valid_form() {
        let (k, m, s) = (
            &format!(r#"oauth_consumer_key="{KEY}""#),
            r#"oauth_signature_method="PLAINTEXT""#,
            r#"oauth_signature="secret%26""#,
        );
        for list in [
            format!("{k}, {m}, {s}"),
            format!("{s}, {k}, {m}"),
            format!("{m},{s},{k}"),
            format!("{k} \t,\t {m}\t,{s}"),
            format!(r#"{k}, {m}, {s}, oauth_timestamp="1800000000", oauth_nonce="4711", oauth_version="1.0""#),
            format!(r#"oauth_token="", {k}, {m}, {s}"#),
            // More is encoded than has to be.
            format!(r#"oauth%5Fconsumer_key="{}", {m}, {s}"#, KEY.replace('-', "%2D")),
            format!(r#"{k}, oauth_signature%5fmethod="%50LAINTEXT", oauth_version="1%2E0", {s}"#),
            // Less is encoded.
            format!(r#"{k}, {m}, oauth_signature="secret&""#),
            // RFC 9110 allows white space around `=`, and empty elements.
            format!(r#"{k}, {m}, oauth_signature = "secret%26""#),
            format!(",, {k} , , {m},{s}, "),
            // Other parameters, with all that a quoted string may hold.
            format!(r#"realm="Photos", {k}, {m}, {s}"#),
            format!(r#"{k}, realm="a, b", {m}, {s}"#),
            format!(r#"realm="a, oauth_token=\"nonempty\", b", {k}, {m}, {s}"#),
            format!(r#"realm="ends with a backslash\\", {k}, {m}, {s}"#),
            format!(r#"realm="", {k}, {m}, {s}"#),
            format!("realm=\"ü\u{1F3B7} = ;\", {k}, {m}, {s}"),
            // RFC 5849: names are case-sensitive.
            format!(r#"OAUTH_TOKEN="another parameter", {k}, {m}, {s}"#),
        ] {
            assert_eq!(oauth(&list), Some(key_and("secret")), "{list}");
        }
    }

    #[test]
    fn other_signatures_are_no_credentials() {
        let (k, m, s) = (
            &format!(r#"oauth_consumer_key="{KEY}""#),
            r#"oauth_signature_method="PLAINTEXT""#,
            r#"oauth_signature="secret%26""#,
        );
        let with_method = |method: &str| format!(r#"{k}, oauth_signature_method="{method}", {s}"#);
        let signed = |signature: &str| format!(r#"{k}, {m}, oauth_signature="{signature}""#);
        for list in [
            // Methods that need the plain secret here, or do not exist.
            with_method("HMAC-SHA1"),
            with_method("HMAC-SHA256"),
            with_method("RSA-SHA1"),
            with_method("plaintext"),
            with_method(""),
            // A token, or the secret of one.
            format!(r#"{k}, {m}, {s}, oauth_token="nnch734d00sl2jdk""#),
            signed("secret%26token-secret"),
            signed("secret&token-secret"),
            signed("se%26cret%26"),
            signed("secret%26%26"),
            // No `&` after the secret.
            signed("secret"),
            signed(""),
            // Missing.
            format!("{m}, {s}"),
            format!("{k}, {s}"),
            format!("{k}, {m}"),
            String::new(),
            ",".into(),
            // A parameter twice, also with the same value, or in another encoding.
            format!("{k}, {k}, {m}, {s}"),
            format!("{k}, {m}, {s}, {s}"),
            format!(r#"{k}, {m}, {s}, oauth_signature%5Fmethod="PLAINTEXT""#),
            format!(r#"{k}, {m}, {s}, oauth_token="", oauth_token="""#),
            // Another version.
            format!(r#"{k}, {m}, {s}, oauth_version="2.0""#),
            format!(r#"{k}, {m}, {s}, oauth_version="""#),
            format!(r#"{k}, {m}, {s}, oauth_version="1""#),
            // Not a list of quoted parameters.
            format!("oauth_consumer_key={KEY}, {m}, {s}"),
            format!("{k}, oauth_signature_method=PLAINTEXT, {s}"),
            format!("realm=Photos, {k}, {m}, {s}"),
            format!("{k} {m} {s}"),
            format!("{k}; {m}; {s}"),
            format!("{k}, {m}, {s} and more"),
            format!("{k}, {m}, {s}, more"),
            format!(r#"{k}, {m}, {s}, ="x""#),
            format!("'{k}', {m}, {s}"),
            s.trim_end_matches('"').into(),
            format!("{k}, {m}, oauth_signature=\"secret%26"),
            // Text that one parser skips and another takes for a parameter.
            format!(r#"x, oauth_token="nonempty", {k}, {m}, {s}"#),
            format!(r#"realm="x" oauth_token="nonempty", {k}, {m}, {s}"#),
            format!(r#"realm="x\", {k}, {m}, {s}"#),
            signed(r"sec\ret%26"),
            format!(r#"oauth_token="\", {k}, {m}, {s}"#),
            // A key that cannot be one.
            format!(r#"oauth_consumer_key="short", {m}, {s}"#),
            format!(r#"oauth_consumer_key="{KEY} ", {m}, {s}"#),
            format!(r#"oauth_consumer_key="%00{KEY}", {m}, {s}"#),
            format!(r#"oauth_consumer_key="%FF{KEY}", {m}, {s}"#),
        ] {
            assert_eq!(oauth(&list), None, "{list}");
        }
        assert_eq!(read(&[format!("OAuth\t{k},{m},{s}").as_bytes()]), None);
        assert_eq!(read(&[format!("OAuth{k},{m},{s}").as_bytes()]), None);
    }

    #[test]
    fn a_form_has_one_key_and_one_secret() {
        for body in [
            format!("client_id={KEY}&client_secret=secret"),
            format!("client_secret=secret&client_id={KEY}"),
            format!("grant_type=client_credentials&client_id={KEY}&client_secret=secret&scope=a+b"),
            format!("&&client_id={KEY}&&client_secret=secret&"),
            format!("client%5Fid={KEY}&client_secret=s%65cret"),
            format!("scope&=&%&client_id={KEY}&client_secret=secret"),
        ] {
            assert_eq!(form(&body), Some(key_and("secret")), "{body}");
        }
        assert_eq!(form(&format!("client_id={KEY}&client_secret=a+b%2Bc%2")), Some(key_and("a b+c%2")));
        assert_eq!(form(&format!("client_id={KEY}&client_secret=a=b:c")), Some(key_and("a=b:c")));
        assert_eq!(form(&format!("client_id={KEY}&client_secret")), Some(key_and("")));
        for body in [
            String::new(),
            "&".into(),
            "=".into(),
            format!("client_id={KEY}"),
            "client_secret=secret".into(),
            format!("client_id={KEY}&client_id={KEY}&client_secret=secret"),
            format!("client_id={KEY}&client_secret=secret&client_secret=secret"),
            format!("client_id={KEY}&client_secret=secret&client%5fsecret="),
            format!("client_id=&client_id={KEY}&client_secret=secret"),
            format!("client_id={KEY}+&client_secret=secret"),
            format!("client_id={KEY}%00&client_secret=secret"),
            format!("client_id=%ff{KEY}&client_secret=secret"),
            format!("CLIENT_ID={KEY}&client_secret=secret"),
            format!("client_id={KEY};client_secret=secret"),
            format!(r#"{{"client_id":"{KEY}","client_secret":"secret"}}"#),
        ] {
            assert_eq!(form(&body), None, "{body}");
        }
    }

    #[test]
    fn a_value_longer_than_any_secret_is_dropped() {
        let (longest, longer) = ("x".repeat(512), "x".repeat(513));
        let list = |secret: &str| {
            format!(r#"oauth_consumer_key="{KEY}", oauth_signature_method="PLAINTEXT", oauth_signature="{secret}%26""#)
        };
        let body = |secret: &str| format!("client_id={KEY}&client_secret={secret}");
        let pair = |secret: &str| read(&[&basic(&format!("{KEY}:{secret}"))]);
        assert_eq!([pair(&longest), oauth(&list(&longest)), form(&body(&longest))], [(); 3].map(|()| Some(key_and(&longest))));
        assert_eq!([pair(&longer), oauth(&list(&longer)), form(&body(&longer))], [None, None, None]);
        assert_eq!(pair(&"%78".repeat(512)), Some(key_and(&longest)), "the literal value is too long");
    }
}
