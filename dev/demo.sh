#!/usr/bin/env bash
# usage: [KEEP=1] dev/demo.sh
#
# The whole life of OAuth consumers on a real kube-apiserver and etcd, told command by command; `make demo` runs it.
# It builds what it needs, checks every outcome, ends with exit code 0 only if all was as promised, and removes
# everything it made. KEEP=1 leaves it all running at the end, to try things out, until Ctrl-C.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/lib.sh"

case ${1:-} in
  '' | story) ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
program=${CARGO_TARGET_DIR:-target}/debug/oauthconsumer-operator

heading='' command='' good='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  heading=$'\e[1;34m' command=$'\e[1m' good=$'\e[32m' plain=$'\e[0m'
fi

# ---- Before the story: build, then this script again, inside a control plane of its own.

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
  say "installing ${missing[*]} ..."
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } </dev/null
}

if [ "${1:-}" != story ]; then
  printf '%s\n' "${heading}OAuth consumers on Kubernetes: the whole story${plain}" '' \
    "On a real API server that is started for it and thrown away afterwards. Your own clusters are not touched."
  tools
  printf '\n%s\n' "${command}\$ cargo build --locked${plain}"
  cargo build --locked
  printf '\n%s\n' "Starting etcd and kube-apiserver ..."
  exec dev/with-control-plane.sh dev/demo.sh story "$EPOCHSECONDS"
fi

# ---- Telling and checking

began=$2 chapters=0 seen=() out='' code=0 key='' operator='' refusal='' stopping=''

chapter() { printf '\n\n%s\n' "$heading$((++chapters)). $1$plain"; }
tell() { printf '\n%s\n' "$*"; }
typed() { printf '%s\n' "$command\$ $1$plain"; }

# ok WHAT: it was as promised; the summary lists it again.
ok() {
  seen+=("$1")
  printf '%s\n' "${good}ok:$plain $1"
}

fail() {
  say "NOT AS PROMISED: $*"
  [ -z "$operator" ] || is_running || say "the operator is not running any more"
  exit 1
}

# show COMMAND: types it, runs it, shows what it prints, and leaves that in $out and its exit code in $code.
show() {
  typed "$1"
  code=0
  out=$(eval "$1" 2>&1) || code=$?
  out=${out//$'\r'/} out=${out%$'\n'} # as curl prints HTTP headers
  [ -z "$out" ] || printf '%s\n' "$out"
}

# try COMMAND: show, and it has to succeed.
try() {
  show "$1"
  [ "$code" = 0 ] || fail "exit code $code: $1"
}

# denied COMMAND WORDS...: show, and the API server has to refuse it, with these words among others.
denied() {
  local words
  show "$1"
  [ "$code" != 0 ] || fail "the API server was to refuse it: $1"
  for words in "${@:2}"; do
    [[ $out == *"$words"* ]] || fail "the refusal was to say: $words"
  done
}

# says LINE: whether $out has that line, in any case.
says() { grep -qixF -- "$1" <<<"$out"; }

# eventually SECONDS COMMAND...: until COMMAND succeeds. It fails when time is up.
eventually() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.1
  done
}

# ---- What is asked again and again

key_of() { kubectl get oauthconsumer "$1" -o jsonpath='{.status.consumerKey}'; }
secret_of() { kubectl get secret "$1" -o go-template="{{.data.$2 | base64decode}}"; }
condition_of() { kubectl get oauthconsumer "$1" -o jsonpath="{.status.conditions[?(@.type==\"$2\")].$3}"; }

answers() { [ "$(curl -s -o /dev/null -w '%{http_code}' -u "$2:$3" "$signin")" = "$1" ]; }

# signs_in KEY SECRET: the sign-in check says yes, at the latest after a few seconds.
signs_in() {
  eventually 10 answers 200 "$1" "$2" || true
  try "curl -si -u $1:$2 $signin"
  [[ $out == 'HTTP/1.1 200 '* ]] || fail "sign-in was to be allowed: ${out%%$'\n'*}"
  says "X-OAuth-Consumer-Key: $1" || fail "the answer does not name the key $1"
}

# is_refused KEY SECRET: it says no, with the very same answer each time.
is_refused() {
  local answer
  eventually 10 answers 401 "$1" "$2" || true
  try "curl -si -u $1:$2 $signin"
  [[ $out == 'HTTP/1.1 401 '* ]] || fail "sign-in was to be refused: ${out%%$'\n'*}"
  answer=$(sed '/^date: /Id' <<<"$out")
  [ "$answer" = "${refusal:=$answer}" ] || fail "this refusal differs from the first one, which was: $refusal"
}

# ---- The operator

is_running() { kill -0 "$operator" 2>/dev/null; }
is_gone() { ! is_running; }
is_ready_or_gone() { curl -fs "$admin/readyz" >/dev/null || is_gone; }

start_operator() {
  typed "$program run --log-format text --store-url sqlite://$folder/store.db \\
    --signin-addr 127.0.0.1:$signin_port --admin-addr 127.0.0.1:$admin_port --namespaces team-a --sweep-period 5s &"
  start operator TERM env KUBECONFIG="$folder/operator.kubeconfig" \
    "$program" run --log-format text --store-url "sqlite://$folder/store.db" \
    --signin-addr "127.0.0.1:$signin_port" --admin-addr "127.0.0.1:$admin_port" --namespaces team-a --sweep-period 5s
  operator=${daemons[-1]}
  eventually 60 is_ready_or_gone || fail "the operator was not ready within a minute"
  try "curl -fs $admin/readyz"
}

stop_operator() {
  local code=0
  typed "kill -TERM $operator"
  kill -TERM "$operator" || fail "the operator had ended by itself"
  eventually 40 is_gone || fail "the operator did not end within 40 seconds"
  wait "$operator" || code=$?
  operator='' daemons=() stop_signals=()
  [ "$code" = 0 ] || fail "the operator ended with exit code $code"
  ok "told to stop, the operator ended with exit code 0"
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

an_api_server() {
  chapter "A Kubernetes API server"
  tell "It is a real one, and knows nothing of OAuth consumers yet."
  try "kubectl version"
  try "kubectl create namespace oauth"
  try "kubectl create namespace team-a"
  tell "The Helm chart tells it what an OAuthConsumer is, and who may do what with one: roles, and policies that the API" \
    "server itself enforces. No pods run here, so the rest of the chart is left out."
  try "helm template oauth charts/oauthconsumer-operator --namespace oauth --set 'namespaces={team-a}' --kube-version 1.36 \\
    --no-hooks --show-only 'templates/cluster/*' --show-only templates/controller/rbac.yaml | kubectl apply -f -"
  try "kubectl wait --for=condition=Established crd/oauthconsumers.oauthconsumers.dev --timeout=60s"
  ok "the API server knows OAuthConsumers"
}

the_operator() {
  chapter "The operator"
  tell "One process is the controller and answers sign-in checks; its store is an SQLite file. As its pod would, it runs with" \
    "the chart's service account, which may do only what it has to."
  try "kubectl config set-credentials operator \\
    --token \"\$(kubectl create token oauth-controller --namespace oauth --duration 24h)\""
  (umask 077 && kubectl config view --raw --minify --flatten --context operator >"$folder/operator.kubeconfig")
  try "kubectl --context operator auth can-i --list --namespace team-a | grep -v '\[/'" # paths that everybody may read
  [[ $out == *oauthconsumers.dev/status* && $out != *approve* && $out != *'*'* ]] || fail "it was to have other permissions"
  start_operator
  ok "the operator is ready, with these permissions and no others: it cannot approve"
}

# is_guarded: whether the API server heeds the policies: asks who may approve and bring keys along, and stamps who approved.
is_guarded() {
  local said
  ! said=$(kubectl apply -k examples/ --dry-run=server 2>&1) || return 1
  [[ $said == *oauthconsumers-approve* && $said == *oauthconsumers-adopt* ]] || return 1
  said=$(kubectl --context git create -k examples/ --dry-run=server -o yaml 2>&1) || return 1
  [[ $said == *"decided-by: $git"* ]]
}

people() {
  chapter "The people and their permissions"
  try "kubectl config set-context admin --namespace team-a"
  tell "A requester has the ClusterRole edit, and with it registers consumers and makes their Secrets. (A controller manager" \
    "would put that role together. There is none here, so its parts are bound.)"
  try "for role in oauthconsumers-editor system:aggregate-to-edit system:aggregate-to-view; do
    kubectl create rolebinding requester:\$role --clusterrole \$role --user requester; done"
  tell "An approver decides about them, and needs no Secret for that."
  try "kubectl create rolebinding approver --clusterrole oauthconsumers-approver --user approver"
  tell "What is in Git has been reviewed, so Git's account may do both, and bring consumer keys along. It has a namespace of" \
    "its own, because whoever has edit in a namespace can act as any account there."
  try "kubectl create namespace gitops"
  try "kubectl create serviceaccount git --namespace gitops"
  try "kubectl create rolebinding git --clusterrole oauthconsumers-configure-server --serviceaccount gitops:git"
  try "kubectl create role adopt --verb adopt --resource oauthconsumers.oauthconsumers.dev"
  try "kubectl create rolebinding adopt --role adopt --serviceaccount gitops:git"
  try "kubectl config set-credentials git --token \"\$(kubectl create token git --namespace gitops --duration 24h)\""
  try "kubectl config set-context git --cluster dev --user git"
  for who in requester approver git; do kubectl config set-context "$who" --namespace team-a >/dev/null; done
  tell "From here on the requester types, unless it says --context."
  try "kubectl config use-context requester"
  tell "It takes the API server some seconds to heed new policies. Once it does, a dry run tells who would have approved."
  eventually 60 is_guarded || fail "after a minute the API server does not ask yet who may approve, or does not stamp who did"
  try "kubectl --context git create -k examples/ --dry-run=server -o yaml | grep decided-by"
  ok "the API server asks who may approve, and stamps who did"
}

register() {
  chapter "Register consumers"
  tell "Three of them, each with its Secret, from the folder examples/. The requester may register jazz. The others come" \
    "approved or with a key, and that takes more."
  denied "kubectl apply -k examples/" "creating a consumer as approved needs the verb approve" \
    "bringing a consumer key along (spec.consumerKey) needs the verb adopt"
  tell "So they take the way through Git, whose account applies the same folder."
  try "kubectl --context git apply -k examples/"
  try "kubectl wait --for=condition=Ready oauthconsumers --all --timeout=60s"
  tell "Each has its consumer key; only the one that Git approves is approved."
  try "kubectl get oauthconsumers"
  local brought
  key=$(key_of jazz)
  brought=$(sed -n 's/^  consumerKey: //p' examples/legacy-key.yaml)
  [[ $key =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] || fail "jazz has no key of its own: '$key'"
  [ "$(key_of legacy-key)" = "$brought" ] || fail "legacy-key was to keep the key it brought along, $brought"
  [[ $out == *"$key"*AwaitingApproval*False*True* ]] || fail "jazz was to await approval"
  ok "registered from examples/, every consumer has its key at once; one brought its own along"
}

not_before_approval() {
  chapter "No sign-in before the approval"
  tell "Key and secret are right, but the consumer is not approved yet."
  is_refused "$key" "$secret"
  tell "A wrong secret and a key that does not exist get the same answer: a guesser learns nothing."
  is_refused "$key" not-the-secret-of-jazz
  is_refused 00000000-0000-5000-8000-000000000000 not-the-secret-of-jazz
  ok "before the approval sign-in is refused, and refusals do not tell why"
  tell "The status does, to those who may read it."
  try "kubectl get oauthconsumer jazz -o jsonpath='{.status.conditions[?(@.type==\"Active\")].message}{\"\\n\"}'"
}

approve() {
  chapter "Approve"
  tell "The requester tries."
  denied "kubectl patch oauthconsumer jazz $decide -p 'spec: {approved: true}'" "approving needs the verb approve on \
oauthconsumers in namespace team-a; ask a holder of the ClusterRole oauthconsumers-approver there"
  ok "the API server refuses the requester's approval, and says whom to ask"
  tell "The approver decides, with a field manager that pipelines leave alone."
  try "kubectl --context approver patch oauthconsumer jazz $decide -p 'spec: {approved: true}'"
  try "kubectl wait --for=condition=Active oauthconsumer/jazz --timeout=60s"
  tell "The API server says who decided, and only it can."
  try "kubectl get oauthconsumers -o wide"
  grep -q "^jazz .* approver " <<<"$out" || fail "jazz was to be decided by approver"
  grep -q "^nightly-export .* $git " <<<"$out" || fail "nightly-export was to be decided by $git"
  tell "Now the consumer signs in; the server behind it learns from the headers who that is."
  signs_in "$key" "$secret"
  says "X-OAuth-Consumer-Name: Jazz%20Team%20Server" || fail "the answer does not name the consumer"
  says "X-OAuth-Consumer-Namespace: team-a" || fail "the answer does not name the namespace"
  ok "approved, it signs in; DECIDED BY names the approver"
}

edit() {
  chapter "Edit: another name, another secret, the same key"
  tell "The approval is for this name, so the requester may not change it. The approver may."
  denied "kubectl patch oauthconsumer jazz --type merge -p 'spec: {name: Jazz Team Server II}'" \
    "renaming an approved consumer needs the verb approve"
  try "kubectl --context approver patch oauthconsumer jazz --type merge -p 'spec: {name: Jazz Team Server II}'"
  try "kubectl wait --for=condition=Ready oauthconsumer/jazz --timeout=60s"
  tell "The requester changes the secret."
  try "kubectl patch secret jazz-oauth -p 'stringData: {consumerSecret: $new_secret}'"
  tell "The new secret counts, and the name is the new one."
  signs_in "$key" "$new_secret"
  says "X-OAuth-Consumer-Name: Jazz%20Team%20Server%20II" || fail "the answer does not have the new name"
  tell "The old secret does not."
  is_refused "$key" "$secret"
  try "kubectl get oauthconsumer jazz"
  [ "$(key_of jazz)" = "$key" ] || fail "the key was $key"
  [[ $out == *"$key"*Approved*True*True* ]] || fail "jazz was to stay approved and active"
  ok "with another name and another secret it kept its key and its approval; the old secret is refused"
}

hold_and_disapprove() {
  chapter "Hold, and disapprove"
  local at took
  tell "Ending sign-in takes no approver. The requester puts the consumer on hold, which beats every approval, also Git's."
  try "kubectl patch oauthconsumer jazz $decide -p 'spec: {hold: {reason: \"odd traffic, INC-1233\"}}'"
  is_refused "$key" "$new_secret"
  try "kubectl wait --for=jsonpath='{.status.state}'=OnHold oauthconsumer/jazz --timeout=60s"
  tell "Lifting the hold lets it sign in again, and so takes the approver."
  denied "kubectl patch oauthconsumer jazz $decide -p 'spec: {hold: null}'" "lifting a hold needs the verb approve"
  tell "A pipeline that may approve does not lift it either, by leaving it out: a lift has a field manager of its own, and changes" \
    "nothing else. The refusal says what to type."
  denied "kubectl --context approver patch oauthconsumer jazz --type merge -p 'spec: {hold: null}'" \
    "lifting a hold takes a request with the field manager oauthconsumers-approval" \
    "kubectl -n team-a patch oac jazz --field-manager oauthconsumers-approval"
  try "kubectl --context approver patch oauthconsumer jazz $decide -p 'spec: {hold: null}'"
  try "kubectl wait --for=condition=Active oauthconsumer/jazz --timeout=60s"
  signs_in "$key" "$new_secret"
  ok "the requester may hold, and only the approver may lift the hold, on purpose"
  tell "The requester disapproves."
  try "kubectl patch oauthconsumer jazz $decide -p 'spec: {approved: false}'"
  at=${EPOCHREALTIME//[!0-9]/}
  eventually 10 answers 401 "$key" "$new_secret" || fail "ten seconds later sign-in was still not refused"
  took=$(((${EPOCHREALTIME//[!0-9]/} - at) / 1000))
  is_refused "$key" "$new_secret"
  ok "disapproved, it was refused $took ms after kubectl had returned"
  try "kubectl wait --for=jsonpath='{.status.state}'=Disapproved oauthconsumer/jazz --timeout=60s"
  try "kubectl get oauthconsumer jazz -o wide"
  [[ $out == *"$key"*Disapproved*False*True*" requester "* ]] ||
    fail "jazz was to be disapproved by requester, not active, and Ready: the store says so, too"
}

a_bad_secret() {
  chapter "A slip: a Secret made from a file"
  local nightly message
  nightly=$(key_of nightly-export)
  tell "The nightly export signs in: it was approved from Git."
  try "kubectl wait --for=condition=Active oauthconsumer/nightly-export --timeout=60s"
  signs_in "$nightly" "$(secret_of nightly-export EXPORT_OAUTH_SECRET)"
  tell "Its next secret comes from a file, and editors and echo end files with a newline."
  try "echo $export_secret >$folder/secret.txt"
  try "kubectl create secret generic nightly-export --from-file=EXPORT_OAUTH_SECRET=$folder/secret.txt \\
    --dry-run=client -o yaml | kubectl apply -f -"
  tell "Nothing is trimmed behind anybody's back: the status says what is wrong and what to do, and sign-in is refused."
  try "kubectl wait --for=condition=Ready=false oauthconsumer/nightly-export --timeout=60s"
  try "kubectl get oauthconsumer nightly-export -o wide"
  [[ $out == *False*SecretInvalid* ]] || fail "the reason was to be SecretInvalid"
  try "kubectl get oauthconsumer nightly-export -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].message}{\"\\n\"}'"
  message=$out
  [[ $message == *newline*kubectl* ]] || fail "the message was to say what is wrong and how to fix it"
  [ "$(condition_of nightly-export Stalled status)" = True ] || fail "only the user can help, so it was to be Stalled"
  is_refused "$nightly" "$export_secret"
  tell "The same without the newline."
  try "printf '{\"data\":{\"EXPORT_OAUTH_SECRET\":\"%s\"}}' \"\$(printf %s $export_secret | base64 -w0)\" |
    kubectl patch secret nightly-export --type merge --patch-file /dev/stdin"
  try "kubectl wait --for=condition=Ready oauthconsumer/nightly-export --timeout=60s"
  signs_in "$nightly" "$export_secret"
  rm "$folder/secret.txt"
  ok "an unusable secret is refused and explained; mended, the consumer signs in again with the same key"
}

break_glass() {
  chapter "Break glass"
  local nightly
  nightly=$(key_of nightly-export)
  tell "A secret has leaked, and suppose that the API server cannot be reached. revoke needs nothing but the store."
  signs_in "$nightly" "$export_secret"
  try "$program revoke $nightly --reason 'leaked, INC-1234' --store-url sqlite://$folder/store.db"
  is_refused "$nightly" "$export_secret"
  tell "It sticks, although Git still says approved; and the object says so, as soon as the controller has seen it."
  try "kubectl wait --for=jsonpath='{.status.state}'=Revoked oauthconsumer/nightly-export --timeout=60s"
  try "kubectl get oauthconsumer nightly-export -o wide"
  [[ $out == *Revoked*False* ]] || fail "nightly-export was to be revoked, and not Ready"
  ok "revoked in the store alone, it is refused at once and stays so"
}

remove() {
  chapter "Remove"
  local old=$key
  tell "First approved once more, so that there is something to lose."
  try "kubectl --context approver patch oauthconsumer jazz $decide -p 'spec: {approved: true}'"
  try "kubectl wait --for=condition=Active oauthconsumer/jazz --timeout=60s"
  signs_in "$old" "$new_secret"
  try "kubectl delete oauthconsumer jazz --timeout=60s"
  show "kubectl get oauthconsumer jazz"
  [[ $code != 0 && $out == *NotFound* ]] || fail "jazz was to be gone"
  is_refused "$old" "$new_secret"
  ok "removed, the object is gone and its key refused"
  tell "A consumer that is registered under the same name is another one: it has another key, and no approval."
  try "kubectl apply -f examples/jazz.yaml"
  try "kubectl wait --for=condition=Ready oauthconsumer/jazz --timeout=60s"
  try "kubectl get oauthconsumers"
  key=$(key_of jazz)
  [ "$key" != "$old" ] || fail "the new consumer has the old one's key"
  [[ $out == *"$key"*AwaitingApproval*False*True* ]] || fail "the new consumer was to await approval"
  is_refused "$old" "$secret"
  ok "registered again under the same name it has another key; the old one stays refused"
}

reported() {
  local reasons reason
  reasons=$(kubectl get events -o jsonpath='{.items[*].reason}')
  for reason in KeyGenerated Approved Held HoldLifted Disapproved SecretChanged SecretUnusable Revoked RecordRemoved; do
    [[ " $reasons " == *" $reason "* ]] || return 1
  done
}

looking_back() {
  chapter "Looking back"
  tell "The operator reported all of this as events."
  eventually 20 reported || true
  try "kubectl events"
  reported || fail "an event is missing"
  ok "events tell the story"
  tell "Secrets are kept as hashes: they are neither in the operator's store and log (the search finds nothing) ..."
  show "grep -rl CHANGE-ME $folder"
  [[ $code = 1 && -z $out ]] || fail "a secret was written in plain text"
  tell "... nor in any status or event."
  show "kubectl get oauthconsumers,events -o yaml | grep -c CHANGE-ME"
  [ "$out" = 0 ] || fail "a secret was published"
  ok "no secret is in the store, the log, a status or an event"
  ! grep -qi forbidden "$folder/operator.log" || fail "the operator lacks a permission"
}

the_end() {
  chapter "Stop"
  tell "A pod is stopped with SIGTERM."
  stop_operator
}

summary() {
  printf '\n\n%s\n\n' "${heading}All was as promised, in $((EPOCHSECONDS - began)) seconds:$plain"
  printf '  - %s\n' "${seen[@]}"
  printf '\n%s\n' "Read on in README.md and docs/; examples/README.md explains what was applied."
}

# ---- KEEP=1

once_more() {
  chapter "Once more, for you"
  tell "The operator starts again on the store it left behind."
  start_operator
  try "kubectl apply -k examples/"
  try "kubectl wait --for=condition=Ready oauthconsumer/jazz oauthconsumer/legacy-key --timeout=60s" # the third is revoked
  try "kubectl get oauthconsumers"
  [ "$(key_of jazz)" = "$key" ] || fail "after the restart jazz has another key than $key"
  is_refused "$(key_of nightly-export)" "$(secret_of nightly-export EXPORT_OAUTH_SECRET)"
  ok "started again, the operator knows them all by the same keys"
}

how_to_talk_to_it() {
  cat <<T


${heading}It keeps running until you press Ctrl-C. In another terminal:$plain

  export KUBECONFIG=$KUBECONFIG
  export PATH=$(dirname "$(command -v kubectl)"):\$PATH    # kubectl of the same version

  # jazz awaits approval: its sign-in is refused, until you approve it
  curl -i -u $key:$secret $signin
  kubectl --context approver patch oauthconsumer jazz $decide -p 'spec: {approved: true}'

  # You are the requester, who may not approve; --context admin may do nearly everything
  kubectl get oauthconsumers -o wide
  kubectl describe oauthconsumer jazz
  kubectl explain oauthconsumers.spec

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
  [ -n "$stopping" ] || fail "the operator ended by itself"
  trap '' INT TERM HUP # one is enough: the rest is quick
  printf '\n\n'
  stop_operator
  printf '%s\n' "The API server ends as well, and everything is removed."
}

# ---- Run

make_folder "${TMPDIR:-/tmp}/oauthconsumer-demo.XXXXXX"
export KUBECACHEDIR=$folder/kube-cache # or kubectl leaves a folder per run in ~/.kube/cache
for variable in "${!OAUTHCONSUMER_@}"; do unset "$variable"; done # settings that are meant for other operators
ports=$(free_ports 2)
read -r signin_port admin_port <<<"$ports"
signin=http://127.0.0.1:$signin_port/signin admin=http://127.0.0.1:$admin_port
secret=$(sed -n 's/^  consumerSecret: //p' examples/jazz.yaml)
new_secret=CHANGE-ME-jazz-after-the-rotation export_secret=CHANGE-ME-export-after-the-rotation
git=system:serviceaccount:gitops:git
decide='--field-manager oauthconsumers-approval --type merge' # so that pipelines leave alone what was decided

an_api_server
the_operator
people
register
not_before_approval
approve
edit
hold_and_disapprove
a_bad_secret
break_glass
remove
looking_back
the_end
if [ "${KEEP:-0}" = 0 ]; then
  summary
  printf '%s\n' "make demo KEEP=1 leaves everything running at the end, to try things out."
else
  once_more
  summary
  how_to_talk_to_it
  keep_running
fi
