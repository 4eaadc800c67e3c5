"""Put files on the demo's volume, and read them back, through a pod that mounts it.

A pod rather than a host path, so that it works on any cluster.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from .target import Target

POD = "files"
MOUNT = "/volume"


def pod(namespace: str, claim: str, image: str, pull_policy: str) -> dict[str, Any]:
    """A pod that does nothing but hold the volume, as the restricted profile wants it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": POD,
                    "image": image,
                    "imagePullPolicy": pull_policy,
                    "command": ["sleep", "infinity"],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                    "volumeMounts": [
                        {"name": "volume", "mountPath": MOUNT},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [
                {"name": "volume", "persistentVolumeClaim": {"claimName": claim}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


def start(target: Target, namespace: str, claim: str) -> None:
    """Start the pod and wait until it runs."""
    manifest = pod(namespace, claim, target.trainer.name, target.pull_policy)
    target.kubectl("-n", namespace, "delete", "pod", POD, "--ignore-not-found")
    target.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    target.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=5m")


def upload(target: Target, namespace: str, folder: Path) -> int:
    """Copy a folder's content to the root of the volume; return the number of bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in sorted(folder.iterdir()):
            archive.add(entry, arcname=entry.name, filter=_anonymous)
    data = buffer.getvalue()
    target.kubectl(
        "-n", namespace, "exec", "-i", POD, "--", "tar", "-x", "-m", "-C", MOUNT,
        "--no-same-permissions", stdin=data,
    )  # fmt: skip
    return len(data)


def read(target: Target, namespace: str, path: str) -> str:
    """Text of a file on the volume."""
    return target.kubectl("-n", namespace, "exec", POD, "--", "cat", f"{MOUNT}/{path}")


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
