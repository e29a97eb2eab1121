//! What the benchmarks share: records, the program, load by wrk, and tables.

#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts and times are small"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that fails may fail loudly")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use oauthconsumer_operator::consumer::{
    ConsumerKey, Decision, HashCost, HashMemory, Owner, Phc, Profile, Record, SecretOutcome, SecretSource, SecretValue, State,
};

pub const SECRET: &str = "a secret of a benchmark, long enough";

/// An approved record. All share one hash, so that making them takes no time.
pub fn record(uid: &str, phc: &Phc) -> Record {
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    Record {
        consumer_key: ConsumerKey::derive("cluster", uid),
        owner: Owner { cluster_id: "cluster".into(), uid: uid.into() },
        installation: "default".into(),
        namespace: "team-a".into(),
        object: uid.into(),
        profile: Profile { name: format!("The consumer {uid}") },
        generation: 1,
        state: State::Approved,
        decision: Some(Decision { approved: true, by: None, at, generation: 1 }),
        unproved_approval: None,
        hold: None,
        revocation: None,
        secret_source: Some(SecretSource {
            name: format!("{uid}-oauth"),
            key: "consumerSecret".into(),
            uid: uid.into(),
            resource_version: "1".into(),
        }),
        secret: SecretOutcome::Accepted(phc.clone()),
        secret_floor: 16,
    }
}

pub fn hash(cost: HashCost) -> Phc {
    Phc::hash(&SecretValue::presented(SECRET.as_bytes().to_vec()), cost, &mut HashMemory::default()).unwrap()
}

pub fn basic(key: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{key}:{secret}")))
}

/// The program, until it is dropped.
pub struct Program {
    pub signin: String,
    pub admin: String,
    child: Child,
}

// === impl Program ===

impl Program {
    /// Starts it with these arguments. Its log goes to a file.
    pub fn start(args: &[&str], log: &Path) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held = (free(), free());
        let (signin, admin) = (held.0.local_addr().unwrap().to_string(), held.1.local_addr().unwrap().to_string());
        drop(held);
        let mut command = Command::new(env!("CARGO_BIN_EXE_oauthconsumer-operator"));
        command.args(args).args(["--admin-addr", &admin]);
        // The API server here has none of the chart's policies.
        command.env("OAUTHCONSUMER_APPROVAL_PROOF", "off");
        if args[0] != "controller" {
            command.args(["--signin-addr", &signin]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log).unwrap()).spawn().unwrap();
        Self { signin, admin, child }
    }

    /// Waits until it is ready.
    pub fn ready(&self) {
        while curl(&["-sf", &format!("http://{}/readyz", self.admin)]).is_none() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its resident memory in MiB.
    pub fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// A metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = curl(&["-sf", &format!("http://{}/metrics", self.admin)]).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn curl(args: &[&str]) -> Option<String> {
    let ran = Command::new("curl").args(args).output().unwrap();
    ran.status.success().then(|| String::from_utf8(ran.stdout).unwrap())
}

/// What wrk measured.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests a second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Answers that were no 2xx or 3xx, and requests that had none.
    pub refused: u64,
    pub failed: u64,
}

/// Load that is being made.
pub struct Wrk(Child);

// === impl Wrk ===

impl Wrk {
    /// Sends the requests of a file in turn for some seconds, over so many connections.
    pub fn start(address: &str, requests: &Path, connections: usize, seconds: u64, pause: u64) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/support/load.lua");
        let (connections, duration) = (format!("-c{connections}"), format!("-d{seconds}s"));
        let child = Command::new("wrk")
            .args(["-t1", &connections, &duration, "--timeout", "10s", "-s", script, &format!("http://{address}")])
            .env("REQUESTS", requests)
            .env("PAUSE", pause.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the benchmarks need wrk: `make bench` installs it, or says how to");
        Self(child)
    }

    pub fn finish(self) -> Load {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RESULT ")).unwrap_or_else(|| panic!("wrk failed: {text}"));
        let mut numbers = line.split(' ').map(|number| number.parse::<f64>().unwrap());
        let mut next = || numbers.next().unwrap();
        Load { rate: next(), p50: next(), p99: next(), refused: next() as u64, failed: next() as u64 }
    }
}

/// Writes a file of requests for [`Wrk`].
pub fn requests(path: &Path, lines: impl Iterator<Item = String>) {
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    lines.for_each(|line| writeln!(file, "{line}").unwrap());
    file.flush().unwrap();
}

/// The value below which this part of the values lies.
pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get(((values.len() as f64 * part).ceil() as usize).clamp(1, last + 1) - 1).copied().unwrap_or(f64::NAN)
}

/// Prints a table in Markdown.
pub fn table(title: &str, columns: &[&str], rows: &[Vec<String>]) {
    let mut text = format!("\n### {title}\n\n| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    println!("{text}");
}
