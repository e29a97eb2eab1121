#!/usr/bin/env bash
# usage: dev/test.sh [ARG...]
#
# Every test; ARGs go to `cargo test`, as in `dev/test.sh sweep -- --nocapture`. With `--test it` or
# `--test bounds` among them no pods are started. The tests that need pods (tests/cluster) need root, for a one-node cluster;
# without root they are left out and the end of the output says so; in CI that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit
fi

# Compiled first: a compile error then needs no servers, and what has to be downloaded may need a proxy that they unset.
cargo test --locked --no-run
servers=(dev/with-control-plane.sh dev/with-postgres.sh) left_out=''
if [[ " $* " == *" --test it "* || " $* " == *" --test bounds "* ]]; then
  :
elif [ "$(id -u)" = 0 ]; then
  dev/image.sh
  # What tests/cluster/docs.rs needs and cannot download from inside the cluster.
  dev/controlplane/binaries.sh oldest/kubectl >/dev/null
  dev/gateways.sh >/dev/null
  servers+=(dev/with-cluster.sh)
else
  left_out='the tests with real pods (tests/cluster) were left out: they need root'
  [ "${CI:-}" != true ] || { echo "test.sh: $left_out" >&2; exit 1; }
  set -- --lib --bins --test bounds --test it "$@"
fi

# A variable rather than an argument, so that ARGs can be any.
RUST_TEST_THREADS=8 "${servers[@]}" cargo test --locked "$@"
[ -z "$left_out" ] || echo "test.sh: $left_out" >&2
