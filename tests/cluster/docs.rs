//! The commands of the documentation, run as they are written: block after block of a page in one shell, with the oldest
//! kubectl that is supported.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Instant, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::pages::{Block, Page, Use};
use crate::support::{Check, Cluster, Postgres, everything, get, helm, key_of, kubeconfig, succeed, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How long all commands of a page may take, in seconds. Only failures take this long.
const PATIENCE: &str = "300";

/// What a page ends with, unless a command has ended the shell before.
const COMPLETE: &str = "all commands were run";

/// A cluster in the state that a page begins with, and a copy of the checkout to work in.
struct World {
    _cluster: Cluster,
    postgres: Option<Postgres>,
    folder: TempDir,
}

macro_rules! pages {
    ($($name:ident: $path:literal,)+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let page = Page::read($path);
            World::new(page.world.as_deref().unwrap()).await.run(&page);
        })+
    };
}

pages! {
    readme: "README.md",
    tutorial: "docs/tutorial.md",
    approvers: "docs/how-to/approvers.md",
    backup: "docs/how-to/backup.md",
    gateway: "docs/how-to/gateway.md",
    gitops: "docs/how-to/gitops.md",
    harden: "docs/how-to/harden.md",
    install: "docs/how-to/install.md",
    installations: "docs/how-to/installations.md",
    monitor: "docs/how-to/monitor.md",
    postgres: "docs/how-to/postgres.md",
    stop: "docs/how-to/stop.md",
    troubleshoot: "docs/how-to/troubleshoot.md",
    uninstall: "docs/how-to/uninstall.md",
    upgrade: "docs/how-to/upgrade.md",
    permissions: "docs/reference/permissions.md",
    resource: "docs/reference/resource.md",
    signin: "docs/reference/signin.md",
    store: "docs/reference/store.md",
    chart: "charts/oauthconsumer-operator/README.md",
    approval: "docs/explanation/approval.md",
}

#[tokio::test(flavor = "multi_thread")]
async fn the_notes_of_an_installation() {
    let world = World::new("installed").await;
    world.run(&of_notes(&helm(&["get", "notes", "oauth", "--namespace", "oauth"])));
    wait_for("team-a", "jazz", "Active", "True/Active");
    let secret = get("team-a", "secret", "jazz-oauth")["data"]["consumerSecret"].clone();
    let secret = String::from_utf8(STANDARD.decode(secret.as_str().unwrap()).unwrap()).unwrap();
    Check::of("oauth", "oauth").answers(&key_of("team-a", "jazz"), &secret, 200);
}

// === impl World ===

impl World {
    async fn new(name: &str) -> Self {
        let cluster = Cluster::alone().await;
        let began = Instant::now();
        let postgres = if name == "postgres" { Some(Postgres::new().await) } else { None };
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("checkout")).unwrap();
        for entry in fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap().file_name()) {
            let (from, to) = (Path::new(ROOT).join(&entry), folder.path().join("checkout").join(&entry));
            if entry == "target" {
                std::os::unix::fs::symlink(from, to).unwrap();
            } else if entry != ".git" {
                succeed("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()], "");
            }
        }
        // A page may name another context or user.
        fs::copy(kubeconfig(), folder.path().join("kubeconfig")).unwrap();
        let world = Self { _cluster: cluster, postgres, folder };
        let worlds = format!("{ROOT}/tests/cluster/docs/worlds.sh");
        let output = world.bash(&format!("set -euo pipefail; . {worlds}; {name}"), "world");
        assert!(output.is_ok(), "the world {name:?} cannot be made:\n{}", output.unwrap_err());
        println!("{:.1} s for the world {name:?}", began.elapsed().as_secs_f64());
        world
    }

    fn run(&self, page: &Page) {
        assert!(page.has_commands(), "{} has no commands", page.path);
        let began = Instant::now();
        let output = self.bash(&script(page), &page.path);
        println!("{:.1} s for {}", began.elapsed().as_secs_f64(), page.path);
        match output {
            Ok(said) if said.ends_with(&format!("{COMPLETE}\n")) => println!("{said}"),
            Ok(said) | Err(said) => panic!("{}\n{}", failure(page, &said), everything("oauth")),
        }
    }

    /// Runs a script, whose name is part of what bash says of it; answers what everything in it has said.
    fn bash(&self, script: &str, name: &str) -> Result<String, String> {
        let folder = self.folder.path();
        let scripts = folder.join("scripts");
        let (file, output) = (scripts.join(name), folder.join("output"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, script).unwrap();
        let oldest = succeed("dev/controlplane/binaries.sh", &["oldest/kubectl"], "");
        let path = format!("{}:{}", oldest.trim(), std::env::var("PATH").unwrap());
        // In the node's network: a page may take any port that a reader has free.
        let node = format!("--net={}", std::env::var("DEV_CLUSTER_NETNS").unwrap());
        // timeout: and all that is still running in the background.
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", PATIENCE, "nsenter", &node, "bash"]).arg(&file);
        command.current_dir(folder.join("checkout")).env("PATH", path).env("KUBECONFIG", folder.join("kubeconfig"));
        if let Some(postgres) = &self.postgres {
            command.env("DATABASE_URL", &postgres.proxy.url);
        }
        let said = File::create(&output).unwrap();
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let status = command.status().unwrap();
        let said = String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
        if status.success() { Ok(said) } else { Err(format!("{said}\n{status}")) }
    }
}

/// A page as a script with the same numbers of lines, so that bash says where on the page something is wrong.
fn script(page: &Page) -> String {
    let length = page.blocks.last().map_or(1, |block| block.line + block.text.lines().count());
    let mut lines = vec![String::new(); length];
    lines[0] = format!("set -euo pipefail; . {ROOT}/tests/cluster/docs/page.sh");
    for block in &page.blocks {
        let line = block.line;
        let (before, after) = match page.use_of(block) {
            Use::Run => (format!("begin {line}"), "end $?"),
            Use::Refused => (format!("begin_refused {line}"), "end_refused $?"),
            Use::Query => (format!(r#"begin {line}; psql -qv ON_ERROR_STOP=1 "$DATABASE_URL" <<'END-OF-SQL'"#), "END-OF-SQL"),
            Use::WrittenTo(file) => (format!("begin {line}; cat >{file} <<'END-OF-FILE'"), "END-OF-FILE"),
            Use::Read => continue,
        };
        // They take the place of the fences, or of the empty lines of Helm's notes.
        let (first, count) = (line - 1, block.text.lines().count());
        lines[first - 1] = format!("{}; {before}", lines[first - 1]);
        lines[first + count] = after.into();
        lines.splice(first..first + count, block.text.lines().map(ToOwned::to_owned));
    }
    lines.push(format!("echo {COMPLETE}"));
    lines.iter().map(|line| line.strip_prefix("; ").unwrap_or(line).to_owned() + "\n").collect()
}

/// Which block failed, when, and what it said.
fn failure(page: &Page, output: &str) -> String {
    let (_, last) = output.rsplit_once('\u{1e}').unwrap_or_default();
    let (began, said) = last.split_once('\n').unwrap_or(("", output));
    let (line, began) = began.split_once(' ').unwrap_or_default();
    let block = page.blocks.iter().find(|block| block.line.to_string() == line).map_or("", |block| &block.text);
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let took = now - began.parse().unwrap_or(now);
    format!("{}:{line}: failed after {took:.1} s:\n{block}\nIt said:\n{said}", page.path)
}

/// What Helm prints, which is no Markdown: a paragraph in which every line begins with two spaces is something to type,
/// except an address.
fn of_notes(notes: &str) -> Page {
    let lines: Vec<_> = notes.lines().collect();
    let mut blocks = Vec::new();
    let mut line = 1;
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let typed: Option<Vec<_>> = paragraph.iter().map(|line| line.strip_prefix("  ")).collect();
        let typed = typed.unwrap_or_default().join("\n");
        if !typed.is_empty() && !typed.starts_with("http") {
            blocks.push(Block { line, language: Some("sh".into()), text: typed + "\n" });
        }
        line += paragraph.len() + 1;
    }
    Page { path: "charts/oauthconsumer-operator/templates/NOTES.txt".into(), world: None, blocks }
}

#[test]
fn what_is_wrong_on_a_page_is_found() {
    let folder = tempfile::tempdir().unwrap();
    // What comes after the page's first line, which is there for the world, and before a last one that succeeds.
    let run = |blocks: &str| {
        let page = Page::new("a/page.md", &format!("<!-- commands: a world -->\n{blocks}\n```sh\necho the last block\n```\n"));
        let output = Command::new("bash").args(["-c", &script(&page)]).current_dir(&folder).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        if output.status.success() { said } else { failure(&page, &said) }
    };
    let is_good = |blocks: &str| {
        let said = run(blocks);
        assert!(said.contains("the last block") && said.ends_with(&format!("{COMPLETE}\n")), "{blocks}\n{said}");
    };
    let is_wrong = |blocks: &str, why: &str| {
        let said = run(blocks);
        assert!(said.contains(why) && !said.contains("the last block\n"), "{blocks}\n{said}");
    };
    is_good("```sh\nx=1 # kept\n```\n1. A step:\n\n   ```sh\n   cat <<Y >file\n   $x\n   Y\n   [ \"$(cat file)\" = 1 ]\n   ```");
    is_good("```yaml\n# file: file.yaml\na: $x\n```\n```sh\ngrep -qx 'a: $x' file.yaml\n```\n```text\nfalse\n```");
    is_good("```sh refused\ntrue\nfalse | true\n```");
    is_wrong("```sh\ntrue\nfalse\necho after\n```", "a/page.md:3: failed after");
    is_wrong("```sh\ntrue\n```\n\n```sh\nfalse && true\n```", "a/page.md:7: failed after");
    is_wrong("```sh\nfalse | true\n```", "a/page.md:3: failed after");
    is_wrong("```sh\n$no_such_variable\n```", "line 3: no_such_variable: unbound variable");
    is_wrong("```sh refused\nfalse\ntrue\n```", "has to be refused");
    is_wrong("```sh refused\nfalse\nfalse\n```", "has to be refused");
    is_wrong("```sh refused\nno-such-command\n```", "has to be refused");
    assert!(!run("```sh\nexit\n```").contains(COMPLETE));
}
