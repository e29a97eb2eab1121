#!/usr/bin/env bash
# usage: dev/image/root.sh BINARY FOLDER
#
# Makes FOLDER the root of an image: BINARY in /usr/bin, the libraries that it is linked with, certificates of public
# CAs, a user without rights (65532), and nothing else: no shell, no package manager. The Dockerfile calls it as well.
set -euo pipefail

[ $# = 2 ] || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 2; }
binary=$1 root=$2
umask 022

mkdir -p "$root"/{etc/ssl/certs,tmp,usr/bin,usr/share/doc,home/nonroot,var/lib/oauthconsumer-operator}
install -m 755 "$binary" "$root/usr/bin/"

# The loader, libc and the like, where ldd found them. glibc from 2.34 on has what looks up names (nss files and dns) inside.
ldd "$binary" | sed -n 's#^[^/]*\(/[^ ]*\) (.*#\1#p' | while read -r library; do
  install -D -m 755 "$library" "$root$library"
done

install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cat >"$root/etc/passwd" <<'P'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
P
cat >"$root/etc/group" <<'G'
root:x:0:
nonroot:x:65532:
G
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"

# The licences of what was copied in.
for package in libc6 libgcc-s1 ca-certificates; do
  if [ -e "/usr/share/doc/$package/copyright" ]; then
    install -D -m 644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
  fi
done
install -D -m 644 "$(dirname "$0")/../../LICENSE" "$root/usr/share/doc/oauthconsumer-operator/LICENSE"

# Where volumes go: the store's, and temporary files.
chmod 1777 "$root/tmp"
chmod 700 "$root/home/nonroot" "$root/var/lib/oauthconsumer-operator"
if [ "$(id -u)" = 0 ]; then # not when somebody builds without root: archive.py then sees to it
  chown 65532:65532 "$root/home/nonroot" "$root/var/lib/oauthconsumer-operator"
fi
