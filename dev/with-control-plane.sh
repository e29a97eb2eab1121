#!/usr/bin/env bash
# usage: dev/with-control-plane.sh COMMAND [ARG...]
#
# Runs COMMAND with a Kubernetes control plane of its own (etcd and kube-apiserver on 127.0.0.1, on free
# ports), ends it afterwards and leaves nothing behind. The exit code is COMMAND's. Any number can run at
# the same time, also inside each other. There is no controller manager: namespaces never finish
# terminating, nothing is garbage collected, no pod starts.
#
# COMMAND finds in its environment
#   KUBECONFIG, OAUTHCONSUMER_TEST_KUBECONFIG   one kubeconfig with the contexts admin (current; may do
#                          everything), operator, requester, approver, alice and bob (may do nothing until bound
#                          to a role)
#   PATH                   with the server's own kubectl first, and Helm
#   DEV_CONTROL_PLANE_DIR  a folder with etcd-url, etcd.pid, apiserver.pid, etcd.log, apiserver.log
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=dev/lib.sh
. "$here/lib.sh"

case ${1:-} in
  '') usage >&2; exit 2 ;;
  -h | --help) usage; exit ;;
esac

bin=$("$here/controlplane/binaries.sh")
helm=$("$here/controlplane/binaries.sh" helm)
ports=$(free_ports 3)
read -r client_port peer_port api_port <<<"$ports"
make_folder "${TMPDIR:-/tmp}/control-plane.XXXXXX"
echo "http://127.0.0.1:$client_port" >"$folder/etcd-url"

# Who is who; the server adds everybody to system:authenticated. mktemp made the folder readable for its owner only.
kubeconfig=$folder/kubeconfig
{
  cat <<Y
apiVersion: v1
kind: Config
clusters:
- name: dev
  cluster: {server: "https://127.0.0.1:$api_port", certificate-authority: "$folder/certs/apiserver.crt"}
current-context: admin
users:
Y
  for user in admin operator requester approver alice bob; do
    token=$(openssl rand -hex 16)
    groups=''
    [ "$user" != admin ] || groups=,system:masters
    echo "$token,$user,$user$groups" >>"$folder/tokens.csv"
    echo "- {name: $user, user: {token: $token}}"
  done
  echo 'contexts:'
  for user in admin operator requester approver alice bob; do
    echo "- {name: $user, context: {cluster: dev, user: $user}}"
  done
} >"$kubeconfig"
openssl ecparam -name prime256v1 -genkey -noout -out "$folder/service-accounts.key"

# Stopped with KILL: the data is thrown away, and a server that a test has paused (STOP) ends as well.
start etcd KILL "$bin/etcd" --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls "http://127.0.0.1:$client_port" --advertise-client-urls "http://127.0.0.1:$client_port" \
  --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
  --initial-cluster "default=http://127.0.0.1:$peer_port"

# --cert-dir: the server makes a serving certificate for 127.0.0.1 there, followed by the CA that signed it.
# --advertise-address: without it the server looks for a default route, which a machine may not have;
# --endpoint-reconciler-type: that address is loopback, which no Endpoints object may hold, so do not try.
start apiserver KILL "$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$client_port" \
  --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$api_port" --endpoint-reconciler-type none \
  --cert-dir "$folder/certs" --token-auth-file "$folder/tokens.csv" --authorization-mode RBAC \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$folder/service-accounts.key" \
  --service-account-signing-key-file "$folder/service-accounts.key" --service-cluster-ip-range 10.0.0.0/24

# Nothing below can reach another cluster: a kubectl or client finds this kubeconfig and no other.
export KUBECONFIG=$kubeconfig OAUTHCONSUMER_TEST_KUBECONFIG=$kubeconfig DEV_CONTROL_PLANE_DIR=$folder PATH=$bin:$helm:$PATH
export KUBECACHEDIR=$folder/kube-cache # kubectl keeps what it learns of a server by address, and these never come back
wait_for 90 kubectl --request-timeout 5s get --raw /readyz
wait_for 30 kubectl --request-timeout 5s get namespace kube-system default # made after /readyz; the operator reads kube-system's UID

# All of it is on this machine. kube's client takes HTTPS_PROXY even for 127.0.0.1, and then refuses to work.
unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy
run "$@"
