# shellcheck shell=bash
# What the dev/with-*.sh scripts share: a temporary folder, daemons and a command, which all end together.
# Source it; it sets the traps. Linux only, because of setpriv (util-linux).

say() { printf '%s\n' "$(basename "$0"): $*" >&2; }

usage() { sed -n '2,/^[^#]/{/^# shellcheck/!s/^# \{0,1\}//p}' "$0"; } # the comment at the top of the script

command -v setpriv >/dev/null || { say "needs setpriv of util-linux 2.33 or newer, so Linux"; exit 1; }
[ -e /dev/fd/0 ] || exec </dev/null # was started with stdin closed

folder='' pipe='' cleaner='' daemons=() stop_signals=()
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# make_folder TEMPLATE [AT_END]: sets $folder, which is gone once this script and its daemons are, even after kill -9:
# they all hold the write end of one pipe, and the process at its other end waits for the last of them.
# AT_END, for what daemons leave running, is code for sh, which finds the folder in $1. More than one round, because
# something that was just starting can still write.
make_folder() {
  folder=$(mktemp -d "$1")
  # shellcheck disable=SC2016 # the sh in there expands it
  exec {pipe}> >(exec setsid sh -c 'cat; for i in 1 2 3 4 5; do eval "$2"; rm -rf "$1" && break; sleep 0.5; done' \
    sh "$folder" "${2:-}" >/dev/null 2>&1)
  cleaner=$!
}

# as_postgres: as root, who PostgreSQL and PgBouncer refuse to run as, $folder and what is started from here on belong to
# the user postgres.
as_postgres() {
  [ "$(id -u)" = 0 ] || return 0
  id -u postgres >/dev/null 2>&1 || { say "run by root, this needs a system user called postgres to run the server as"; exit 1; }
  chown postgres "$folder"
  as_user=(--reuid postgres --regid "$(id -g postgres)" --init-groups)
}

# Prints the folder of the newest initdb that works. Debian's real folders first: what is on the PATH may be a wrapper.
find_server() {
  local initdb
  while read -r initdb; do
    if "$initdb" --version >/dev/null 2>&1 && [ -x "$(dirname "$initdb")/postgres" ]; then
      dirname "$initdb"
      return
    fi
  done < <(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -rV; readlink -f "$(command -v initdb)" || true)
  return 1
}

# install_package NAME: as root on a Debian-like machine; others are told to.
install_package() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "found no $1; install it, on Debian: apt-get install $1"
    exit 1
  fi
  say "installing $1 ..."
  # stdin: the package manager asks nobody anything, and must not eat what COMMAND is to read
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$1"; } </dev/null >&2
}

# free_ports COUNT: as many free ports of 127.0.0.1, from the kernel, all different.
free_ports() {
  python3 -c 'import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))' "$1"
}

# start NAME SIGNAL COMMAND...: a daemon with its log and pid in $folder, stopped with SIGNAL.
# pdeathsig: it also dies when this script is killed with -9. setsid: Ctrl-C is for the command, not for daemons.
# as_user holds setpriv's options for another user, if any.
as_user=()
start() {
  local name=$1 signal=$2
  shift 2
  setpriv "${as_user[@]}" --pdeathsig KILL setsid "$@" >"$folder/$name.log" 2>&1 </dev/null &
  echo $! >"$folder/$name.pid"
  daemons+=($!) stop_signals+=("$signal")
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds. Shows the logs and ends the script when a daemon died or time is up.
wait_for() {
  local until=$((SECONDS + $1)) problem='' pid log
  shift
  until "$@" >/dev/null 2>&1; do
    for pid in "${daemons[@]}"; do
      kill -0 "$pid" 2>/dev/null || problem="a daemon ended while starting"
    done
    [ "$SECONDS" -lt "$until" ] || problem="not up in time"
    if [ -n "$problem" ]; then
      say "$problem; tried: $*"
      for log in "$folder"/*.log; do
        say "the end of $(basename "$log"):"
        tail -n 30 "$log" >&2
      done
      exit 1
    fi
    sleep 0.1
  done
}

# run COMMAND...: ends the script with COMMAND's exit code.
# In the background, because bash runs no trap while a command in the foreground goes on: a TERM would have to wait for it.
# What bash does to background commands is undone: stdin from /dev/null, INT and QUIT ignored.
run() {
  local command code=127 status interrupted=yes
  setpriv --pdeathsig TERM env --default-signal=INT,QUIT "$@" <&0 {pipe}>&- &
  command=$!
  trap 'interrupted=yes; kill -TERM "$command" 2>/dev/null || true' INT TERM HUP
  while [ "$interrupted" = yes ]; do # a signal ends `wait`, not the command
    interrupted=no status=0
    wait "$command" || status=$?
    [ "$status" = 127 ] || code=$status # 127 the second time: its code was already taken
  done
  exit "$code"
}

stop() {
  trap '' INT TERM HUP
  local i
  for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do # the last one started first: it uses the others
    kill -"${stop_signals[i]}" "${daemons[i]}" 2>/dev/null || true
    wait "${daemons[i]}" 2>/dev/null || true
  done
  if [ -n "$folder" ]; then
    exec {pipe}>&-
    wait "$cleaner" 2>/dev/null || true
  fi
}
