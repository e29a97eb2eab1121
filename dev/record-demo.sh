#!/usr/bin/env bash
# usage: dev/record-demo.sh
#
# Records `make demo` into docs/demo/: demo.cast, which `asciinema play` plays, and demo.svg, a picture of its decisive steps.
# asciinema and rich come from PyPI into the cache, once.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 2; }

tools=${XDG_CACHE_HOME:-$HOME/.cache}/oauthconsumer-operator/record-1
if [ ! -e "$tools/complete" ]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" --quiet install asciinema==2.4.0 rich==15.0.0
  touch "$tools/complete"
fi
cargo build --locked # before, so that it is not in the recording

mkdir -p docs/demo
dev/with-control-plane.sh env -u NO_COLOR -u VERBOSE -u KEEP TERM=xterm-256color PAUSE=2 \
  "$tools/bin/asciinema" rec --quiet --overwrite --cols 100 --rows 32 --env TERM --idle-time-limit 2 \
  --title "The life of an OAuth consumer on Kubernetes" --command "dev/demo.sh story" docs/demo/demo.cast
"$tools/bin/python" - docs/demo/demo.cast docs/demo/demo.svg <<'P'
import json, re, sys
from io import StringIO
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

with open(sys.argv[1]) as cast:
    header, *events = map(json.loads, cast)
printed = "".join(data for _, kind, data in events if kind == "o").replace("\r", "")
if "All was as promised" not in printed:
    sys.exit(f"the demo failed; what it printed is in {sys.argv[1]}")
steps = re.findall(r"\n(\S*\d+\. (?:Approve|Rotate|Hold|Disapprove)\..*?)\n(?=\n)", printed, re.S)
console = Console(record=True, width=header["width"], file=StringIO(), force_terminal=True)
console.print(Text.from_ansi("\n\n".join(steps)))
black, red, green, cyan, white = (13, 17, 23), (255, 123, 114), (86, 211, 100), (121, 192, 255), (230, 237, 243)
theme = TerminalTheme(black, white, [black, red, green, white, white, white, cyan, white])
picture = console.export_svg(title="make demo", theme=theme, unique_id="demo")
# GitHub loads no fonts for a picture: take the reader's own.
picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S)
picture = picture.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
with open(sys.argv[2], "w") as svg:
    svg.write(picture)
P
wc -c docs/demo/*
