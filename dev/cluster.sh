#!/usr/bin/env bash
# usage: dev/cluster.sh up|env|down
#
# The Kubernetes of dev/with-cluster.sh, for trying things by hand: `up` starts it and leaves it running until `down`;
# `env` prints the environment that dev/with-cluster.sh gives to its command, for eval. There can be one of this kind.
# A restart of the machine ends it too. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=/run/oauthconsumer-operator-cluster

say() { printf '%s\n' "$(basename "$0"): $*" >&2; }

running() { # not somebody else who got its number
  [ -e "$state/pid" ] && grep -qs with-cluster.sh "/proc/$(cat "$state/pid")/cmdline"
}

up() {
  if ! running; then
    rm -rf "$state"
    mkdir "$state"
    "$here/controlplane/binaries.sh" etcd kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet helm >/dev/null
    # shellcheck disable=SC2016 # expanded in there
    setsid "$here/with-cluster.sh" bash -c '
      ln -s "$KUBECONFIG" "$0/kubeconfig"
      KUBECONFIG=$0/kubeconfig
      for name in KUBECONFIG OAUTHCONSUMER_TEST_CLUSTER PATH KUBECACHEDIR "${!HELM_@}" "${!DEV_CLUSTER_@}" "${!CONTAINERD_@}"; do
        printf "export %s=%q\n" "$name" "${!name}"
      done >"$0/env.part"
      mv "$0/env.part" "$0/env"
      exec sleep infinity' "$state" >"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    until [ -e "$state/env" ]; do
      running || { cat "$state/log" >&2; rm -rf "$state"; exit 1; }
      sleep 0.2
    done
  fi
  cat <<N
The cluster is up, until: make cluster-down

  export KUBECONFIG=$state/kubeconfig
  kubectl get nodes

or, to get its own kubectl, helm and all else that the scripts in dev/ want to know of it:

  eval "\$(dev/cluster.sh env)"

Next, the operator's image into it:

  make image && dev/cluster/load-image.sh
N
}

down() {
  if running; then
    kill "$(cat "$state/pid")"
    while running; do sleep 0.1; done
  fi
  rm -rf "$state"
}

[ "$(id -u)" = 0 ] || { say "needs root"; exit 1; }
case ${1:-} in
  up | down) "$1" ;;
  env) if ! running || ! cat "$state/env" 2>/dev/null; then say "no cluster is up: make cluster"; exit 1; fi ;;
  -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
