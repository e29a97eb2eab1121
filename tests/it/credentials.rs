//! Credentials of all forms: what is written is what is read, and whatever is sent is read one way or not at all.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oauthconsumer_operator::consumer::ConsumerKey;
use oauthconsumer_operator::signin::Credentials;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::FileFailurePersistence;

use crate::support::corpus::{self, Read, Sample};

fn shown(credentials: Option<Credentials>) -> Read {
    let Credentials { key, secrets } = credentials?;
    Some((key.to_string(), secrets.iter().map(|secret| secret.expose().to_vec()).collect()))
}

/// What the value of the header is read as. What HTTP does not allow in one never comes so far.
fn read_header(value: &[u8]) -> Read {
    let value = HeaderValue::from_bytes(value).ok()?;
    shown(Credentials::from_headers(&HeaderMap::from_iter([(header::AUTHORIZATION, value)])))
}

fn read_form(body: &[u8]) -> Read {
    shown(Credentials::from_form(body))
}

#[test]
fn the_corpus_is_read_as_it_says() {
    for Sample { line, input, expected } in corpus::authorizations() {
        assert_eq!(read_header(&input), expected, "{line}");
    }
    for Sample { line, input, expected } in corpus::forms() {
        assert_eq!(read_form(&input), expected, "{line}");
    }
}

// === What clients write ===

/// A secret as it is accepted: 1 to 512 bytes of UTF-8 without control characters.
fn secret() -> impl Strategy<Value = String> {
    let awkward = "&%+\":=;,\\ /?#@'!~üß\u{1F3B7}\u{10ffff}".chars().collect::<Vec<_>>();
    let character = prop_oneof![3 => select(awkward), 2 => prop::char::range(' ', '~'), 1 => any::<char>()];
    vec(character, 1..=512).prop_filter_map("nothing is left", |characters| {
        let mut secret = String::new();
        for character in characters.into_iter().filter(|character| !character.is_control()) {
            if secret.len() + character.len_utf8() <= 512 {
                secret.push(character);
            }
        }
        (!secret.is_empty()).then_some(secret)
    })
}

fn key() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._~-]{8,128}"
}

/// Which bytes an encoder encodes that it would not have to, again and again from the start.
fn zeal() -> impl Strategy<Value = Vec<bool>> {
    vec(prop::bool::weighted(0.2), 1..16)
}

/// Percent-encoded as RFC 5849 §3.6 and RFC 3986 have it.
fn percent_encoded(text: &[u8], zeal: &[bool]) -> String {
    let encode = |(byte, zealous): (&u8, &bool)| match byte {
        _ if *zealous => format!("%{byte:02x}"),
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.iter().zip(zeal.iter().cycle()).map(encode).collect()
}

/// `application/x-www-form-urlencoded`.
fn form_encoded(text: &[u8], zeal: &[bool]) -> String {
    let words = text.split(|byte| *byte == b' ').map(|word| percent_encoded(word, zeal));
    words.collect::<Vec<_>>().join("+")
}

/// A header as clients of OAuth 1.0 write it: `order` is that of its parameters, of which the last five may be left out.
fn oauth_header(key: &str, secret: &str, order: &[usize], separator: &str, zeal: &[bool]) -> String {
    let encoded = |text: &str| percent_encoded(text.as_bytes(), zeal);
    let signature = format!("{}&", percent_encoded(secret.as_bytes(), &[false]));
    let parameters = [
        ("oauth_consumer_key", encoded(key)),
        ("oauth_signature_method", encoded("PLAINTEXT")),
        ("oauth_signature", encoded(&signature)),
        ("oauth_version", encoded("1.0")),
        ("oauth_token", String::new()),
        ("oauth_timestamp", "1800000000".into()),
        ("oauth_nonce", encoded("k/7=")),
        ("realm", r#"a, \"b\", oauth_token=\"c\" \\"#.into()),
    ];
    let written = order.iter().map(|index| format!("{}=\"{}\"", encoded(parameters[*index].0), parameters[*index].1));
    format!("OAuth {}", written.collect::<Vec<_>>().join(separator))
}

/// The parameters of [`oauth_header`], with some of those that may be left out, in any order.
fn order() -> impl Strategy<Value = Vec<usize>> {
    prop::sample::subsequence((3..8).collect::<Vec<_>>(), 0..=5)
        .prop_map(|optional| [0, 1, 2].into_iter().chain(optional).collect::<Vec<_>>())
        .prop_shuffle()
}

// === What others send ===

fn inputs(samples: Vec<Sample>) -> Vec<Vec<u8>> {
    samples.into_iter().map(|sample| sample.input).collect()
}

/// Entries of the corpus, in which stretches are replaced by something else: other bytes, what means something to a parser, or
/// a stretch of another entry.
fn mutated(entries: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let telling =
        ["\"", "\\", "\\\"", ",", "=", "&", "%", "+", ":", " ", "\t", "%26", "%00", "oauth_token=\"t\"", "client_id=another-key"];
    let stretch = (select(entries.clone()), any::<Index>(), 0..40_usize).prop_map(|(entry, start, length)| {
        let start = start.index(entry.len() + 1);
        entry[start..entry.len().min(start + length)].to_vec()
    });
    let other = prop_oneof![
        2 => vec(any::<u8>(), 0..4),
        3 => select(telling.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => stretch,
    ];
    (select(entries), vec((any::<Index>(), 0..4_usize, other), 0..5)).prop_map(|(mut entry, edits)| {
        for (start, length, other) in edits {
            let start = start.index(entry.len() + 1);
            let end = entry.len().min(start + length);
            entry.splice(start..end, other);
        }
        entry
    })
}

fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let pair = vec(prop_oneof![any::<u8>(), select(b":%+".to_vec())], 0..200);
    prop_oneof![
        1 => vec(any::<u8>(), 0..300),
        1 => vec(any::<u8>(), 0..300).prop_map(|list| [b"OAuth ", list.as_slice()].concat()),
        1 => pair.prop_map(|pair| format!("Basic {}", STANDARD.encode([b"a-valid-key", pair.as_slice()].concat())).into_bytes()),
        4 => mutated(inputs(corpus::authorizations())),
    ]
}

fn any_form() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![1 => vec(any::<u8>(), 0..300), 4 => mutated(inputs(corpus::forms()))]
}

/// What every reading has, whatever it was read from.
fn is_sound(read: &Read, most: usize) -> bool {
    read.as_ref().is_none_or(|(key, secrets)| {
        ConsumerKey::parse(key).is_ok()
            && (1..=most).contains(&secrets.len())
            && secrets.iter().all(|secret| secret.len() <= 512)
            && (secrets.len() < 2 || secrets[0] != secrets[1])
    })
}

/// Failures are kept beside this file, to be committed with what makes them pass.
fn settings() -> ProptestConfig {
    let failure_persistence = Box::new(FileFailurePersistence::WithSource("proptest-regressions"));
    ProptestConfig { failure_persistence: Some(failure_persistence), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn basic_gives_the_secret_back(key in key(), secret in secret(), zeal in zeal()) {
        let literal = format!("Basic {}", STANDARD.encode(format!("{key}:{secret}")));
        let (read, readings) = read_header(literal.as_bytes()).unwrap();
        prop_assert_eq!(&read, &key);
        prop_assert_eq!(readings.last().unwrap(), secret.as_bytes(), "as curl sends it");
        prop_assert!(is_sound(&Some((read, readings)), 2));

        let pair = format!("{}:{}", form_encoded(key.as_bytes(), &zeal), form_encoded(secret.as_bytes(), &zeal));
        let encoded = format!("Basic {}", STANDARD.encode(pair));
        let (read, readings) = read_header(encoded.as_bytes()).unwrap();
        prop_assert_eq!(&read, &key);
        prop_assert_eq!(&readings[0], secret.as_bytes(), "as RFC 6749 says");
        prop_assert!(is_sound(&Some((read, readings)), 2));
    }

    #[test]
    fn plaintext_gives_the_secret_back(
        key in key(),
        secret in secret(),
        order in order(),
        separator in select(vec![",", ", ", "  ,\t", "\t,, ,"]),
        zeal in zeal(),
    ) {
        let header = oauth_header(&key, &secret, &order, separator, &zeal);
        prop_assert_eq!(read_header(header.as_bytes()), Some((key, vec![secret.into_bytes()])), "{}", header);
    }

    #[test]
    fn a_form_gives_the_secret_back(key in key(), secret in secret(), zeal in zeal(), swapped: bool) {
        let encoded = |text: &str| form_encoded(text.as_bytes(), &zeal);
        let mut fields = [("client_id", encoded(&key)), ("grant_type", "x".into()), ("client_secret", encoded(&secret))];
        if swapped {
            fields.reverse();
        }
        let body = fields.map(|(name, value)| format!("{}={value}", encoded(name))).join("&");
        prop_assert_eq!(read_form(body.as_bytes()), Some((key, vec![secret.into_bytes()])), "{}", body);
    }

    #[test]
    fn any_header_is_read_soundly(header in any_header()) {
        let read = read_header(&header);
        let (scheme, rest) = header.split_at(header.iter().position(|byte| *byte == b' ').unwrap_or(0));
        let is_oauth = scheme.eq_ignore_ascii_case(b"oauth");
        prop_assert!(is_sound(&read, if is_oauth { 1 } else { 2 }), "{:?}", read);
        if read.is_some() {
            // What was read is all there is: whatever comes before or after it is seen, and is one too many.
            let more: &[&[u8]] = if is_oauth {
                &[br#"oauth_consumer_key="another-key""#, br#"x, oauth_token="t""#, br#"oauth_signature_method="HMAC-SHA1""#]
            } else {
                &[b"Basic YTp4", b"realm=\"x\""]
            };
            for more in more {
                prop_assert_eq!(read_header(&[&header, &b", "[..], more].concat()), None);
                prop_assert_eq!(read_header(&[scheme, b" ", more, b",", rest].concat()), None);
            }
        }
    }

    #[test]
    fn any_form_is_read_soundly(form in any_form()) {
        let read = read_form(&form);
        prop_assert!(is_sound(&read, 1), "{:?}", read);
        if read.is_some() {
            for more in [&b"client_id=another-key"[..], b"client_secret=another", b"client%5Fid"] {
                prop_assert_eq!(read_form(&[&form, &b"&"[..], more].concat()), None);
                prop_assert_eq!(read_form(&[more, b"&", &form].concat()), None);
            }
        }
    }
}
