#!/usr/bin/env python3
"""Makes an image of a folder: a tar file that `docker load`, `podman load` and `ctr images import` take.

It has one layer. The same folder gives the same bytes: names in order, one time for all files, owners by rule.
"""
import argparse
import datetime
import hashlib
import io
import json
import os
import platform
import tarfile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("root", help="the folder")
parser.add_argument("tar", help="the file to write")
parser.add_argument("--name", required=True, help="such as oauthconsumer-operator:dev")
parser.add_argument("--entrypoint", nargs="+", default=None)
parser.add_argument("--cmd", nargs="+", default=None)
parser.add_argument("--user", default="65532:65532")
parser.add_argument("--owned", action="append", default=[], help="a folder in there that belongs to that user, not to root")
parser.add_argument("--label", action="append", default=[], help="NAME=VALUE")
parser.add_argument("--env", action="append", default=[], help="NAME=VALUE")
parser.add_argument("--time", type=int, default=0, help="of every file, in seconds since 1970")
args = parser.parse_args()


def entry(info):
    info.uid = info.gid = int(args.user.split(":")[0]) if info.name in args.owned else 0
    info.uname = info.gname = ""
    info.mtime = args.time
    return info


layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as out:
    for folder, folders, files in os.walk(args.root):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        inside = os.path.relpath(folder, args.root)
        if inside != ".":
            out.add(folder, inside, recursive=False, filter=entry)
        for name in sorted(files + links):
            path = os.path.join(folder, name)
            out.add(path, os.path.relpath(path, args.root), recursive=False, filter=entry)
layer = layer.getvalue()
digest = hashlib.sha256(layer).hexdigest()

config = {"User": args.user, "Labels": dict(label.split("=", 1) for label in args.label), "Env": args.env or None,
          "Entrypoint": args.entrypoint, "Cmd": args.cmd, "WorkingDir": "/"}
created = datetime.datetime.fromtimestamp(args.time, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
image = json.dumps({
    "created": created,
    "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    "os": "linux",
    "config": {key: value for key, value in config.items() if value},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    "history": [{"created": created, "created_by": "dev/image/archive.py"}],
}, sort_keys=True).encode()
image_name = hashlib.sha256(image).hexdigest() + ".json"
manifest = json.dumps([{"Config": image_name, "RepoTags": [args.name], "Layers": [digest + "/layer.tar"]}]).encode()

with tarfile.open(args.tar, "w", format=tarfile.GNU_FORMAT) as out:
    for name, data in ((image_name, image), (digest + "/layer.tar", layer), ("manifest.json", manifest)):
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(data), args.time
        out.addfile(info, io.BytesIO(data))
