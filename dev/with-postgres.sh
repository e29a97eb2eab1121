#!/usr/bin/env bash
# usage: dev/with-postgres.sh COMMAND [ARG...]
#
# Runs COMMAND with a PostgreSQL server of its own on 127.0.0.1, on a free port, ends it afterwards and
# leaves nothing behind. The exit code is COMMAND's. Any number can run at the same time. Where the server
# programs are missing, root on a Debian-like machine gets them installed; others are told what to install.
#
# COMMAND finds in its environment
#   OAUTHCONSUMER_TEST_POSTGRES_URL   postgres://postgres@127.0.0.1:PORT/postgres (a superuser, no password)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=dev/lib.sh
. "$here/lib.sh"

case ${1:-} in
  '') usage >&2; exit 2 ;;
  -h | --help) usage; exit ;;
esac

if ! bin=$(find_server); then
  # Debian would make and start a cluster of its own on port 5432; nobody asked for that.
  if [ "$(id -u)" = 0 ] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  fi
  install_package postgresql
  bin=$(find_server) || { say "PostgreSQL was installed, but there is still no initdb that works"; exit 1; }
fi

port=$(free_ports 1)
make_folder /tmp/postgres.XXXXXX # not TMPDIR: the user postgres must be able to enter it, and socket paths must be short
as_postgres

# From inside the folder, because initdb looks at the current one, which that user may not be able to enter.
setpriv "${as_user[@]}" env -C "$folder" "$bin/initdb" --pgdata "$folder/data" --username postgres \
  --auth trust --no-locale --encoding UTF8 --no-sync >"$folder/initdb.log" 2>&1 ||
  { say "initdb failed:"; cat "$folder/initdb.log" >&2; exit 1; }

# Stopped with QUIT, its immediate shutdown: nothing to save, and it waits for no client.
start postgres QUIT "$bin/postgres" -D "$folder/data" -h 127.0.0.1 -p "$port" -k "$folder" -F \
  -c synchronous_commit=off -c full_page_writes=off -c max_connections=200
wait_for 60 "$bin/pg_isready" --quiet --host 127.0.0.1 --port "$port"

export OAUTHCONSUMER_TEST_POSTGRES_URL=postgres://postgres@127.0.0.1:$port/postgres
run "$@"
