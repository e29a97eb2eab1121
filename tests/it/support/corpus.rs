//! Credentials as nobody should send them, and what they are to be read as: the files in `tests/it/corpus/`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The key, and the readings of the secret.
pub type Read = Option<(String, Vec<Vec<u8>>)>;

/// One line of the corpus.
pub struct Sample {
    pub line: &'static str,
    /// A header value, or a form.
    pub input: Vec<u8>,
    pub expected: Read,
}

/// Values of the header `Authorization`.
pub fn authorizations() -> Vec<Sample> {
    samples(include_str!("../corpus/authorization.txt"))
}

/// Bodies of `POST /signin`.
pub fn forms() -> Vec<Sample> {
    samples(include_str!("../corpus/form.txt"))
}

fn samples(file: &'static str) -> Vec<Sample> {
    let lines = file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (expected, input) = line.split_once(" <-").unwrap_or_else(|| panic!("no `<-` in {line:?}"));
            let input = unescaped(input.strip_prefix(' ').unwrap_or(input));
            Sample { line, input, expected: read_as(expected) }
        })
        .collect()
}

fn read_as(expected: &str) -> Read {
    if expected == "none" {
        return None;
    }
    let (key, readings) = expected.split_once(' ').unwrap();
    let readings = readings.split('"').skip(1).step_by(2).map(unescaped).collect();
    Some((key.to_owned(), readings))
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((encoded, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            bytes.extend(STANDARD.encode(unescaped(encoded)).bytes());
            rest = after;
        } else if let Some(after) = rest.strip_prefix(r"\\") {
            bytes.push(b'\\');
            rest = after;
        } else if let Some(after) = rest.strip_prefix(r"\x") {
            bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.extend(&rest.as_bytes()[..first.len_utf8()]);
            rest = &rest[first.len_utf8()..];
        }
    }
    bytes
}
