#!/usr/bin/env python3
"""manifests.py [DIR]: conf/kustomize, made of conf/chart, so that the two cannot come apart.

The base is what `helm template` gives without Helm's own labels; an overlay is a patch with the row of its platform in
conf/chart/platforms.json, and what the chart has for it besides. tests/ship makes them again and compares.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CHART = HERE / "chart"
NAMESPACE = "shunt-system"
# The first version with the field appArmorProfile; before it, an annotation is needed that this one does not need.
KUBERNETES = "1.30.0"
MADE = "# Made by `make manifests` from conf/chart: a change belongs there.\n"


def render(platform):
    """What the chart gives for a platform: text by file name. The ConfigMap is under its own, as the entry alone."""
    command = [ROOT / "target/tools/helm", "template", "shunt", CHART, "--namespace", NAMESPACE, "--no-hooks"]
    command += ["--kube-version", KUBERNETES, "--set", f"platform={platform}"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    files = {}
    for document in re.split(r"^---\n", text, flags=re.M):
        kind = re.search(r"^kind: (\w+)$", document, flags=re.M)
        if not kind:
            continue
        document = re.sub(r"^# Source: .*\n", "", document, flags=re.M)
        document = re.sub(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", document, flags=re.M)
        # kustomize puts a hash of its own there.
        document = re.sub(r"\b(shunt-entry)-[0-9a-f]{10}\b", r"\1", document)
        if kind[1] == "ConfigMap":
            entry = re.search(r"^  entry\.json: \|\n((?:    .*\n)+)", document, flags=re.M)[1]
            files["entry.json"] = re.sub(r"^    ", "", entry, flags=re.M)
        else:
            files[f"{kind[1].lower()}.yaml"] = document.rstrip() + "\n"
    return files


def namespace():
    return f"""apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    # Host paths, the host's network and capabilities are what "privileged" means there.
    pod-security.kubernetes.io/enforce: privileged
"""


def listing(kind, version, **parts):
    text = f"apiVersion: kustomize.config.k8s.io/{version}\nkind: {kind}\n"
    for key, items in parts.items():
        text += f"{key}:\n" + "".join(f"  - {item}\n" for item in items)
    return text


def patch(container="", volumes=""):
    return f"""apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: shunt
  namespace: {NAMESPACE}
spec:
  template:
    spec:
      containers:
        - name: installer
{container}{volumes}"""


def platform_patch(row, default):
    env = mounts = volumes = context = ""
    for key, variable, name in (("confDir", "CONF", "conf"), ("binDir", "BIN", "bin")):
        path = row[key]
        if path == default[key]:
            continue
        env += f"            - name: SHUNT_{variable}_DIR\n              value: {path}\n"
        mounts += f"            - $patch: delete\n              mountPath: /host{default[key]}\n"
        mounts += f"            - name: {name}-dir\n              mountPath: /host{path}\n"
        volumes += f"        - name: {name}-dir\n          hostPath:\n            path: {path}\n"
    if "seLinuxType" in row:
        context = f"          securityContext:\n            seLinuxOptions:\n              type: {row['seLinuxType']}\n"
    if not env and not context:
        return None
    container = (f"          env:\n{env}" if env else "") + context
    container += f"          volumeMounts:\n{mounts}" if mounts else ""
    return patch(container, f"      volumes:\n{volumes}" if volumes else "")


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "kustomize")
    made = {}
    base = render("")
    manifests = sorted(name for name in base if name.endswith(".yaml"))
    made["base/namespace.yaml"] = namespace()
    made["base/kustomization.yaml"] = (
        "# To have your own entry, image or namespace, make a kustomization of your own upon an overlay; conf/operators.md has one.\n"
        + listing("Kustomization", "v1beta1", resources=["namespace.yaml", *manifests])
        + f"namespace: {NAMESPACE}\n"
        # The name changes with the content, for the same reason as in the chart.
        + "configMapGenerator:\n  - name: shunt-entry\n    files: [entry.json]\n    options:\n      immutable: true\n"
    )
    made.update({f"base/{name}": text for name, text in base.items()})

    platforms = json.loads((CHART / "platforms.json").read_text())
    for name, row in platforms.items():
        if not name:
            continue
        folder = f"overlays/{name}"
        extra = {file: text for file, text in render(name).items() if file not in base}
        made.update({f"{folder}/{file}": text for file, text in extra.items()})
        parts = {"resources": ["../../base", *sorted(extra)]}
        differs = platform_patch(row, platforms[""])
        if differs:
            made[f"{folder}/platform.yaml"] = differs
            parts["patches"] = ["path: platform.yaml"]
        made[f"{folder}/kustomization.yaml"] = f"# {row['note']}\n" + listing("Kustomization", "v1beta1", **parts)

    made["uninstall/kustomization.yaml"] = (
        "# A component, beside an overlay: the DaemonSet then uninstalls on each node. Delete it when it is rolled out.\n"
        + listing("Component", "v1alpha1", patches=["path: uninstall.yaml"])
    )
    made["uninstall/uninstall.yaml"] = patch(
        "          # --detach in place of --keep-pods frees the pods that run at once.\n"
        "          args: [uninstall, --keep-pods, --stay]\n"
    )

    shutil.rmtree(out, ignore_errors=True)
    for name, text in made.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        # JSON has no comments.
        (out / name).write_text(text if name.endswith(".json") else MADE + text)


main()
