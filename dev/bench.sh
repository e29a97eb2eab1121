#!/usr/bin/env bash
# usage: dev/bench.sh [ARG...]
#
# Runs the benchmarks in benches/, with ARGs for `cargo bench`, as in --bench signin. They take a quarter of an hour
# together and want the machine for themselves. Where wrk is missing, root on a Debian-like machine gets it installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=dev/lib.sh
. "$here/lib.sh"

case ${1:-} in
  -h | --help) usage; exit ;;
esac
command -v wrk >/dev/null || install_package wrk
cd "$here/.."
cargo bench --locked --no-run --bench revocation --bench signin --bench uniform
[ $# -gt 0 ] || set -- --bench revocation --bench signin --bench uniform
exec dev/with-control-plane.sh dev/with-postgres.sh cargo bench --locked "$@"
