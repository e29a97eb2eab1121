# shellcheck shell=bash
# Around the commands of a page: where a block begins, what has to fail, and what stands in for what there is not.
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # a port-forward, say

# begin LINE: what follows belongs to the block at this line of the page.
begin() { printf '\n\036%s %s\n' "$1" "$EPOCHREALTIME"; }

# end STATUS: of its last command; set -e overlooks some.
end() { [ "$1" = 0 ] || exit "$1"; }

# begin_refused LINE: its last command has to fail, and no other.
begin_refused() {
  begin "$1"
  failures=0
  trap 'failures=$((failures + 1))' ERR
  set +e
}

# end_refused STATUS: of the last command. 126 and 127 are bash's, for what it cannot run at all.
end_refused() {
  trap - ERR
  set -e
  if [ "$failures" != 1 ] || [ "$1" = 0 ] || [ "$1" -ge 126 ]; then
    echo "the last command has to be refused, and no other has to fail: $failures failed, the last one with $1"
    exit 1
  fi
}

# There is no registry: an image that is pushed is on the node at once, where pods find it.
skopeo() {
  local archive name
  [[ $# = 3 && $1 = copy && $2 = docker-archive:* && $3 = docker://* ]] || { echo "no stand-in for: skopeo $*"; return 2; }
  archive=${2#docker-archive:} name=${3#docker://}
  ctr images tag --force "$(dev/cluster/load-image.sh "$archive")" "$name"
}

# What takes minutes is a step of its own in .ci/run: here it only has to be there.
make() {
  case $* in
    image | demo | test | lint | 'test ARGS='* | bench | build | cluster | cluster-down) grep -q "^$1:.*##" Makefile ;;
    *) echo "no stand-in for: make $*"; return 2 ;;
  esac
}
