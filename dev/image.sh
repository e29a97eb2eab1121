#!/usr/bin/env bash
# usage: dev/image.sh [--name NAME] [--binary FILE] [--output FILE]
#
# Makes the operator's image without a container daemon: a tar file that `docker load`, `podman load` and
# `ctr images import` take. Of the release binary, which it builds, unless one is given; as NAME, or else as the chart
# calls it, oauthconsumer-operator:VERSION; in target/image/oauthconsumer-operator.tar, unless told otherwise. The same
# binary on the same machine gives the same bytes. The Dockerfile says the same for those who have a daemon.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo_toml() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" Cargo.toml | head -n 1; }
name=oauthconsumer-operator:$(cargo_toml version) binary='' output=target/image/oauthconsumer-operator.tar
while [ $# -gt 0 ]; do
  case $1 in
    --name) name=$2 ;;
    --binary) binary=$2 ;;
    --output) output=$2 ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done

if [ -z "$binary" ]; then
  cargo build --locked --release --bin oauthconsumer-operator >&2
  binary=${CARGO_TARGET_DIR:-target}/release/oauthconsumer-operator
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
dev/image/root.sh "$binary" "$root"

label() { printf '%s\n' --label "org.opencontainers.image.$1=$2"; }
mapfile -t labels < <(
  label title oauthconsumer-operator
  label description "$(cargo_toml description)"
  label version "$(cargo_toml version)"
  label licenses "$(cargo_toml license)"
  label revision "$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)" # unknown: not a checkout
)
mkdir -p "$(dirname "$output")"
dev/image/archive.py "$root" "$output.part" --name "$name" --entrypoint /usr/bin/oauthconsumer-operator \
  --owned home/nonroot --owned var/lib/oauthconsumer-operator --time "$(git log -1 --format=%ct 2>/dev/null || echo 0)" "${labels[@]}"
mv "$output.part" "$output"
printf '%s\n' "$name in $output: $(numfmt --to=si "$(stat -c %s "$output")")B, of which the binary is $(numfmt --to=si "$(stat -c %s "$binary")")B" >&2
