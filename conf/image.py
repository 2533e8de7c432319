#!/usr/bin/env python3
"""image.py --name REF --version VERSION [--programs DIR] [--out DIR]: the image of conf/Dockerfile as an OCI layout.

Writes DIR (index.json, oci-layout, blobs) and DIR.tar, for `ctr images import`, `skopeo copy oci-archive:` and `docker load`.
No daemon, no network. The same programs give the same bytes: no time, no owner and no order of this machine goes in.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# `e_machine` of an ELF file, and what OCI calls it
MACHINES = {62: "amd64", 183: "arm64"}
PT_INTERP = 3


def stop(text):
    sys.exit(f"image: {text}")


def architecture(program):
    """The architecture a static 64-bit ELF program is for."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        stop(f"{program} is no little-endian 64-bit ELF file")
    number = lambda at, size: int.from_bytes(data[at : at + size], "little")
    table, size, count = number(32, 8), number(54, 2), number(56, 2)
    if any(number(table + i * size, 4) == PT_INTERP for i in range(count)):
        stop(f"{program} is not static: an image of two files has no loader")
    if number(18, 2) not in MACHINES:
        stop(f"{program} is for machine {number(18, 2)}, and that is none we ship for")
    return MACHINES[number(18, 2)]


def read_dockerfile(arguments):
    """Files, labels, user and entry point of conf/Dockerfile. An instruction that has no meaning here stops the build: two ways to
    build one image must not come apart in silence."""
    image = {"files": {}, "labels": {}, "user": None, "entrypoint": None}
    path = HERE / "Dockerfile"
    for at, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "ARG" and rest in arguments:
            continue
        for name, value in arguments.items():
            rest = rest.replace("${" + name + "}", value)
        if "$" not in rest and (word, rest) == ("FROM", "scratch"):
            continue
        words = shlex.split(rest)
        if "$" in rest:
            pass
        elif word == "LABEL" and len(words) == 1 and "=" in words[0]:
            key, _, value = words[0].partition("=")
            image["labels"][key] = value
            continue
        elif word == "COPY" and len(words) == 3 and words[0] == "--chmod=0755":
            image["files"][words[2].lstrip("/")] = words[1]
            continue
        elif word == "USER" and len(words) == 1:
            image["user"] = words[0]
            continue
        elif word == "ENTRYPOINT" and rest.startswith("["):
            image["entrypoint"] = json.loads(rest)
            continue
        stop(f"{path}:{at}: this script does not know what to do with: {line}")
    return image


def tar(files):
    """A tar of (name, bytes, mode) with nothing of this machine in it. None as bytes is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data, mode in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            entry.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            entry.size = len(data or b"")
            archive.addfile(entry, None if data is None else io.BytesIO(data))
    return out.getvalue()


def canonical(document):
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release")
    parser.add_argument("--out", type=Path, default=ROOT / "target/image")
    options = parser.parse_args()
    if "@" in options.name or ":" not in options.name.rsplit("/", 1)[-1]:
        stop(f"IMAGE={options.name}: a name with a tag is needed, as localhost/shunt:{options.version}")

    programs = [options.programs / name for name in ("shunt", "shunt-installer")]
    for program in programs:
        if not program.is_file():
            stop(f"{program} is not there: run `make build`")
    machines = {architecture(program) for program in programs}
    if len(machines) != 1:
        stop(f"{options.programs} holds programs for {', '.join(sorted(machines))}")
    arch = machines.pop()
    # Where the Dockerfile looks for them, beside those of other architectures.
    beside = options.out.parent / f"linux-{arch}"
    beside.mkdir(parents=True, exist_ok=True)
    for program in programs:
        shutil.copyfile(program, beside / f".{program.name}")
        os.chmod(beside / f".{program.name}", 0o755)
        os.replace(beside / f".{program.name}", beside / program.name)

    image = read_dockerfile({"TARGETARCH": arch, "VERSION": options.version})
    blobs = {}

    def blob(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    # The sources in the Dockerfile are relative to the root; their folder is the one just written.
    sources = {name: beside / Path(source).name for name, source in image["files"].items()}
    plain = tar([(name, source.read_bytes(), 0o755) for name, source in sources.items()])
    # The header of gzip would hold the time.
    layer = blob(gzip.compress(plain, 9, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    config = blob(
        canonical(
            {
                "architecture": arch,
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": {
                    "User": image["user"],
                    "Entrypoint": image["entrypoint"],
                    "Labels": image["labels"],
                    "WorkingDir": "/",
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
            }
        ),
        "application/vnd.oci.image.config.v1+json",
    )
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob(canonical({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}), kind)
    manifest["platform"] = {"architecture": arch, "os": "linux"}
    # The first is read by skopeo and podman, the second by containerd.
    manifest["annotations"] = {
        "org.opencontainers.image.ref.name": options.name,
        "io.containerd.image.name": options.name,
    }
    path = lambda descriptor: "blobs/sha256/" + descriptor["digest"].partition(":")[2]
    files = {
        "oci-layout": canonical({"imageLayoutVersion": "1.0.0"}),
        "index.json": canonical(
            {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}
        ),
        # For `docker load` before Docker 25; the layout allows other files.
        "manifest.json": canonical([{"Config": path(config), "RepoTags": [options.name], "Layers": [path(layer)]}]),
    }
    files.update({f"blobs/sha256/{digest}": data for digest, data in blobs.items()})

    new = options.out.with_name(options.out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    for name, data in files.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(data)
    archive = options.out.with_name(options.out.name + ".tar")
    folders = [("blobs", None, 0o755), ("blobs/sha256", None, 0o755)]
    new.with_suffix(".tar").write_bytes(tar(folders + [(name, data, 0o644) for name, data in files.items()]))
    shutil.rmtree(options.out, ignore_errors=True)
    os.replace(new, options.out)
    os.replace(new.with_suffix(".tar"), archive)
    print(f"{options.name}  linux/{arch}  {layer['size'] / 2**20:.1f} MiB  {manifest['digest']}  {archive}")


main()
