#!/usr/bin/env bash
# usage: dev/cluster/load-image.sh [FILE.tar]
#
# Puts the images in FILE.tar, unless given the one that dev/image.sh makes, into the node of dev/with-cluster.sh, or of
# `make cluster`, and prints their names as the node knows them: "a:b" has become "docker.io/library/a:b", and both are
# right in a pod. Pods need imagePullPolicy IfNotPresent or Never: there is no registry to be reached.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

case ${1:-} in
  -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac
if [ -z "${CONTAINERD_ADDRESS:-}" ]; then
  environment=$("$here/../cluster.sh" env)
  eval "$environment"
fi
tar=${1:-$here/../../target/image/oauthconsumer-operator.tar}
# The snapshotter is the one that the node's daemon has in its configuration.
ctr images import --snapshotter "$(sed -n 's/^ *snapshotter = "\(.*\)"/\1/p' "$DEV_CLUSTER_DIR/containerd.toml")" "$tar" |
  sed -n 's/^unpacking \([^ ]*\) .*/\1/p'
