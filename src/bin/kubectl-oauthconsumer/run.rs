//! The commands.

use std::process::{self, ExitCode};

use clap::CommandFactory;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Client, Config, ResourceExt};
use oauthconsumer_operator::actions::{Action, Registration, Requests, WriteSecret, explain, plan, suggest_secret};
use oauthconsumer_operator::api::{OAuthConsumer, SecretReference};
use oauthconsumer_operator::controller::message;
use tokio::time::timeout;

use crate::check::{self, Answer};
use crate::cli::{Cli, Command, Connection, EditOptions, How, ListOptions, Output, RegisterOptions};
use crate::prompt;

/// The answer is no.
pub const NO: u8 = 3;

const NOT_CONFIRMED: u8 = 4;

type Outcome = Result<ExitCode, String>;

/// What a command needs to talk to the API server, and how it does it.
struct Session {
    requests: Requests,
    namespace: String,
    how: How,
}

pub async fn run(cli: Cli) -> Outcome {
    let connection = cli.connection;
    let act = async |objects: Vec<String>, how: How, action: Action| {
        let session = Session::open(&connection, how).await?;
        session.act_on_all(&objects, &action).await
    };
    match cli.command {
        Command::List(options) => list(&connection, &options),
        Command::Register(options) => register(&connection, options).await,
        Command::Edit(options) => edit(&connection, options).await,
        Command::Approve(options) => act(options.objects, options.how, Action::Approve).await,
        Command::Disapprove(options) => act(options.objects, options.how, Action::Disapprove).await,
        Command::Hold(options) => act(options.objects, options.how, Action::Hold { reason: options.reason }).await,
        Command::Release(options) => act(options.objects, options.how, Action::Release).await,
        Command::Remove(options) => act(options.objects, options.how, Action::Remove).await,
        Command::Check(options) => {
            let session = Session::open(&connection, How::default()).await?;
            let object = session.get(&options.object).await?;
            let secret = match &options.secret_file {
                Some(file) => prompt::secret_from(file)?,
                None => session.secret(&object).await?,
            };
            let answer = check::sign_in(&connection, &options, &object, &secret)?;
            println!("{} ({}): {}", object.name_any(), object.spec.name, answer.said());
            Ok(if answer == Answer::Refused { tell(&object) } else { answer.code() })
        }
        Command::Explain(options) => {
            let session = Session::open(&connection, How::default()).await?;
            Ok(tell(&session.get(&options.object).await?))
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kubectl-oauthconsumer", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Complete { words } => Ok(complete(&connection, &words).await),
    }
}

/// kubectl prints the server's table, and knows all the formats.
fn list(connection: &Connection, options: &ListOptions) -> Outcome {
    let mut kubectl = process::Command::new("kubectl");
    kubectl.args(["get", "oauthconsumers.oauthconsumers.dev"]).args(connection.as_flags());
    if options.all_namespaces {
        kubectl.arg("--all-namespaces");
    }
    if options.watch {
        kubectl.arg("--watch");
    }
    for (flag, value) in [("--selector", &options.selector), ("--output", &options.output)] {
        kubectl.args(value.iter().flat_map(|value| [flag, value]));
    }
    let status = kubectl.status().map_err(|error| format!("kubectl cannot be run: {error}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn register(connection: &Connection, options: RegisterOptions) -> Outcome {
    let session = Session::open(connection, options.how).await?;
    let secret = match (&options.use_secret, &options.secret.secret_file) {
        (Some(_), _) => None,
        (None, Some(file)) => Some(prompt::secret_from(file)?),
        (None, None) if options.secret.new_secret => Some(suggest_secret()),
        (None, None) => Some(prompt::secret()?),
    };
    let secret_ref = SecretReference {
        name: options.use_secret.unwrap_or_else(|| format!("{}-oauth", options.object)),
        key: options.secret_key,
    };
    let new = Registration { object: options.object, name: options.name, secret_ref };
    let write = secret.as_deref().map_or(WriteSecret::Leave, WriteSecret::Set);
    let made = session.requests.register(new, write).await.map_err(|error| refusal("register", &error))?;
    session.say("registered", &made)?;
    if session.how.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let seen = session.wait(&made, has_key, "registered").await?;
    if session.how.output.is_none() {
        hand_over(seen.as_ref().unwrap_or(&made), secret.filter(|_| options.secret.new_secret).as_deref());
    }
    Ok(if seen.is_some() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

async fn edit(connection: &Connection, options: EditOptions) -> Outcome {
    let session = Session::open(connection, options.how).await?;
    let mut object = session.get(&options.object).await?;
    let secret = match &options.secret_file {
        Some(file) => Some(prompt::secret_from(file)?),
        None if options.new_secret => Some(suggest_secret()),
        None if options.secret => Some(prompt::secret()?),
        None => None,
    };
    if let Some(name) = options.name {
        match session.act(&object, &Action::Rename { name }).await? {
            Some(renamed) => object = renamed,
            None => return Ok(ExitCode::from(NOT_CONFIRMED)),
        }
    }
    if let Some(value) = &secret {
        let set = session.requests.set_secret(&object, value).await;
        set.map_err(|error| refusal(&format!("change the Secret {}", object.spec.secret_ref.name), &error))?;
        if session.how.output.is_none() {
            println!(
                "The secret of {} is changed. The old one is refused as soon as the controller has seen it.",
                object.name_any()
            );
        }
    }
    if session.how.output.is_none() {
        hand_over(&object, secret.filter(|_| options.new_secret).as_deref());
    }
    Ok(ExitCode::SUCCESS)
}

/// What the consumer's owner has to know. A secret that was made here is shown here and never again.
fn hand_over(object: &OAuthConsumer, new_secret: Option<&str>) {
    let key = object.status.as_ref().and_then(|status| status.consumer_key.as_deref()).unwrap_or("(not given yet)");
    println!("\nFor the owner of {}:", object.spec.name);
    println!("  consumer key     {key}");
    match new_secret {
        Some(secret) => println!("  consumer secret  {secret}    (shown once: keep it now)"),
        None => println!("  consumer secret  as agreed; it is in the Secret {}", object.spec.secret_ref.name),
    }
    println!("  to sign in       HTTP Basic: the key is the user name, the secret is the password");
}

/// Says whether it can sign in, why not, and what to type next.
fn tell(object: &OAuthConsumer) -> ExitCode {
    let explained = explain(object);
    let can = if explained.can_sign_in { "can sign in" } else { "cannot sign in" };
    println!("{} ({}) {can}: {}", object.name_any(), object.spec.name, explained.reason);
    if !explained.can_sign_in {
        println!("  {}", explained.why);
    }
    if let Some(since) = explained.since {
        println!("  since {since:.0}");
    }
    if let Some(decision) = object.status.as_ref().and_then(|status| status.decision.as_ref()) {
        let what = if decision.approved { "approved" } else { "disapproved" };
        println!("  {what} by {}, {:.0}", decision.by.as_deref().unwrap_or("a user that was not recorded"), decision.at.0);
    }
    for (first, command) in explained.next.iter().enumerate().map(|(i, command)| (i == 0, command)) {
        println!("  {} {command}", if first { "next:" } else { "     " });
    }
    if explained.can_sign_in { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

/// kubectl runs `kubectl_complete-oauthconsumer WORD...`, and takes one candidate a line and `:4` (no file names) from it.
async fn complete(connection: &Connection, words: &[String]) -> ExitCode {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let root = Cli::command();
    let command = before.iter().find_map(|word| root.find_subcommand(word));
    let mut candidates: Vec<String> = match command {
        None => root.get_subcommands().filter(|command| !command.is_hide_set()).map(|c| c.get_name().to_owned()).collect(),
        Some(command) if last.starts_with('-') => {
            let flags = command.get_arguments().chain(root.get_arguments()).filter_map(|argument| argument.get_long());
            flags.map(|flag| format!("--{flag}")).collect()
        }
        Some(_) => match Session::open(connection, How::default()).await {
            Ok(session) => session.names().await,
            Err(_) => Vec::new(),
        },
    };
    candidates.retain(|candidate| candidate.starts_with(last));
    for candidate in candidates {
        println!("{candidate}");
    }
    println!(":4");
    ExitCode::SUCCESS
}

// === impl Session ===

impl Session {
    async fn open(connection: &Connection, how: How) -> Result<Self, String> {
        let unusable = |error: &dyn std::fmt::Display| format!("the kubeconfig cannot be used: {error}");
        let options = KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &connection.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        }
        .map_err(|error| unusable(&error))?;
        if connection.as_user.is_some() {
            config.auth_info.impersonate.clone_from(&connection.as_user);
            config.auth_info.impersonate_groups = Some(connection.as_group.clone()).filter(|groups| !groups.is_empty());
        }
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { requests: Requests::new(&client, &namespace, how.dry_run), namespace, how })
    }

    async fn get(&self, name: &str) -> Result<OAuthConsumer, String> {
        self.requests.get(name).await.map_err(|error| refusal(&format!("read {name} in {}", self.namespace), &error))
    }

    /// The value in the consumer's Secret.
    async fn secret(&self, object: &OAuthConsumer) -> Result<String, String> {
        let reference = &object.spec.secret_ref;
        let what = format!("read the Secret {} (or give --secret-file)", reference.name);
        let value = self.requests.secret(object).await.map_err(|error| refusal(&what, &error))?;
        value.ok_or_else(|| format!("the Secret {} has no text under the key {}", reference.name, reference.key))
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.requests.consumers().list_metadata(&kube::api::ListParams::default()).await;
        listed.map(|list| list.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
    }

    /// One after the other, so that each is confirmed for itself; stops at the first that fails.
    async fn act_on_all(&self, names: &[String], action: &Action) -> Outcome {
        let mut code = ExitCode::SUCCESS;
        for name in names {
            let object = self.get(name).await?;
            let Some(changed) = self.act(&object, action).await? else {
                code = ExitCode::from(NOT_CONFIRMED);
                continue;
            };
            if self.how.dry_run {
                continue;
            }
            let is_waited_for = match action {
                Action::Approve | Action::Release => {
                    let expected = changed.spec.hold.is_none() && changed.spec.approved == Some(true);
                    !expected || self.wait(&changed, is_active, "able to sign in").await?.is_some()
                }
                Action::Disapprove | Action::Hold { .. } => {
                    self.wait(&changed, is_refused, "refused everywhere").await?.is_some()
                }
                Action::Remove => self.wait(&changed, is_gone, "gone").await?.is_some(),
                Action::Rename { .. } => true,
            };
            if !is_waited_for {
                code = ExitCode::from(NO);
            }
        }
        Ok(code)
    }

    /// Confirms and changes the object that was shown. None if the person says no.
    async fn act(&self, shown: &OAuthConsumer, action: &Action) -> Result<Option<OAuthConsumer>, String> {
        let planned = plan(action, shown)?;
        for note in &planned.notes {
            eprintln!("{note}");
        }
        if planned.spec.is_none() && *action != Action::Remove {
            eprintln!("{}: nothing to do", planned.effect);
            return Ok(Some(shown.clone()));
        }
        if !self.how.yes && !self.how.dry_run && !prompt::confirmed(&format!("{}. Go on?", planned.effect))? {
            return Ok(None);
        }
        let (verb, done) = action.words();
        let refused = |error| refusal(&format!("{verb} {}", shown.name_any()), &error);
        let changed = if let Some(spec) = planned.spec {
            self.requests.change(shown, &spec).await.map_err(refused)?
        } else {
            self.requests.remove(shown).await.map_err(refused)?;
            shown.clone()
        };
        self.say(done, &changed)?;
        Ok(Some(changed))
    }

    fn say(&self, done: &str, object: &OAuthConsumer) -> Result<(), String> {
        let name = object.name_any();
        match self.how.output {
            None => println!("oauthconsumer/{name} {done}{}", if self.how.dry_run { " (server dry run)" } else { "" }),
            Some(Output::Name) => println!("oauthconsumer.oauthconsumers.dev/{name}"),
            Some(Output::Json) => println!("{}", serde_json::to_string_pretty(object).map_err(|error| error.to_string())?),
            Some(Output::Yaml) => print!("---\n{}", serde_yaml::to_string(object).map_err(|error| error.to_string())?),
        }
        Ok(())
    }

    /// Waits until the controller has done its part. None if it has not in time, which is said.
    async fn wait(
        &self,
        changed: &OAuthConsumer,
        is_done: fn(&OAuthConsumer, Option<&OAuthConsumer>) -> bool,
        what: &str,
    ) -> Result<Option<OAuthConsumer>, String> {
        if self.how.no_wait {
            return Ok(Some(changed.clone()));
        }
        let name = changed.name_any();
        let waiting =
            await_condition(self.requests.consumers().clone(), &name, |now: Option<&OAuthConsumer>| is_done(changed, now));
        match timeout(self.how.timeout, waiting).await {
            Ok(Ok(seen)) => {
                if self.how.output.is_none() {
                    println!("oauthconsumer/{name} is {what}");
                }
                Ok(Some(seen.unwrap_or_else(|| changed.clone())))
            }
            Ok(Err(error)) => Err(format!("{name} cannot be watched: {error}")),
            Err(_) => {
                let timeout = self.how.timeout.as_secs();
                eprintln!(
                    "oauthconsumer/{name} is not {what} after {timeout} s. Type: kubectl oauthconsumer -n {} explain {name}",
                    self.namespace
                );
                Ok(None)
            }
        }
    }
}

fn has_key(_: &OAuthConsumer, now: Option<&OAuthConsumer>) -> bool {
    now.and_then(|now| now.status.as_ref()).is_some_and(|status| status.consumer_key.is_some())
}

fn is_active(changed: &OAuthConsumer, now: Option<&OAuthConsumer>) -> bool {
    now.is_none_or(|now| now.metadata.generation >= changed.metadata.generation && explain(now).can_sign_in)
}

/// The status speaks of this change, and says no.
fn is_refused(changed: &OAuthConsumer, now: Option<&OAuthConsumer>) -> bool {
    now.is_none_or(|now| {
        let explained = explain(now);
        now.metadata.generation >= changed.metadata.generation && !explained.can_sign_in && explained.since.is_some()
    })
}

fn is_gone(changed: &OAuthConsumer, now: Option<&OAuthConsumer>) -> bool {
    now.is_none_or(|now| now.uid() != changed.uid())
}

/// What the API server said, and what to do where it is not plain from that.
fn refusal(what: &str, error: &kube::Error) -> String {
    let advice = match error {
        kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict" => {
            "\nIt has changed since it was shown. Look at it again, and repeat the command."
        }
        _ => "",
    };
    format!("failed to {what}: {}{advice}", message(error))
}
