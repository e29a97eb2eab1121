//! The command line of the plugin. Flags that kubectl has are named as there.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "Exit codes:
  0  done, or what was asked is so
  1  failed: refused by the API server, not found, changed meanwhile, not reachable
  2  a mistake in the command line
  3  the answer is no: it cannot sign in (check, explain), or not yet (register, approve, release)
  4  not confirmed: nothing was changed";

/// Registers, approves and stops OAuth consumers, with your own permissions.
#[derive(Parser)]
#[command(name = "kubectl oauthconsumer", bin_name = "kubectl oauthconsumer", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// What kubectl's flags of these names mean.
#[derive(Args, Clone)]
#[command(next_help_heading = "Flags of kubectl")]
pub struct Connection {
    /// The namespace; unless given, that of the context
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,

    /// The kubeconfig; unless given, $KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Acts as this user
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,

    /// Acts as a member of this group; may be given more than once
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "as_user")]
    pub as_group: Vec<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Shows consumers, as `kubectl get oauthconsumers` does
    #[command(after_help = "Examples:
  kubectl oauthconsumer list -n team-a
  kubectl oauthconsumer list -A -o wide")]
    List(ListOptions),

    /// Registers a consumer and makes its Secret. It cannot sign in until it is approved
    #[command(after_help = "Examples:
  kubectl oauthconsumer register jazz --name 'Jazz Team Server'                   # asks for the secret, twice
  kubectl oauthconsumer register jazz --name 'Jazz Team Server' --new-secret      # makes one and shows it once
  kubectl oauthconsumer register jazz --name 'Jazz Team Server' --secret-file jazz.secret
  kubectl oauthconsumer register jazz --name 'Jazz Team Server' --use-secret jazz-oauth")]
    Register(RegisterOptions),

    /// Changes the name or the secret. The key stays, and so does the approval
    #[command(after_help = "Examples:
  kubectl oauthconsumer edit jazz --name 'Jazz Archive'
  kubectl oauthconsumer edit jazz --new-secret
  openssl rand -hex 32 | kubectl oauthconsumer edit jazz --secret-file -")]
    Edit(EditOptions),

    /// Allows sign-in. Needs the verb approve. Does not lift a hold
    #[command(after_help = "Examples:
  kubectl oauthconsumer approve jazz
  kubectl oauthconsumer approve jazz blues --yes --timeout 30s")]
    Approve(ChangeOptions),

    /// Ends sign-in at once. Where a tool such as Flux sets spec.approved, a hold is set, too
    Disapprove(ChangeOptions),

    /// Ends sign-in at once, until an approver releases it. No pipeline lifts a hold
    #[command(after_help = "Example:
  kubectl oauthconsumer hold jazz --reason 'leaked, INC-1234'")]
    Hold(HoldOptions),

    /// Lifts a hold. Needs the verb approve
    Release(ChangeOptions),

    /// Removes a consumer. Its key is refused for good
    Remove(ChangeOptions),

    /// Signs in as the consumer does, with its key and secret, and says what came of it
    #[command(after_help = "Examples:
  kubectl oauthconsumer check jazz                          # through a port-forward to the sign-in check, found by its labels
  kubectl oauthconsumer check jazz --service oauth/oauth-signin
  kubectl oauthconsumer check jazz --url https://api.example.com/ --secret-file jazz.secret")]
    Check(CheckOptions),

    /// Says whether a consumer can sign in, why not, and what to type next
    Explain(ExplainOptions),

    /// Prints a completion script for your shell. Put `kubectl_complete-oauthconsumer` into the PATH for `kubectl oauthconsumer`
    Completion { shell: clap_complete::Shell },

    /// What kubectl asks when Tab is pressed
    #[command(name = "__complete", hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    Complete { words: Vec<String> },
}

#[derive(Args)]
pub struct ListOptions {
    /// Looks in all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Only those with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// As in kubectl: wide, name, json, yaml, jsonpath=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,

    /// Goes on showing what changes
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Args)]
pub struct RegisterOptions {
    /// The object's name
    pub object: String,

    /// The consumer name that people see
    #[arg(long, value_name = "TEXT")]
    pub name: String,

    /// Refers to this Secret, which is there or comes from elsewhere
    #[arg(long, value_name = "SECRET", conflicts_with_all = ["new_secret", "secret_file"])]
    pub use_secret: Option<String>,

    /// The data key in the Secret
    #[arg(long, value_name = "KEY", default_value = "consumerSecret")]
    pub secret_key: String,

    #[command(flatten)]
    pub secret: SecretOptions,

    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct EditOptions {
    /// The object's name
    pub object: String,

    /// Another consumer name. Of an approved consumer only an approver may change it
    #[arg(long, value_name = "TEXT", group = "change")]
    pub name: Option<String>,

    /// Asks for another secret, twice
    #[arg(long, group = "change", conflicts_with_all = ["new_secret", "secret_file"])]
    pub secret: bool,

    /// Makes another secret and shows it once
    #[arg(long, group = "change", conflicts_with = "secret_file")]
    pub new_secret: bool,

    /// Takes another secret from a file, or from standard input with `-`. A line break at its end is left out
    #[arg(long, value_name = "FILE", group = "change")]
    pub secret_file: Option<PathBuf>,

    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
pub struct SecretOptions {
    /// Makes a secret and shows it once
    #[arg(long, conflicts_with = "secret_file")]
    pub new_secret: bool,

    /// Takes the secret from a file, or from standard input with `-`. A line break at its end is left out
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct ChangeOptions {
    /// The objects' names
    #[arg(required = true)]
    pub objects: Vec<String>,

    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
pub struct HoldOptions {
    /// The objects' names
    #[arg(required = true)]
    pub objects: Vec<String>,

    /// Why, for the people who look at it
    #[arg(long, value_name = "TEXT")]
    pub reason: String,

    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
pub struct CheckOptions {
    /// The object's name
    pub object: String,

    /// Where to sign in: the gateway, or the sign-in check itself
    #[arg(long, value_name = "URL", conflicts_with = "service")]
    pub url: Option<String>,

    /// The Service of the sign-in check
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<String>,

    /// The secret, from a file, or from standard input with `-`; unless given, it is read from the Secret
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct ExplainOptions {
    /// The object's name
    pub object: String,
}

#[derive(Args, Default)]
pub struct How {
    /// Does not ask
    #[arg(short, long)]
    pub yes: bool,

    /// Asks the API server what it would say, and changes nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Does not wait until the controller has done its part
    #[arg(long)]
    pub no_wait: bool,

    /// How long to wait for that
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,

    /// What to print instead of sentences
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Json,
    Yaml,
    Name,
}

// === impl Connection ===

impl Connection {
    /// The same flags, for kubectl.
    pub fn as_flags(&self) -> Vec<String> {
        let namespace = self.namespace.iter().map(|namespace| format!("--namespace={namespace}"));
        namespace.chain(self.for_another_namespace()).collect()
    }

    /// The same but for the namespace.
    pub fn for_another_namespace(&self) -> Vec<String> {
        let file = self.kubeconfig.as_ref().map(|file| file.display().to_string());
        let given = [("--context", &self.context), ("--kubeconfig", &file), ("--as", &self.as_user)];
        let once = given.into_iter().filter_map(|(flag, value)| Some(format!("{flag}={}", value.as_ref()?)));
        once.chain(self.as_group.iter().map(|group| format!("--as-group={group}"))).collect()
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    parsed.try_into().map_err(|_| "a time to wait cannot be negative".to_owned())
}
