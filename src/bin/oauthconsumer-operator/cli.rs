//! The command line. Every flag has an environment variable `OAUTHCONSUMER_<FLAG>`, except flags that destroy something.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::IpNet;
use jiff::SignedDuration;
use oauthconsumer_operator::consumer::{ConsumerKey, HashCost};
use oauthconsumer_operator::controller::ApprovalProof;
use oauthconsumer_operator::signin::{Rate, Settings};
use strum::VariantNames;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::error::ProgramError;
use crate::logs::LogFormat;
/// Manages OAuth consumers on Kubernetes: keeps a record for each `OAuthConsumer`, and answers sign-in checks from those
/// records.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Runs the controller and the sign-in check in one process. A small installation needs nothing else.
    Run(RunOptions),
    /// Runs the controller alone. It needs a Kubernetes API server and the store.
    Controller(ControllerOnly),
    /// Runs the sign-in check alone. It needs the store, and no Kubernetes. Any number of them can run.
    Signin(SigninOnly),
    /// Ends a consumer's sign-in in the store alone, for when the API server cannot be reached. The consumer stays revoked until a
    /// controller has seen its object disapproved after that, and then approved.
    Revoke(RevokeOptions),
    /// Checks whether the operator can be uninstalled. It fails while there are consumers, because without a controller their
    /// finalizers stay. The chart's hook runs it.
    Cleanup(CleanupOptions),
    /// Prints the CustomResourceDefinition, to be applied with kubectl.
    Crd,
    /// Prints a completion script for your shell.
    Completion {
        /// The shell to complete for.
        shell: Shell,
    },
}

#[derive(Args)]
pub struct RunOptions {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub controller: ControllerOptions,
    #[command(flatten)]
    pub signin: SigninOptions,
}

#[derive(Args)]
pub struct ControllerOnly {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub controller: ControllerOptions,
}

#[derive(Args)]
pub struct SigninOnly {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub signin: SigninOptions,
}

#[derive(Args)]
pub struct RevokeOptions {
    /// The consumer key, as in status.consumerKey.
    #[arg(value_name = "KEY", value_parser = consumer_key)]
    pub key: ConsumerKey,

    /// Why, in a few words. The object's status shows it.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,

    #[command(flatten)]
    pub store: StoreOptions,
}

#[derive(Args)]
pub struct CleanupOptions {
    /// Removes the operator's finalizer from all consumers instead. Stop the controllers first. The consumers stay until they are
    /// deleted. Their records stay in the store.
    #[arg(long)]
    pub force: bool,

    /// The namespaces to look at, separated by commas. Without it, all namespaces.
    #[arg(long, env = "OAUTHCONSUMER_NAMESPACES", value_name = "A,B", value_delimiter = ',', value_parser = namespace)]
    pub namespaces: Vec<String>,
}

#[derive(Args)]
pub struct StoreOptions {
    /// The store: sqlite:///PATH for one controller, or postgres://USER@HOST/DATABASE for any number of controllers.
    #[arg(
        long,
        env = "OAUTHCONSUMER_STORE_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "sqlite:///var/lib/oauthconsumer-operator/store.db"
    )]
    pub store_url: String,

    /// A file that holds the store's URL. It is for URLs with a password, and wins over --store-url.
    #[arg(long, env = "OAUTHCONSUMER_STORE_URL_FILE", value_name = "FILE")]
    pub store_url_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct Common {
    #[command(flatten)]
    pub store: StoreOptions,

    /// The address of /livez, /readyz and /metrics.
    #[arg(long, env = "OAUTHCONSUMER_ADMIN_ADDR", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,

    /// The lowest level that is logged: error, warn, info, debug, trace or off. By module: info,oauthconsumer_operator=debug.
    #[arg(long, env = "OAUTHCONSUMER_LOG_LEVEL", value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log_level: String,

    /// How log lines look.
    #[arg(long, env = "OAUTHCONSUMER_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: LogFormat,

    /// The memory that an argon2id hash of a secret takes, in KiB. After you raise it, the next sign-in of a consumer renews its
    /// hash, if the sign-in check may write to the store.
    #[arg(long, env = "OAUTHCONSUMER_HASH_MEMORY", value_name = "KIB", default_value = "19456",
          value_parser = clap::value_parser!(u32).range(19_456..=65_536))]
    pub hash_memory: u32,

    /// The passes that an argon2id hash makes over its memory.
    #[arg(long, env = "OAUTHCONSUMER_HASH_PASSES", value_name = "N", default_value = "2",
          value_parser = clap::value_parser!(u32).range(2..=10))]
    pub hash_passes: u32,
}

#[derive(Args)]
pub struct ControllerOptions {
    /// The namespaces to manage, separated by commas. Without it, all namespaces.
    #[arg(long, env = "OAUTHCONSUMER_NAMESPACES", value_name = "A,B", value_delimiter = ',', value_parser = namespace)]
    pub namespaces: Vec<String>,

    /// The cluster's identity. Without it, the UID of the namespace kube-system. Every key is made from it, so never change it: all
    /// objects would get Ready=False with the reason ForeignKey.
    #[arg(long, env = "OAUTHCONSUMER_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,

    /// The name of this installation. Each record names the installation that manages it. Installations that share a store need
    /// different names.
    #[arg(long, env = "OAUTHCONSUMER_INSTALLATION", value_name = "NAME", default_value = "default")]
    pub installation: String,

    /// Whether the controller tests the policy oauthconsumers-approve of the Helm chart before it honours an approval. When off,
    /// every account that may update a consumer may approve it.
    #[arg(long, env = "OAUTHCONSUMER_APPROVAL_PROOF", value_name = "MODE", default_value = "required",
          value_parser = PossibleValuesParser::new(ApprovalProof::VARIANTS).try_map(|mode| mode.parse::<ApprovalProof>()))]
    pub approval_proof: ApprovalProof,

    /// How often the controller compares all records with all objects, and tells other controllers that it runs; as in 30s or 2m.
    #[arg(long, env = "OAUTHCONSUMER_SWEEP_PERIOD", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub sweep_period: Duration,

    /// The shortest consumer secret that is accepted, in bytes.
    #[arg(long, env = "OAUTHCONSUMER_MIN_SECRET_BYTES", value_name = "BYTES", default_value = "16",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub min_secret_bytes: u16,
}

#[derive(Args)]
pub struct SigninOptions {
    /// The address of /signin.
    #[arg(long, env = "OAUTHCONSUMER_SIGNIN_ADDR", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8080")]
    pub signin_addr: SocketAddr,

    /// The certificate of /signin with its chain, in PEM. It is read again when it changes. Without it, /signin is plain HTTP.
    #[arg(long, env = "OAUTHCONSUMER_SIGNIN_TLS_CERT", value_name = "FILE", requires = "signin_tls_key")]
    pub signin_tls_cert: Option<PathBuf>,

    /// The certificate's private key, in PEM.
    #[arg(long, env = "OAUTHCONSUMER_SIGNIN_TLS_KEY", value_name = "FILE", requires = "signin_tls_cert")]
    pub signin_tls_key: Option<PathBuf>,

    /// How long ago the store may have confirmed that the records in memory are current. No revocation stays unseen for longer.
    #[arg(long, env = "OAUTHCONSUMER_MAX_STALENESS", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub max_staleness: Duration,

    /// How many refused checks a caller may have at once. 10 come back a second. 0 means no limit.
    #[arg(long, env = "OAUTHCONSUMER_MISS_LIMIT_CALLER", value_name = "N", default_value = "50")]
    pub miss_limit_caller: u32,

    /// How many refused checks a caller may have at once with one key. 2 come back a second. 0 means no limit.
    #[arg(long, env = "OAUTHCONSUMER_MISS_LIMIT_KEY", value_name = "N", default_value = "20")]
    pub miss_limit_key: u32,

    /// The gateways' addresses, as in 10.0.0.0/8,192.0.2.7. The check uses X-Forwarded-For only from these. Without them, all
    /// clients behind a gateway share one allowance of refused checks.
    #[arg(long, env = "OAUTHCONSUMER_TRUSTED_PROXIES", value_name = "CIDR,..", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
}

fn consumer_key(text: &str) -> Result<ConsumerKey, String> {
    ConsumerKey::parse(text).map_err(|error| error.to_string())
}

/// The reason of a revocation: the status and a log line show it.
fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_short = (1..=256).contains(&text.chars().count());
    if is_short && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("a reason has 1 to 256 characters, on one line".into())
    }
}

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| "write addresses and networks as in 192.0.2.7 or 10.0.0.0/8".into())
}

/// A DNS label. An empty text is refused, because it would mean all namespaces.
fn namespace(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label =
        (1..=63).contains(&text.len()) && text.bytes().all(is_allowed) && !text.starts_with('-') && !text.ends_with('-');
    if is_label {
        Ok(text.to_owned())
    } else {
        Err("a namespace has 1 to 63 of a-z 0-9 - in its name, and - not at an end".into())
    }
}

/// A word without `=` has to be a level. `EnvFilter` would take any other word for a module, and log nothing of the rest.
fn log_filter(text: &str) -> Result<String, String> {
    let wrong = |part: &&str| part.is_empty() || (!part.contains('=') && part.parse::<LevelFilter>().is_err());
    match text.split(',').find(wrong) {
        Some(part) => Err(format!("{part:?} is none of error, warn, info, debug, trace, off, nor MODULE=LEVEL")),
        None => text.parse::<EnvFilter>().map(|_| text.to_owned()).map_err(|error| error.to_string()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|error| format!("{error}; write it as in 30s or 2m"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if duration >= Duration::from_millis(100) => Ok(duration),
        _ => Err("a duration here is at least 100ms".into()),
    }
}

// === impl StoreOptions ===

impl StoreOptions {
    /// The store's URL, from where it was given.
    pub fn url(&self) -> Result<String, ProgramError> {
        match &self.store_url_file {
            None => Ok(self.store_url.clone()),
            Some(file) => std::fs::read_to_string(file)
                .map(|text| text.trim().to_owned())
                .map_err(|error| ProgramError::StoreUrlFile(file.clone(), error)),
        }
    }
}

// === impl Common ===

impl Common {
    pub fn hash_cost(&self) -> HashCost {
        HashCost { memory: self.hash_memory, passes: self.hash_passes, lanes: 1 }
    }
}

// === impl SigninOptions ===

impl SigninOptions {
    pub fn settings(&self) -> Settings {
        let defaults = Settings::default();
        Settings {
            max_staleness: self.max_staleness,
            misses_by_caller: Rate { burst: self.miss_limit_caller, ..defaults.misses_by_caller },
            misses_by_key: Rate { burst: self.miss_limit_key, ..defaults.misses_by_key },
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }
}
