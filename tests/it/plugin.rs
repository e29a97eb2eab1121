//! `kubectl oauthconsumer`, as it is typed.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use axum::http::StatusCode;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use oauthconsumer_operator::actions::{FIELD_MANAGER, Requests};
use serde_json::json;

use crate::support::{Check, Cluster, Operator, TestStore, eventually, is, kubeconfig, kubectl};

const SECRET: &str = "a secret, long enough for all";

/// What the plugin said, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

struct Plugin<'a>(&'a Cluster);

impl Plugin<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-oauthconsumer"));
        command.args(["--namespace", &self.0.namespace]).args(args).env("KUBECONFIG", kubeconfig());
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Said {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        said(child.wait_with_output().unwrap())
    }

    /// Answers what is said on standard output.
    fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{args:?}: {}{}", said.out, said.err);
        said.out
    }
}

fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// The line of a hand-over note that begins so, without its beginning.
fn noted(note: &str, what: &str) -> String {
    let line = note.lines().find_map(|line| line.trim().strip_prefix(what));
    line.unwrap_or_else(|| panic!("no {what} in {note}")).split_whitespace().next().unwrap().to_owned()
}

async fn comes_to(check: &Check, key: &str, secret: &str, expected: StatusCode) {
    eventually(expected.as_str(), || async { check.status(key, secret).await == expected }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_consumer_is_a_command_for_each_step() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let check = Check::of(store.reader().await).await;
    let plugin = Plugin(&cluster);

    let note = plugin.ok(&["register", "jazz", "--name", "Jazz Team Server", "--new-secret"]);
    let (key, secret) = (noted(&note, "consumer key"), noted(&note, "consumer secret"));
    assert_eq!(check.status(&key, &secret).await, StatusCode::UNAUTHORIZED, "it is not approved yet");
    let explained = plugin.run(&["explain", "jazz"]);
    assert_eq!(explained.code, 3);
    assert!(
        explained.out.contains(&format!("next: kubectl oauthconsumer -n {} approve jazz", cluster.namespace)),
        "{}",
        explained.out
    );

    let approved = plugin.ok(&["approve", "jazz", "--yes"]);
    assert!(approved.ends_with("oauthconsumer/jazz is able to sign in\n"), "{approved}");
    assert_eq!(check.status(&key, &secret).await, StatusCode::OK);
    assert!(plugin.ok(&["explain", "jazz"]).starts_with("jazz (Jazz Team Server) can sign in: Active"));

    let note = plugin.ok(&["edit", "jazz", "--name", "Jazz Archive", "--new-secret", "--yes"]);
    assert_eq!(noted(&note, "consumer key"), key, "the key never changes");
    let rotated = noted(&note, "consumer secret");
    comes_to(&check, &key, &rotated, StatusCode::OK).await;
    assert_eq!(check.status(&key, &secret).await, StatusCode::UNAUTHORIZED);

    plugin.ok(&["hold", "jazz", "--reason", "leaked", "--yes"]);
    comes_to(&check, &key, &rotated, StatusCode::UNAUTHORIZED).await;
    let approved = plugin.run(&["approve", "jazz", "--yes"]);
    assert!(approved.err.contains("is approved already: nothing to do"), "{}", approved.err);
    assert!(cluster.consumers.get("jazz").await.unwrap().spec.hold.is_some(), "an approval lifts no hold");
    plugin.ok(&["release", "jazz", "--yes"]);
    comes_to(&check, &key, &rotated, StatusCode::OK).await;
    plugin.ok(&["disapprove", "jazz", "--yes"]);
    comes_to(&check, &key, &rotated, StatusCode::UNAUTHORIZED).await;

    let made = cluster.secrets.get("jazz-oauth").await.unwrap();
    assert_eq!(made.owner_references()[0].name, "jazz", "it goes with its consumer");
    let object = cluster.consumers.get("jazz").await.unwrap();
    assert!(object.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER)));
    plugin.ok(&["remove", "jazz", "--yes"]);
    assert_eq!(plugin.run(&["explain", "jazz"]).code, 1);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_comes_from_a_file_or_standard_input_and_is_never_an_argument() {
    let cluster = Cluster::new().await;
    let plugin = Plugin(&cluster);
    let register = ["register", "jazz", "--name", "Jazz", "--no-wait", "--secret-file", "-"];
    let said = plugin.run_with_input(&register, &format!("{SECRET}\n"));
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET), "only a secret that was made here is shown");
    let kept = || async {
        let data = cluster.secrets.get("jazz-oauth").await.unwrap().data.unwrap();
        String::from_utf8(data["consumerSecret"].0.clone()).unwrap()
    };
    assert_eq!(kept().await, SECRET, "without the line break of `echo`");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "another secret, long enough").unwrap();
    plugin.ok(&["edit", "jazz", "--secret-file", file.path().to_str().unwrap()]);
    assert_eq!(kept().await, "another secret, long enough");

    let asked = plugin.run(&["register", "blues", "--name", "Blues"]);
    assert!(asked.code == 1 && asked.err.contains("--secret-file or --new-secret"), "{}", asked.err);
    assert!(cluster.consumers.get_opt("blues").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_registration_whose_secret_is_there_already() {
    let cluster = Cluster::new().await;
    cluster.secret("jazz-oauth", SECRET).await;
    let said = Plugin(&cluster).run(&["register", "jazz", "--name", "Jazz", "--new-secret", "--no-wait"]);
    assert!(said.code == 1 && said.err.contains("already exists"), "{}", said.err);
    assert!(cluster.consumers.get_opt("jazz").await.unwrap().is_none());
    Plugin(&cluster).ok(&["register", "jazz", "--name", "Jazz", "--use-secret", "jazz-oauth", "--no-wait"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_yes_and_in_a_dry_run_nothing_is_changed() {
    let cluster = Cluster::new().await;
    let plugin = Plugin(&cluster);
    cluster.consumer("jazz", json!({})).await;
    for command in [&["approve", "jazz"][..], &["hold", "jazz", "--reason", "odd"], &["remove", "jazz"]] {
        let asked = plugin.run(command);
        assert!(asked.code == 1 && asked.err.contains("give --yes"), "{}", asked.err);
        let tried = plugin.ok(&[command, &["--dry-run"]].concat());
        assert!(tried.ends_with("(server dry run)\n"), "{tried}");
    }
    let object = cluster.consumers.get("jazz").await.unwrap();
    assert_eq!((object.spec.approved, object.spec.hold, object.metadata.generation), (None, None, Some(1)));
    plugin.ok(&["register", "blues", "--name", "Blues", "--new-secret", "--dry-run"]);
    assert!(cluster.consumers.get_opt("blues").await.unwrap().is_none());
    assert!(cluster.secrets.get_opt("blues-oauth").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disapproval_by_hand_outlasts_the_tool_that_approves() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("jazz", SECRET).await;
    let sync = || async {
        let manifest = json!({
            "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": "jazz" },
            "spec": { "name": "Jazz", "secretRef": { "name": "jazz", "key": "consumerSecret" }, "approved": true },
        });
        let params = PatchParams::apply("kustomize-controller").force();
        cluster.consumers.patch("jazz", &params, &Patch::Apply(manifest)).await.unwrap();
    };
    sync().await;
    cluster.wait("jazz", "active", is("Active", "True/Active")).await;
    let said = Plugin(&cluster).run(&["disapprove", "jazz", "--yes"]);
    assert!(said.code == 0 && said.err.contains("kustomize-controller sets spec.approved"), "{}{}", said.out, said.err);
    sync().await;
    let held = cluster.wait("jazz", "on hold", is("Active", "False/OnHold")).await;
    assert_eq!(held.spec.approved, Some(true), "the tool has approved it again, and that changed nothing");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_shown_is_not_decided_upon() {
    let cluster = Cluster::new().await;
    let requests = Requests::new(&cluster.client, &cluster.namespace, false);
    cluster.consumer("jazz", json!({})).await;
    let shown = requests.get("jazz").await.unwrap();
    cluster.edit("jazz", json!({ "name": "Another" })).await;
    let refused = requests.change(&shown, &json!({ "approved": true })).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 409), "{refused}");
    assert!(requests.remove(&shown).await.is_err());
    // Another object of the same name, too.
    let shown = requests.get("jazz").await.unwrap();
    requests.remove(&shown).await.unwrap();
    cluster.consumer("jazz", json!({})).await;
    assert!(requests.change(&shown, &json!({ "approved": true })).await.is_err());
    assert_eq!(requests.get("jazz").await.unwrap().spec.approved, None);
    // What the controller writes meanwhile is no other object than the one that was shown.
    let shown = requests.get("jazz").await.unwrap();
    let status = json!({ "status": { "observedGeneration": 1 } });
    cluster.consumers.patch_status("jazz", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    assert_eq!(requests.change(&shown, &json!({ "approved": true })).await.unwrap().spec.approved, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_it_lists_as_usual_and_completes() {
    let cluster = Cluster::new().await;
    cluster.consumer("jazz", json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kubectl-oauthconsumer"), folder.path().join("kubectl-oauthconsumer")).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let listed = Command::new("kubectl")
        .args(["oauthconsumer", "list", "--namespace", &cluster.namespace, "-o", "wide"])
        .env("PATH", &path)
        .env("KUBECONFIG", kubeconfig())
        .output()
        .unwrap();
    let expected = kubectl(&cluster.namespace, &["get", "oauthconsumers", "-o", "wide"]);
    assert_eq!(said(listed).out, said(expected).out);
    let plugin = Plugin(&cluster);
    assert_eq!(plugin.ok(&["__complete", "approve", ""]), "jazz\n:4\n");
    assert_eq!(plugin.ok(&["__complete", "dis"]), "disapprove\n:4\n");
    assert!(plugin.ok(&["__complete", "hold", "--re"]).starts_with("--reason\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_in_the_words_of_the_api_server() {
    let cluster = Cluster::new().await;
    cluster.consumer("jazz", json!({})).await;
    let said = Plugin(&cluster).run(&["approve", "jazz", "--yes", "--as", "mallory"]);
    assert!(said.code == 1 && said.err.contains(r#"User "mallory" cannot get resource "oauthconsumers""#), "{}", said.err);
    let said = Plugin(&cluster).run(&["hold", "jazz", "--reason", "  ", "--yes"]);
    assert!(said.code == 1 && said.err.contains("spec.hold.reason"), "{}", said.err);
}
