//! Flux's kustomize-controller, on this machine, and a repository for it that takes no Git.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::http::Uri;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{TEAM, eventually, get, kubectl, run, succeed};

const TEAM_A: &str = "examples/gitops/flux/team-a.yaml";
const CONSUMERS: &str = "examples/gitops/consumers";

/// What `team-a.yaml` makes: an account, a source, and what is applied from the one by the other.
pub const ACCOUNT: &str = "system:serviceaccount:team-a:flux";
const SOURCE: &str = "team-a";
const KUSTOMIZATION: &str = "consumers";

/// Flux at work on the examples. It ends with the test.
pub struct Flux {
    /// The repository's files.
    pub folder: TempDir,
    /// What the source-controller would make of them: an archive of each commit, ...
    archives: TempDir,
    /// ... to be had here.
    url: String,
    commits: u32,
    syncs: u32,
    controller: Child,
    log: PathBuf,
}

fn kustomization() -> Value {
    get(TEAM, "kustomization", KUSTOMIZATION)
}

// === impl Flux ===

impl Flux {
    pub async fn start() -> Self {
        let programs = succeed("dev/controlplane/binaries.sh", &["kustomize-controller"], "");
        let programs = programs.trim();
        kubectl(&["apply", "--server-side", "-f", &format!("{programs}/crds")]);
        let crds = ["crd/gitrepositories.source.toolkit.fluxcd.io", "crd/kustomizations.kustomize.toolkit.fluxcd.io"];
        kubectl(&[&["wait", "--for=condition=Established", "--timeout=60s"], &crds[..]].concat());

        let (folder, archives) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let served = archives.path().to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = move |uri: Uri| std::future::ready(std::fs::read(served.join(&uri.path()[1..])).unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });

        succeed("cp", &["-r", CONSUMERS, &format!("{}/consumers", folder.path().display())], "");

        let log = PathBuf::from(std::env::var("DEV_CLUSTER_DIR").unwrap()).join("kustomize-controller.log");
        let output = File::create(&log).unwrap();
        // With the thread that started it, however that ends.
        let controller = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", &format!("{programs}/kustomize-controller"), "--watch-all-namespaces"])
            .args(["--metrics-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0"])
            .env("RUNTIME_NAMESPACE", "flux-system")
            .env("KUBECONFIG", std::env::var("OAUTHCONSUMER_TEST_CLUSTER").unwrap())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        kubectl(&["apply", "-f", TEAM_A]);
        let mut flux = Self { folder, archives, url, commits: 0, syncs: 0, controller, log };
        flux.commit();
        flux
    }

    /// Changes a file of the repository, without a commit.
    pub fn edit(&self, file: &str, change: impl FnOnce(&str) -> String) {
        let path = self.folder.path().join(file);
        let changed = change(&std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, changed).unwrap();
    }

    /// Makes the files as they are now what Flux is to apply, as the source-controller does.
    pub fn commit(&mut self) {
        self.commits += 1;
        let name = format!("{}.tar.gz", self.commits);
        let (from, to) = (self.folder.path().display().to_string(), self.archives.path().join(&name).display().to_string());
        succeed("tar", &["-C", &from, "-czf", &to, "."], "");
        let digest = succeed("sha256sum", &[&to], "");
        let now = Timestamp::now().strftime("%FT%TZ").to_string();
        let ready =
            json!({ "type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored", "lastTransitionTime": now });
        let artifact = json!({
            "path": name, "url": format!("{}/{name}", self.url), "revision": self.revision(),
            "digest": format!("sha256:{}", &digest[..64]), "lastUpdateTime": now,
        });
        let status = json!({ "status": { "observedGeneration": 1, "conditions": [ready], "artifact": artifact } });
        let patch = status.to_string();
        kubectl(&["-n", TEAM, "patch", "gitrepository", SOURCE, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    fn revision(&self) -> String {
        format!("main@sha1:{:040}", self.commits)
    }

    /// Waits until the last commit is applied, and all that is in it is healthy.
    pub fn is_ready(&self) {
        eventually("Flux is ready", || {
            kustomization()["status"]["lastAppliedRevision"] == self.revision().as_str() && self.says("Ready").0 == "True"
        });
    }

    /// Waits until the last commit is applied, and something in it not healthy.
    pub fn is_waiting(&self) {
        eventually("Flux is checking health", || self.says("Healthy").0 == "Unknown");
    }

    /// Waits until the last commit has been tried in vain. Answers why.
    pub fn is_not_ready(&self) -> String {
        eventually("Flux has failed", || self.says("Ready").0 == "False");
        self.says("Ready").1
    }

    /// A condition's status and message, since the last commit was tried.
    fn says(&self, kind: &str) -> (String, String) {
        let status = kustomization()["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
        let is_tried = status["lastAttemptedRevision"] == self.revision().as_str();
        let text = |field: &str| found[field].as_str().filter(|_| is_tried).unwrap_or_default().to_owned();
        (text("status"), text("message"))
    }

    /// Lets Flux apply everything once more, as it does by itself every few minutes.
    pub fn sync(&mut self) {
        self.syncs += 1;
        let wanted = self.syncs.to_string();
        let request = format!("reconcile.fluxcd.io/requestedAt={wanted}");
        kubectl(&["-n", TEAM, "annotate", "--overwrite", "kustomization", KUSTOMIZATION, &request]);
        eventually("Flux has synced", || kustomization()["status"]["lastHandledReconcileAt"] == wanted.as_str());
    }

    /// Has Flux remove all that it has applied.
    pub fn uninstall(&self) {
        kubectl(&["-n", TEAM, "delete", "kustomization", KUSTOMIZATION, "--timeout=60s"]);
    }
}

impl Drop for Flux {
    fn drop(&mut self) {
        self.controller.kill().unwrap();
        self.controller.wait().unwrap();
        // Nobody is there any more to take it off, and the namespace is to go.
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        run("kubectl", &["-n", TEAM, "patch", "kustomization", KUSTOMIZATION, "--type=merge", "-p", patch], "");
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("kustomize-controller:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}
