//! A real sign-in, by curl; through `kubectl port-forward` where no URL is given.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use oauthconsumer_operator::api::OAuthConsumer;

use crate::cli::{CheckOptions, Connection};

/// How the chart labels the Service of the sign-in check.
const SERVICE: &str = "app.kubernetes.io/name=oauthconsumer-operator,app.kubernetes.io/component=signin";

/// What came of a sign-in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Allowed,
    Refused,
    TooMany,
    Unknown,
    /// Another answer than a sign-in check gives, for instance a gateway's.
    Other(u16),
}

/// Ended when it is dropped. kubectl goes on writing to its output, and would end if that were closed.
struct PortForward {
    kubectl: Child,
    _output: BufReader<ChildStdout>,
}

/// Signs in with the consumer's key and this secret.
pub fn sign_in(connection: &Connection, options: &CheckOptions, object: &OAuthConsumer, secret: &str) -> Result<Answer, String> {
    let key = object.status.as_ref().and_then(|status| status.consumer_key.as_deref()).ok_or("it has no consumer key yet")?;
    if let Some(url) = &options.url {
        return ask(url, key, secret);
    }
    let service = match &options.service {
        Some(service) => service.clone(),
        None => find_service(connection)?,
    };
    let (namespace, name) = service.split_once('/').ok_or("--service takes NAMESPACE/NAME")?;
    let (_forward, port) = PortForward::to(connection, namespace, name)?;
    ask(&format!("http://127.0.0.1:{port}/signin"), key, secret)
}

fn find_service(connection: &Connection) -> Result<String, String> {
    let found = Command::new("kubectl")
        .args(["get", "services", "--all-namespaces", "--selector", SERVICE])
        .args(["--output", r#"jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}"#])
        .args(connection.for_another_namespace())
        .output()
        .map_err(|error| format!("kubectl cannot be run: {error}"))?;
    let lines = String::from_utf8_lossy(&found.stdout).into_owned();
    match lines.lines().collect::<Vec<_>>()[..] {
        [one] => Ok(one.to_owned()),
        [] => Err("no Service of a sign-in check was found: give --service NAMESPACE/NAME, or --url".into()),
        _ => Err(format!("there are several sign-in checks, give one of them as --service:\n{lines}")),
    }
}

/// curl reads the credentials from its standard input, because other users see its arguments.
fn ask(url: &str, key: &str, secret: &str) -> Result<Answer, String> {
    let unusable = |error| format!("curl cannot be run: {error}");
    let mut curl = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--output",
            "-",
            "--write-out",
            "\n%{http_code}",
            "--config",
            "-",
            url,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(unusable)?;
    let escaped = format!("{key}:{secret}").replace('\\', r"\\").replace('"', r#"\""#);
    if let Some(mut stdin) = curl.stdin.take() {
        writeln!(stdin, "user = \"{escaped}\"").map_err(unusable)?;
    }
    let answered = curl.wait_with_output().map_err(unusable)?;
    let text = String::from_utf8_lossy(&answered.stdout).into_owned();
    if !answered.status.success() {
        return Err(format!("{url} gave no answer"));
    }
    Ok(match text.lines().last().and_then(|code| code.parse().ok()).unwrap_or_default() {
        200 => Answer::Allowed,
        401 => Answer::Refused,
        429 => Answer::TooMany,
        503 => Answer::Unknown,
        other => Answer::Other(other),
    })
}

// === impl Answer ===

impl Answer {
    pub fn said(self) -> String {
        match self {
            Self::Allowed => "signed in (200)".into(),
            Self::Refused => "refused (401)".into(),
            Self::TooMany => "too many refused sign-ins from this address (429): wait, and ask again".into(),
            Self::Unknown => "the check cannot tell now (503): its store or its controller does not answer".into(),
            Self::Other(code) => format!("the answer {code} is not one of a sign-in check: is this the right URL?"),
        }
    }

    pub fn code(self) -> ExitCode {
        match self {
            Self::Allowed => ExitCode::SUCCESS,
            Self::Refused => ExitCode::from(crate::run::NO),
            Self::TooMany | Self::Unknown | Self::Other(_) => ExitCode::FAILURE,
        }
    }
}

// === impl PortForward ===

impl PortForward {
    /// Forwards a free port, which kubectl names in its first line.
    fn to(connection: &Connection, namespace: &str, service: &str) -> Result<(Self, String), String> {
        let mut kubectl = Command::new("kubectl")
            .args(["port-forward", "--namespace", namespace, &format!("service/{service}"), ":8080"])
            .args(connection.for_another_namespace())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("kubectl cannot be run: {error}"))?;
        let mut output = BufReader::new(kubectl.stdout.take().ok_or("kubectl has no output")?);
        let mut line = String::new();
        let read = output.read_line(&mut line);
        let forward = Self { kubectl, _output: output };
        read.map_err(|error| format!("kubectl cannot be read: {error}"))?;
        let port = line.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:"));
        let port = port.ok_or_else(|| format!("no port-forward to {namespace}/{service}; give --url instead"))?.to_owned();
        Ok((forward, port))
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
