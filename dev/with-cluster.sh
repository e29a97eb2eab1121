#!/usr/bin/env bash
# usage: dev/with-cluster.sh COMMAND [ARG...]
#
# Runs COMMAND with a Kubernetes of its own that has one node and runs real pods (ten seconds; 700 MB), ends it afterwards
# and leaves nothing behind. The exit code is COMMAND's. Any number can run at the same time. Needs root, and gets
# containerd, runc, CNI plugins, nft, ip and busybox from Debian's packages where they are missing. The node has PID,
# mount and network namespaces of its own: there is no way from it to any network, only to this machine, which routes
# 10.250.N.0/30, 10.251.N.0/24 and 10.252.N.0/24 to it, with the first N that nobody else of its kind has.
#
# COMMAND reaches the API server, the node, and the addresses of pods and Services. It finds in its environment
#   KUBECONFIG, OAUTHCONSUMER_TEST_CLUSTER   one kubeconfig with the contexts admin (current; may do everything),
#                        requester, approver, viewer and stranger (may do nothing until bound to a role)
#   PATH                 with the server's own kubectl, and helm, first
#   DEV_CLUSTER_DIR      a folder for whatever has to end with the cluster, such as volumes; the logs are there too
#   DEV_CLUSTER_HOST_IP  this machine, as pods reach it
#   DEV_CLUSTER_NODE_IP  the node
#   DEV_CLUSTER_NETNS    the node's network namespace, for nsenter --net=
#   CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE   with which `ctr` finds the node's containers and images
#
# Load an image with dev/cluster/load-image.sh FILE.tar, or `ctr images import FILE.tar`; one with busybox is there as
# dev.local/busybox:1. The default StorageClass makes folders of the node's. There is no DNS, nothing enforces NetworkPolicies.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=dev/lib.sh
. "$here/lib.sh"

case ${1:-} in
  '') usage >&2; exit 2 ;;
  -h | --help) usage; exit ;;
esac

[ "$(id -u)" = 0 ] || { say "needs root, because it makes namespaces, cgroups and mounts; without root: dev/with-control-plane.sh, which runs no pods"; exit 1; }
export PATH=$PATH:/usr/sbin:/sbin
command -v containerd >/dev/null || install_package containerd
command -v runc >/dev/null || install_package runc
command -v nft >/dev/null || install_package nftables
command -v ip >/dev/null || install_package iproute2
command -v busybox >/dev/null || install_package busybox
[ -x /usr/lib/cni/ptp ] || install_package containernetworking-plugins
bin=$("$here/controlplane/binaries.sh" etcd kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet helm)

# The kernel ends and unmounts everything with the node's first process. What is left are cgroups, and the network for the
# moment that the kernel takes to take it apart: whoever looks next should not find it.
# shellcheck disable=SC2016 # the sh that cleans up expands it
make_folder "${TMPDIR:-/tmp}/cluster.XXXXXX" '
  link=none index=none
  [ ! -e "$1/link" ] || read -r link index <"$1/link"
  for try in $(seq 50); do
    left=no
    for cgroup in /sys/fs/cgroup/"${1##*/}" /sys/fs/cgroup/*/"${1##*/}"; do
      [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} + || left=yes
    done
    [ "$left" = yes ] || [ "$(cat "/sys/class/net/$link/ifindex")" = "$index" ] || break
    sleep 0.1
  done'
case $folder in
  /run/* | /var/*) say "TMPDIR must not be below /run or /var, of which the node has copies of its own"; exit 1 ;;
esac

exec {complaints}>&2 # the node's own output is gone with the folder
start node KILL unshare --pid --mount --net --propagation slave --fork --kill-child "$here/cluster/node.sh" "$folder" "$bin" "$complaints"
wait_for 10 test -s "$folder/node.pid"
node=$(cat "$folder/node.pid")
netns=/proc/$node/ns/net

# Whoever makes the link with a number has its addresses.
link=''
for number in {0..255}; do
  if problem=$(ip link add "oadev$number" type veth peer name eth0 netns "$node" 2>&1); then
    link=oadev$number
    break
  fi
done
[ -n "$link" ] || { say "cannot connect the node: $problem"; exit 1; }
echo "$link $(cat "/sys/class/net/$link/ifindex")" >"$folder/link"
host_ip=10.250.$number.1 node_ip=10.250.$number.2 pods=10.251.$number.0/24 services=10.252.$number.0/24
ip addr add "$host_ip/30" dev "$link"
ip link set "$link" up
ip route add "$pods" via "$node_ip"
ip route add "$services" via "$node_ip"
in_node() { nsenter --net="$netns" "$@"; }
in_node ip link set lo up
in_node ip addr add "$node_ip/30" dev eth0
in_node ip link set eth0 up
# The node's own programs need a route to a Service before its address is translated. Other networks are refused at
# once, instead of tried until a timeout.
in_node ip route add "$services" dev lo src "$node_ip"
in_node ip route add unreachable default

# Who is who. Users come with a token each; the server adds everybody to system:authenticated.
user() { # name groups
  local token
  token=$(openssl rand -hex 16)
  echo "$token,$1,$1${2:+,$2}" >>"$folder/tokens.csv"
  tokens[$1]=$token
}
kubeconfig() { # user...: the first is the current context's
  local user
  cat <<Y
apiVersion: v1
kind: Config
clusters:
- name: dev
  cluster: {server: "https://$node_ip:6443", certificate-authority: "$folder/certs/apiserver.crt"}
current-context: "$1"
users:
$(for user; do echo "- {name: \"$user\", user: {token: ${tokens[$user]}}}"; done)
contexts:
$(for user; do echo "- {name: \"$user\", context: {cluster: dev, user: \"$user\"}}"; done)
Y
}
declare -A tokens
user admin system:masters
people=(requester approver viewer stranger)
for person in "${people[@]}"; do user "$person"; done
kubeconfig admin "${people[@]}" >"$folder/kubeconfig"
user system:node:node1 system:nodes
kubeconfig system:node:node1 >"$folder/kubelet.kubeconfig"
for component in kube-controller-manager kube-scheduler kube-proxy; do
  user "system:$component"
  kubeconfig "system:$component" >"$folder/$component.kubeconfig"
done
openssl ecparam -name prime256v1 -genkey -noout -out "$folder/service-accounts.key"
# With which the API server comes to the kubelet; its own CA, as there is no other.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=kube-apiserver \
  -keyout "$folder/kubelet-client.key" -out "$folder/kubelet-client.crt" 2>/dev/null

echo "$node_ip $pods $services" >"$folder/addresses.part"
mv "$folder/addresses.part" "$folder/addresses" # the node waits for it

# Nothing below can reach another cluster: a kubectl or client finds this kubeconfig and no other.
export KUBECONFIG=$folder/kubeconfig OAUTHCONSUMER_TEST_CLUSTER=$folder/kubeconfig PATH=$bin:$PATH
export DEV_CLUSTER_DIR=$folder DEV_CLUSTER_HOST_IP=$host_ip DEV_CLUSTER_NODE_IP=$node_ip DEV_CLUSTER_NETNS=$netns
export CONTAINERD_ADDRESS=$folder/containerd.sock CONTAINERD_NAMESPACE=k8s.io
# kubectl keeps what it learns of a server by address, which another will have; and nobody's own Helm settings matter here.
export KUBECACHEDIR=$folder/kube-cache
export HELM_CACHE_HOME=$folder/helm/cache HELM_CONFIG_HOME=$folder/helm/config HELM_DATA_HOME=$folder/helm/data
# All of it is on this machine, and kube's client takes HTTPS_PROXY even for that.
unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy

wait_for 120 test -e "$folder/ready"
run "$@"
