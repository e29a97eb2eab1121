#!/usr/bin/env bash
# usage: dev/with-patroni.sh COMMAND [ARG...]
#
# Runs COMMAND with a Patroni pair: two PostgreSQL servers, each under a Patroni of its own, one streaming to the other
# asynchronously, and an etcd of theirs, all on 127.0.0.1 on free ports; ends them afterwards and leaves nothing behind.
# The exit code is COMMAND's. Any number can run at the same time. Three to five seconds until COMMAND starts. Where
# PostgreSQL or Patroni is missing, root on a Debian-like machine gets it installed; others get a pinned Patroni from PyPI
# in the cache folder, and are told to install PostgreSQL.
#
# COMMAND finds in its environment PATRONI_DIR, a folder with the logs and these programs. PORT is always PostgreSQL's.
#   leader-port      prints the leader's PORT; fails when there is no leader
#   replica-port     prints the replica's PORT; fails when there is none
#   url PORT         prints postgres://postgres@127.0.0.1:PORT/postgres (a superuser, no password)
#   cut-replication  what is committed after it never reaches the replica, not even late
#   kill-leader      kill -9 of the leader and its Patroni; prints its PORT
#   expire-lock      makes etcd forget the killed leader now, as it does by itself after 20 seconds
#   wait-leader      waits until there is a leader that accepts writes; prints its PORT. 20 seconds without expire-lock
#   wake-old-leader  starts what kill-leader killed once more on its PORT, without Patroni: it takes itself for the
#                    leader, on the old timeline, and accepts writes; prints its PORT
set -euo pipefail

# === The programs in PATRONI_DIR: links to this file. ===

nodes=(a b)

# node_with ROLE: the node whose Patroni says that it has it: /primary answers 200 only for who holds the lock.
# By hand, because it is asked all the time while the servers start, and curl takes longer to start than to ask.
node_with() {
  local node
  for node in "${nodes[@]}"; do
    if (
      exec 3<>"/dev/tcp/127.0.0.1/${api_port[$node]}" || exit
      printf 'HEAD /%s HTTP/1.0\r\n\r\n' "$1" >&3
      read -rt 3 -u 3 -d '' answer || true # to the end, or Patroni complains in its log
      [[ $answer = HTTP/1.?' 200 '* ]]
    ) 2>/dev/null; then
      printf '%s\n' "$node"
      return
    fi
  done
  return 1
}

port_with() {
  local node
  node=$(node_with "$1") && printf '%s\n' "${port[$node]}"
}

# Not only asked, but tried: for a moment the new leader has the lock and is still in recovery.
writable_leader() {
  local at
  at=$(port_with primary) && "$bin/psql" -Xqt -d "$(url "$at")?connect_timeout=2" -c 'SELECT pg_current_xact_id()' >/dev/null 2>&1 &&
    printf '%s\n' "$at"
}

url() { printf 'postgres://postgres@127.0.0.1:%d/postgres\n' "$1"; }

# wait_dead PID...: zombies are dead, and in a container they may stay for ever.
wait_dead() {
  local pid
  for pid in "$@"; do
    while grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status"; do sleep 0.01; done
  done
}

children() { grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status | cut -d/ -f3; }

# The sockets of a dead forwarder are closed, so what was not yet in the replica's is lost.
cut_replication() {
  local pid
  pid=$(cat "$folder/forwarder.pid")
  kill -KILL "$pid" 2>/dev/null || true
  wait_dead "$pid"
}

kill_leader() {
  local node patroni lock postmaster all
  node=$(node_with primary) || { echo "kill-leader: there is no leader" >&2; return 1; }
  patroni=$(cat "$folder/patroni-$node.pid")
  kill -KILL -- "-$patroni" # first, because it would start the server again
  lock=$folder/$node/data/postmaster.pid
  read -r postmaster <"$lock"
  kill -STOP "$postmaster" # so that the list of its children is complete
  until grep -qs '^State:[[:space:]]*T' "/proc/$postmaster/status"; do sleep 0.01; done
  mapfile -t all < <(echo "$postmaster"; children "$postmaster")
  kill -KILL "${all[@]}"
  wait_dead "$patroni" "${all[@]}"
  # What a server removes that ends by itself: its piece of System V shared memory, and its lock files, which would keep
  # the next one from starting for as long as there is a process with that number, and be it a zombie.
  ipcrm --shmem-id "$(awk 'NR == 7 {print $2}' "$lock")" || true
  rm -f "$lock" "$folder/$node"/.s.PGSQL.*
  echo "$node" >"$folder/killed"
  printf '%s\n' "${port[$node]}"
}

# What happens at the end of its time to live: with the lease goes all that the leader had put under it.
expire_lock() {
  local etcd=http://127.0.0.1:$etcd_port/v3 lease
  get() { curl --noproxy '*' --fail --silent --show-error --max-time 3 "$@"; }
  lease=$(get "$etcd/kv/range" --data "{\"key\": \"$(printf /service/pair/leader | base64)\"}" |
    sed -n 's/.*"lease":"\([0-9]*\)".*/\1/p')
  [ -z "$lease" ] || get --output /dev/null "$etcd/lease/revoke" --data "{\"ID\": \"$lease\"}"
}

wait_leader() {
  local until=$((SECONDS + 60))
  until writable_leader; do
    [ "$SECONDS" -lt "$until" ] || { echo "wait-leader: no leader within a minute" >&2; return 1; }
    sleep 0.1
  done
}

wake_old_leader() {
  local node pid
  node=$(cat "$folder/killed" 2>/dev/null) || { echo "wake-old-leader: kill-leader comes first" >&2; return 1; }
  setpriv "${as_user[@]}" setsid env -C "$folder" "$bin/postgres" -D "$folder/$node/data" \
    >"$folder/old-leader.log" 2>&1 </dev/null &
  pid=$!
  until "$bin/pg_isready" --quiet --host 127.0.0.1 --port "${port[$node]}"; do
    kill -0 "$pid" 2>/dev/null || { cat "$folder/old-leader.log" >&2; return 1; }
    sleep 0.05
  done
  printf '%s\n' "${port[$node]}"
}

here=$(cd "$(dirname "$0")" && pwd)
if [ "$(basename "$0")" != with-patroni.sh ]; then
  folder=$here
  # shellcheck disable=SC1091 # see the declare -p below
  . "$folder/settings"
  case $(basename "$0") in
    leader-port) port_with primary ;;
    replica-port) port_with replica ;;
    url) url "$1" ;;
    cut-replication) cut_replication ;;
    kill-leader) kill_leader ;;
    expire-lock) expire_lock ;;
    wait-leader) wait_leader ;;
    wake-old-leader) wake_old_leader ;;
  esac
  exit
fi

# === The script itself. ===

# shellcheck source=dev/lib.sh
. "$here/lib.sh"

case ${1:-} in
  '') usage >&2; exit 2 ;;
  -h | --help) usage; exit ;;
esac

# Sets $patroni, the command.
find_patroni() {
  local version=4.1.5 cache=${XDG_CACHE_HOME:-$HOME/.cache}/oauthconsumer-operator venv part
  if [ "$(id -u)" = 0 ]; then
    # Debian's, because the user postgres could not enter a cache in root's home. Its service does nothing without a
    # configuration.
    patroni=(/usr/bin/patroni)
    [ -x "${patroni[0]}" ] || install_package patroni
    return
  fi
  venv=$cache/patroni-$version
  patroni=("$venv/bin/python" -m patroni) # not bin/patroni, which knows the folder that it was made in
  [ ! -d "$venv" ] || return 0
  say "installing Patroni $version from PyPI into $venv ..."
  mkdir -p "$cache"
  part=$(mktemp -d "$venv.XXXXXX")
  if ! python3 -m venv "$part" >&2 || ! "$part/bin/pip" --quiet install "patroni[etcd3,psycopg2-binary]==$version" </dev/null >&2; then
    rm -rf "$part"
    say "cannot install Patroni"
    exit 1
  fi
  mv -T "$part" "$venv" 2>/dev/null || rm -rf "$part" # somebody else was faster
}

if ! bin=$(find_server); then
  "$here/with-postgres.sh" true # which installs it
  bin=$(find_server)
fi
find_patroni
etcd=$("$here/controlplane/binaries.sh")/etcd
ports=$(free_ports 8)
declare -A port api_port forward_port
read -r etcd_port peer_port 'port[a]' 'port[b]' 'api_port[a]' 'api_port[b]' 'forward_port[a]' 'forward_port[b]' <<<"$ports"

# Patroni detaches the servers that it starts, so they outlive it. QUIT is their immediate shutdown: nothing to save, and
# it waits for no client. A server that has ended removed its lock file.
# shellcheck disable=SC2016 # the sh that gets it expands it
make_folder /tmp/patroni.XXXXXX ' # not TMPDIR: the user postgres must be able to enter it, and socket paths must be short
  for lock in "$1"/[ab]/data/postmaster.pid; do
    read -r pid <"$lock" || continue
    pid=${pid#-} # negative while Patroni prepares the data
    [ "$(cat "/proc/$pid/comm")" = postgres ] || continue
    kill -QUIT "$pid"; kill -CONT "$pid"
    for j in $(seq 100); do [ -e "$lock" ] || continue 2; sleep 0.05; done
    kill -KILL "$pid"
  done'

start etcd KILL "$etcd" --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
  --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
  --initial-cluster "default=http://127.0.0.1:$peer_port"

# Replication goes through this, so that it can be cut.
start forwarder KILL python3 -c '
import asyncio, sys

async def pump(source, sink):
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()

async def forward(listen, target):
    async def connected(reader, writer):
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            return writer.close()
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))
    await (await asyncio.start_server(connected, "127.0.0.1", listen)).serve_forever()

async def main(ports):
    await asyncio.gather(*(forward(*pair) for pair in zip(ports[::2], ports[1::2])))

asyncio.run(main([int(port) for port in sys.argv[1:]]))
' "${forward_port[a]}" "${port[a]}" "${forward_port[b]}" "${port[b]}"
disown # what is killed on purpose is not worth bash's message

as_postgres
# ttl, loop_wait, retry_timeout: the least that Patroni takes; the ttl is what a failover takes.
# fsync off: against a kill the page cache is enough. synchronous_commit stays on: without it a commit can still be in the
# memory of the server, and a killed leader must know what it said it knew.
for node in "${nodes[@]}"; do
  cat >"$folder/$node.yml" <<Y
scope: pair
name: $node
etcd3: {host: "127.0.0.1:$etcd_port"}
restapi: {listen: "127.0.0.1:${api_port[$node]}", connect_address: "127.0.0.1:${api_port[$node]}"}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    maximum_lag_on_failover: 1073741824
    synchronous_mode: false
    postgresql: {use_pg_rewind: false, use_slots: false, parameters: {max_connections: 200}}
  initdb: [{auth: trust}, {encoding: UTF8}, no-locale, no-sync]
postgresql:
  listen: "127.0.0.1:${port[$node]}"
  connect_address: "127.0.0.1:${forward_port[$node]}"
  data_dir: $folder/$node/data
  bin_dir: $bin
  basebackup: [{checkpoint: fast}, no-sync]
  pgpass: $folder/$node/pgpass
  authentication: {superuser: {username: postgres}, replication: {username: postgres}}
  pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
  parameters: {unix_socket_directories: $folder/$node, fsync: "off"}
Y
  setpriv "${as_user[@]}" mkdir "$folder/$node"
  chmod a+r "$folder/$node.yml"
  # HOME: libpq looks for files there, and root's is closed to the user postgres.
  start "patroni-$node" KILL env -C "$folder" HOME="$folder" "${patroni[@]}" "$folder/$node.yml"
  disown
done
declare -p bin as_user etcd_port port api_port >"$folder/settings"
for program in leader-port replica-port url cut-replication kill-leader expire-lock wait-leader wake-old-leader; do
  ln -s "$here/with-patroni.sh" "$folder/$program"
done

# shellcheck disable=SC2317 # wait_for calls it
streaming() {
  local at
  at=$(writable_leader) && port_with replica >/dev/null &&
    [ "$("$bin/psql" -XAtd "$(url "$at")" -c "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")" = 1 ]
}
wait_for 60 streaming

export PATRONI_DIR=$folder
run "$@"
