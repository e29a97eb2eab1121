#!/usr/bin/env bash
# usage: dev/deny.sh
#
# Checks the crates in Cargo.lock with cargo-deny, as deny.toml says: duplicates, licences and sources always,
# known vulnerabilities where their database can be fetched. Installs cargo-deny where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
  -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac

if ! cargo deny --version >/dev/null 2>&1; then
  echo "deny: installing cargo-deny (once; about two minutes on two cores) ..." >&2
  # Its next minor version may read deny.toml differently, so a new one is taken on purpose, here.
  cargo install --locked cargo-deny --version '^0.20'
fi

cargo deny --locked check --hide-inclusion-graph bans licenses sources

# Fetched first and checked after, so that an unreachable database and a vulnerability are two different failures.
# No prompt for a password, and no waiting for ever, where something in between swallows the connection.
if GIT_TERMINAL_PROMPT=0 timeout 180 cargo deny --locked fetch db; then
  cargo deny --locked check --hide-inclusion-graph advisories
else
  echo "deny: THE ADVISORY DATABASE COULD NOT BE FETCHED (reason above): nothing was checked for known vulnerabilities." >&2
  echo "deny: bans, licences and sources were, and passed." >&2
fi
