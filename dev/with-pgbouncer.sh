#!/usr/bin/env bash
# usage: dev/with-postgres.sh dev/with-pgbouncer.sh COMMAND [ARG...]
#
# Runs COMMAND with a PgBouncer on 127.0.0.1, on a free port, in front of the server that OAUTHCONSUMER_TEST_POSTGRES_URL
# names; ends it afterwards and leaves nothing behind. It pools by transaction: two statements of one client may run in
# two sessions of the server, three at most for a user and database. Every database and role of the server can be used
# through it, also those that COMMAND makes. The exit code is COMMAND's. Where PgBouncer is missing, root on a
# Debian-like machine gets it installed; others are told what to install.
#
# COMMAND finds in its environment
#   OAUTHCONSUMER_TEST_PGBOUNCER_URL   OAUTHCONSUMER_TEST_POSTGRES_URL with PgBouncer's port
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=dev/lib.sh
. "$here/lib.sh"

case ${1:-} in
  '') usage >&2; exit 2 ;;
  -h | --help) usage; exit ;;
esac

[[ ${OAUTHCONSUMER_TEST_POSTGRES_URL:-} =~ ^(postgres://([a-z]+)@127\.0\.0\.1):([0-9]+)(/.*)$ ]] ||
  { say "run it inside dev/with-postgres.sh, which sets OAUTHCONSUMER_TEST_POSTGRES_URL"; exit 2; }
before=${BASH_REMATCH[1]} user=${BASH_REMATCH[2]} server_port=${BASH_REMATCH[3]} after=${BASH_REMATCH[4]}

PATH=$PATH:/usr/sbin # where Debian puts it, and users do not look
if ! command -v pgbouncer >/dev/null; then
  # Debian would start a service of its own, now and at every boot; nobody asked for that.
  unit=/etc/systemd/system/pgbouncer.service
  if [ "$(id -u)" = 0 ] && [ ! -e "$unit" ] && [ ! -L "$unit" ]; then
    mkdir -p "${unit%/*}"
    ln -s /dev/null "$unit" # masked; `systemctl unmask pgbouncer` takes it back
  fi
  install_package pgbouncer
fi

port=$(free_ports 1)
make_folder /tmp/pgbouncer.XXXXXX # not TMPDIR: the user postgres must be able to enter it
# Trusts whom the server trusts, which is every role: auth_query tells which there are.
# extra_float_digits: many drivers set it, and PgBouncer refuses connections that set what it does not know.
cat >"$folder/pgbouncer.ini" <<Y
[databases]
* = host=127.0.0.1 port=$server_port
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $folder/users
auth_user = $user
admin_users = $user
auth_query = SELECT rolname, NULL FROM pg_roles WHERE rolname = \$1
pool_mode = transaction
default_pool_size = 3
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
Y
echo "\"$user\" \"\"" >"$folder/users"
as_postgres
[ "$(id -u)" != 0 ] || chown postgres "$folder"/*

# Stopped with KILL: there is nothing to save, and what TERM means to it depends on the version.
start pgbouncer KILL env -C "$folder" pgbouncer "$folder/pgbouncer.ini"
wait_for 30 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"

export OAUTHCONSUMER_TEST_PGBOUNCER_URL=$before:$port$after
run "$@"
