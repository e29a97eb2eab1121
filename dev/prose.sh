#!/usr/bin/env bash
# usage: dev/prose.sh
#
# Checks the words of the documentation (part of `make lint`): links and anchors, words per page and in all, sentences, words that
# are not ours to use, the glossary; and the spelling of everything that is committed. Takes two seconds; the first run gets its
# tools from PyPI into the cache.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
  -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac

tools=(markdown-it-py==4.3.0 typos==1.52.0)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/oauthconsumer-operator/prose-$(sha256sum <<<"${tools[*]}" | cut -c1-12)
if [ ! -e "$venv/done" ]; then
  echo "prose: getting ${tools[*]} (once) ..." >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${tools[@]}"
  touch "$venv/done"
fi

failed=0
"$venv/bin/python" dev/prose/check.py || failed=1
"$venv/bin/typos" --config dev/prose/typos.toml --format brief || failed=1
exit "$failed"
