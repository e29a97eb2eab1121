//! The program itself, as a process: what it prints, how it waits, how it ends.

use std::fs::Permissions;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::support::eventually;

const PROGRAM: &str = env!("CARGO_BIN_EXE_oauthconsumer-operator");

/// A user without rights.
const NOBODY: u32 = 65_534;

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_teaches() {
    let help = text(&run(&["--help"]).stdout);
    for command in ["run", "controller", "signin", "revoke", "cleanup", "crd", "completion"] {
        assert!(help.contains(command), "{help}");
    }
    let help = text(&run(&["run", "--help"]).stdout);
    let flags = [
        "store-url",
        "store-url-file",
        "signin-addr",
        "admin-addr",
        "namespaces",
        "cluster-id",
        "approval-proof",
        "sweep-period",
        "max-staleness",
        "miss-limit-caller",
        "miss-limit-key",
        "trusted-proxies",
        "signin-tls-cert",
        "signin-tls-key",
        "hash-memory",
        "hash-passes",
    ];
    for flag in flags {
        assert!(help.contains(&format!("--{flag}")), "{flag}: {help}");
        let variable = format!("OAUTHCONSUMER_{}", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&variable), "{variable}: {help}");
    }
    assert!(text(&run(&[]).stderr).contains("Usage:"), "no command: usage, not silence");
    assert!(text(&run(&["completion", "bash"]).stdout).contains("complete "));
    assert!(text(&run(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_printed_crd_is_the_committed_one() {
    let printed = run(&["crd"]);
    assert!(printed.status.success());
    assert!(text(&printed.stdout) == include_str!("../../crds/oauthconsumers.yaml"), "run `make generate`");
}

#[test]
fn bad_settings_are_refused_with_what_to_do() {
    for (args, words) in [
        (&["run", "--sweep-period", "soon"][..], "30s or 2m"),
        (&["run", "--sweep-period", "0s"], "at least 100ms"),
        (&["run", "--min-secret-bytes", "0"], "1..=512"),
        (&["run", "--log-level", "loud"], "none of error, warn, info"),
        (&["run", "--log-level", ""], "none of error, warn, info"),
        (&["run", "--namespaces", "A_b"], "1 to 63 of a-z 0-9 -"),
        (&["run", "--namespaces", ","], "1 to 63 of a-z 0-9 -"),
        (&["run", "--signin-addr", "8080"], "invalid socket address"),
        (&["signin", "--signin-tls-cert", "tls.crt"], "--signin-tls-key"),
        (&["signin", "--trusted-proxies", "10.0.0.0/40"], "192.0.2.7 or 10.0.0.0/8"),
        (&["signin", "--hash-memory", "1024"], "19456..=65536"),
        (&["revoke", "short", "--reason", "x"], "8 to 128 characters"),
        (&["revoke", "0b9f3f4e-1111-5222-8333-444455556666"], "--reason"),
        (&["revoke", "0b9f3f4e-1111-5222-8333-444455556666", "--reason", " "], "1 to 256 characters"),
        (
            &["signin", "--admin-addr", "127.0.0.1:0", "--signin-addr", "127.0.0.1:0", "--store-url", "mysql://x"],
            "sqlite:// or postgres://",
        ),
        (&["signin", "--admin-addr", "127.0.0.1:0", "--signin-addr", "127.0.0.1:0", "--store-url-file", "/nowhere"], "/nowhere"),
        (&["signin", "--admin-addr", "203.0.113.1:9090"], "--admin-addr"),
    ] {
        let refused = run(args);
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains(words), "{args:?}: {said}");
    }
}

/// A program that may write cores of any size into this folder, ended with the test. It is never root.
struct MayDump(Child);

// === impl MayDump ===

impl MayDump {
    fn start(folder: &Path, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        if geteuid().is_root() {
            std::fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command
            .args(["-c", r#"ulimit -c unlimited && exec "$0" "$@""#, program])
            .args(args)
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Whose files the kernel says those of the process to be.
    fn owner(&self) -> u32 {
        std::fs::metadata(format!("/proc/{}/auxv", self.0.id())).unwrap().uid()
    }

    /// Whether a core was written, or handed to a program that the kernel knows for that.
    fn dumps_core(&mut self, signal: Signal) -> bool {
        let pid = Pid::from_child(&self.0);
        let status = loop {
            // Rust handles the first SIGSEGV itself: it looks whether a stack is full.
            kill_process(pid, signal).unwrap();
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            std::thread::yield_now();
        };
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        status.core_dumped()
    }
}

impl Drop for MayDump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_crash_leaves_no_core() {
    for signal in [Signal::ABORT, Signal::SEGV] {
        let [folder, other, copied] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        // Who is not root may not come to where it was built.
        let copy = copied.path().join("program");
        std::fs::copy(PROGRAM, &copy).unwrap();
        std::fs::set_permissions(&copied, Permissions::from_mode(0o755)).unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let args = ["signin", "--store-url", "postgres://nobody@127.0.0.1:1/none", "--signin-addr", "127.0.0.1:0"];
        let mut program =
            MayDump::start(folder.path(), copy.to_str().unwrap(), &[&args[..], &["--admin-addr", &admin.to_string()]].concat());
        eventually("it runs", || async { TcpStream::connect(admin).is_ok() }).await;
        let said = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", program.0.id())).unwrap();
        let limits = said("limits");
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        assert_eq!(limit.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
        // The limit alone would not keep a core from a program that the kernel hands them to. Of a process that is not dumpable,
        // these files are root's.
        assert_eq!(program.owner(), 0, "it is dumpable");
        assert!(!program.dumps_core(signal), "it dumps its core");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file was written");

        // Another program may as well, and does: or nothing was shown.
        let mut sleep = MayDump::start(other.path(), "sh", &["-c", "echo up >up; exec sleep 60"]);
        eventually("it sleeps", || async { other.path().join("up").exists() }).await;
        assert_ne!(sleep.owner(), 0);
        assert!(sleep.dumps_core(signal), "no process dumps its core here");
    }
}

/// Runs a shell script on a control plane that has nothing installed yet.
fn on_a_fresh_control_plane(script: &str) {
    // One at a time: starting seven at once would only make all of them slow.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let root = env!("CARGO_MANIFEST_DIR");
    let ran = Command::new(format!("{root}/dev/with-control-plane.sh"))
        .args(["bash", "-euo", "pipefail", "-c", script])
        .current_dir(root)
        .env("PROGRAM", PROGRAM)
        // The API server here has none of the chart's policies.
        .env("OAUTHCONSUMER_APPROVAL_PROOF", "off")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}\n{}", text(&ran.stdout), text(&ran.stderr));
}

/// Free ports, an operator in the background, and a way to wait.
const PREPARED: &str = r#"
ports=$(python3 -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))')
read -r signin admin <<<"$ports"
store=$DEV_CONTROL_PLANE_DIR/operator/store.db
start() {
  "$PROGRAM" run --store-url "sqlite://$store" --signin-addr "127.0.0.1:$signin" --admin-addr "127.0.0.1:$admin" "$@" \
    >>"$DEV_CONTROL_PLANE_DIR/operator.log" 2>&1 & # all of it, or a test that fails waits for the pipe for ever
  operator=$!
}
trap 'kill -KILL ${operator:-} 2>/dev/null || true' EXIT # a script that fails leaves nothing running
until_so() { for _ in $(seq 300); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.1; done; echo "never: $*"; cat "$DEV_CONTROL_PLANE_DIR/operator.log"; exit 1; }
# The whole answer first: a grep that has found what it wants closes the pipe, and curl fails.
measures() { local all; all=$(curl -s "http://127.0.0.1:$admin/metrics"); grep -q "$1" <<<"$all"; }
says_readyz() { local all; all=$(readyz); grep -q "$1" <<<"$all"; }
readyz() { curl -s "http://127.0.0.1:$admin/readyz"; }
ready() { curl -sf "http://127.0.0.1:$admin/readyz"; }
not_ready() { [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$admin/readyz")" = 503 ]; }
secret=a-very-secret-secret-of-jazz
register_jazz() {
  kubectl create secret generic jazz-oauth --from-literal=consumerSecret=$secret
  kubectl apply -f - <<Y
apiVersion: oauthconsumers.dev/v1alpha1
kind: OAuthConsumer
metadata: {name: jazz}
spec: {name: Jazz, approved: true, secretRef: {name: jazz-oauth}}
Y
}
signs_in() { [ "$(curl -s -o /dev/null -w '%{http_code}' -u "$1:$2" "http://127.0.0.1:$signin/signin/any/path?x=1" -X DELETE)" = "$3" ]; }
"#;

#[test]
fn it_waits_visibly_for_the_crd_and_ends_cleanly() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
start
waits_for_crd() {{ says_readyz 'CRD oauthconsumers.oauthconsumers.dev is missing; apply crds/oauthconsumers.yaml'; }}
until_so waits_for_crd
not_ready
curl -sf "http://127.0.0.1:$admin/livez"
measures '^oauthconsumer_watching 0'
kubectl apply -f crds/oauthconsumers.yaml
until_so ready
measures '^oauthconsumer_watching 1'
kill -TERM $operator
wait $operator
"#
    ));
}

#[test]
fn a_killed_process_loses_nothing_and_logs_no_secret() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
kubectl apply -f crds/oauthconsumers.yaml
start --log-level trace,hyper=info,h2=info,sqlx=trace,kube_client=trace
register_jazz
kubectl wait --for=condition=Approved --timeout=30s oac/jazz
key=$(kubectl get oac jazz -o jsonpath='{{.status.consumerKey}}')
until_so signs_in "$key" "$secret" 200
until_so signs_in "$key" "a-wrong-secret-of-jazz" 401
kill -KILL $operator; wait $operator || true

# Disapproved while nobody looked: refused as soon as somebody does, under the same key.
kubectl patch oac jazz --type=merge -p '{{"spec":{{"approved":false}}}}'
start
kubectl wait --for=condition=Approved=false --timeout=30s oac/jazz
until_so signs_in "$key" "$secret" 401
[ "$(kubectl get oac jazz -o jsonpath='{{.status.consumerKey}}')" = "$key" ]
kill -TERM $operator; wait $operator

# Neither the secret, nor its base64, is in a log, an event, the object or the store.
kubectl get events,oac -o yaml >"$DEV_CONTROL_PLANE_DIR/dump.yaml"
for word in "$secret" "$(printf %s "$secret" | base64)" '$argon2id'; do
  if grep -qF -- "$word" "$DEV_CONTROL_PLANE_DIR/operator.log" "$DEV_CONTROL_PLANE_DIR/dump.yaml"; then echo "found $word"; exit 1; fi
done
if grep -qaF -- "$secret" "$store"*; then echo "the store holds the secret"; exit 1; fi
"#
    ));
}

#[test]
fn a_second_controller_on_one_file_is_refused() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
kubectl apply -f crds/oauthconsumers.yaml
start
until_so ready
said=$("$PROGRAM" controller --store-url "sqlite://$store" --admin-addr 127.0.0.1:0 2>&1) && exit 1
grep -q 'another controller uses' <<<"$said"
kill -TERM $operator; wait $operator
"#
    ));
}

#[test]
fn a_full_disk_is_said_and_passes() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
kubectl apply -f crds/oauthconsumers.yaml
register_jazz
trap '' XFSZ   # a write beyond the limit is then an error, as on a full disk, and no signal
start
trap - XFSZ
kubectl wait --for=condition=Approved --timeout=30s oac/jazz
key=$(kubectl get oac jazz -o jsonpath='{{.status.consumerKey}}')
until_so signs_in "$key" "$secret" 200

# Not one byte more for any file: the log goes to the same place, and falls silent.
prlimit --pid $operator --fsize=4096:unlimited
kubectl patch oac jazz --type=merge -p '{{"spec":{{"approved":false}}}}'
kubectl wait --for=jsonpath='{{.status.conditions[?(@.type=="Ready")].reason}}'=StoreUnavailable --timeout=30s oac/jazz
[ "$(kubectl get oac jazz -o jsonpath='{{.status.state}}')" = Approved ]   # what the store still holds

prlimit --pid $operator --fsize=unlimited:unlimited
kubectl wait --for=condition=Approved=false --timeout=60s oac/jazz
kubectl wait --for=condition=Ready --timeout=60s oac/jazz
until_so signs_in "$key" "$secret" 401
kill -TERM $operator; wait $operator
"#
    ));
}

#[test]
fn a_revocation_needs_no_api_server_and_is_sticky() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
kubectl apply -f crds/oauthconsumers.yaml
start --sweep-period 500ms
register_jazz
kubectl wait --for=condition=Approved --timeout=30s oac/jazz
key=$(kubectl get oac jazz -o jsonpath='{{.status.consumerKey}}')
until_so signs_in "$key" "$secret" 200

trap 'kill -CONT "$(cat "$DEV_CONTROL_PLANE_DIR/apiserver.pid")"' EXIT # a stopped process cannot be ended
kill -STOP "$(cat "$DEV_CONTROL_PLANE_DIR/apiserver.pid")"
said=$("$PROGRAM" revoke "$key" --reason "leaked, INC-1234" --store-url "sqlite://$store")
grep -q "^revoked $key: Jazz (default/jazz)" <<<"$said"
until_so signs_in "$key" "$secret" 401
kill -CONT "$(cat "$DEV_CONTROL_PLANE_DIR/apiserver.pid")"

# The object says so, although its spec still says approved; also after a restart.
until_so kubectl wait --for=jsonpath='{{.status.state}}'=Revoked --timeout=1s oac/jazz
kubectl wait --for=condition=Ready=false --timeout=30s oac/jazz
grep -q 'leaked, INC-1234' <<<"$(kubectl get oac jazz -o jsonpath='{{.status.conditions[?(@.type=="Ready")].message}}')"
reported() {{ grep -qw Revoked <<<"$(kubectl get events -o jsonpath='{{.items[*].reason}}')"; }}
until_so reported
kill -KILL $operator; wait $operator || true
start --sweep-period 500ms
until_so ready
until_so signs_in "$key" "$secret" 401
kubectl patch oac jazz --type=merge -p '{{"spec":{{"name":"Renamed"}}}}'
until_so kubectl wait --for=jsonpath='{{.status.observedGeneration}}'=2 --timeout=1s oac/jazz
until_so signs_in "$key" "$secret" 401

# What the command said lifts it, word for word.
sed -n 's/^  \(kubectl .*\)/\1/p' <<<"$said" >"$DEV_CONTROL_PLANE_DIR/lift.sh"
[ "$(wc -l <"$DEV_CONTROL_PLANE_DIR/lift.sh")" = 4 ]
bash -e "$DEV_CONTROL_PLANE_DIR/lift.sh"
kubectl wait --for=condition=Approved --timeout=30s oac/jazz
until_so signs_in "$key" "$secret" 200

said=$("$PROGRAM" revoke 00000000-0000-5000-8000-000000000000 --reason x --store-url "sqlite://$store" 2>&1) && exit 1
grep -q 'no consumer in this store has the key' <<<"$said"
kubectl delete oac jazz
said=$("$PROGRAM" revoke "$key" --reason x --store-url "sqlite://$store" 2>&1) && exit 1
grep -q 'is removed already' <<<"$said"
kill -TERM $operator; wait $operator
"#
    ));
}

#[test]
fn a_client_that_says_half_a_sentence_does_not_keep_it_from_ending() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
kubectl apply -f crds/oauthconsumers.yaml
start
until_so ready
exec 3<>"/dev/tcp/127.0.0.1/$signin"
printf 'GET /signin HTTP/1.1
Host: x
' >&3
until_so signs_in 00000000-0000-5000-8000-000000000000 x 401
kill -TERM $operator
wait $operator
"#
    ));
}

#[test]
fn it_is_not_ready_too_early_and_can_always_be_stopped() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
kubectl apply -f crds/oauthconsumers.yaml
# An API server that hangs.
kill -STOP "$(cat "$DEV_CONTROL_PLANE_DIR/apiserver.pid")"
start
answers() {{ says_readyz '^.+. store ok'; }}
until_so answers
not_ready
says_readyz '^.-. cluster'
kill -TERM $operator
wait $operator
"#
    ));
}

#[test]
fn without_a_store_a_sign_in_is_neither_allowed_nor_refused() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
"$PROGRAM" signin --store-url postgres://nobody@127.0.0.1:1/none --signin-addr "127.0.0.1:$signin" --admin-addr "127.0.0.1:$admin" \
  2>>"$DEV_CONTROL_PLANE_DIR/operator.log" &
operator=$!
until_so signs_in 0b9f3f4e-1111-5222-8333-444455556666 some-secret 503
until_so signs_in 0b9f3f4e-1111-5222-8333-444455556666 some-secret 503
waits() {{ says_readyz 'store: it cannot be opened'; }}
until_so waits
not_ready
kill -TERM $operator
wait $operator
"#
    ));
}

#[test]
fn controller_and_signin_are_two_processes_on_postgres() {
    on_a_fresh_control_plane(&format!(
        r#"{PREPARED}
kubectl apply -f crds/oauthconsumers.yaml
createdb() {{ psql -q "$OAUTHCONSUMER_TEST_POSTGRES_URL" -c "CREATE DATABASE $1"; }}
database=apart_$RANDOM$RANDOM
createdb "$database"
url=${{OAUTHCONSUMER_TEST_POSTGRES_URL%/*}}/$database
printf '%s\n' "$url" >"$DEV_CONTROL_PLANE_DIR/store-url"

# The one by a file, the other by its environment. The sign-in check starts first, and waits for the tables.
"$PROGRAM" signin --store-url-file "$DEV_CONTROL_PLANE_DIR/store-url" --signin-addr "127.0.0.1:$signin" \
  --admin-addr "127.0.0.1:$admin" 2>"$DEV_CONTROL_PLANE_DIR/operator.log" &
checks=$!
OAUTHCONSUMER_STORE_URL=$url OAUTHCONSUMER_ADMIN_ADDR=127.0.0.1:0 "$PROGRAM" controller 2>"$DEV_CONTROL_PLANE_DIR/controller.log" &
operator=$!
register_jazz
kubectl wait --for=condition=Approved --timeout=60s oac/jazz
key=$(kubectl get oac jazz -o jsonpath='{{.status.consumerKey}}')
until_so signs_in "$key" "$secret" 200
until_so ready
measures '^oauthconsumer_signin_checks_total{{outcome="allowed"}} 1'
slash=$(curl -s -o /dev/null -w '%{{http_code}}' "http://127.0.0.1:$signin/signin/")
[ "$slash" = 401 ]
elsewhere=$(curl -s -o /dev/null -w '%{{http_code}}' "http://127.0.0.1:$signin/elsewhere")
[ "$elsewhere" = 404 ]

# Either runs without the other.
kill -TERM $operator; wait $operator
until_so signs_in "$key" "$secret" 200
# And without its store the check is not ready, and says neither yes nor no.
psql -q "$OAUTHCONSUMER_TEST_POSTGRES_URL" -c "DROP DATABASE $database WITH (FORCE)"
until_so not_ready
until_so signs_in "$key" "$secret" 503
kill -TERM $checks; wait $checks
"#
    ));
}
