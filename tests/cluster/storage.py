"""Volumes that a claim just binds to: folders on the machine, bound by the real controller."""

import shutil
from pathlib import Path

from cluster.kubectl import Kubectl, Manifest
from cluster.settings import PLACES

STORAGE_CLASS = "standard"
NUM_VOLUMES = 100
CAPACITY = "100Gi"
PREFIX = "local-"

CLASS: Manifest = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": STORAGE_CLASS,
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "kubernetes.io/no-provisioner",
    "volumeBindingMode": "Immediate",
}


def create(kubectl: Kubectl) -> None:
    """Make the default StorageClass and a stock of empty volumes."""
    names = [f"{PREFIX}{index:03}" for index in range(NUM_VOLUMES)]
    kubectl.apply([CLASS, *map(_make_volume, names)])


def replenish(kubectl: Kubectl) -> None:
    """Make volumes whose claim is gone empty and free again; nothing else ever would."""
    volumes = kubectl.get("persistentvolumes")["items"]
    released = [v["metadata"]["name"] for v in volumes if v["status"].get("phase") == "Released"]
    ours = [name for name in released if name.startswith(PREFIX)]
    if ours:
        kubectl("delete", "persistentvolumes", *ours)
        kubectl.apply(map(_make_volume, ours))


def folder_of(volume: str) -> Path:
    """The folder behind the volume `volume`."""
    return PLACES.volumes / volume


def _make_volume(name: str) -> Manifest:
    """An empty folder and its PersistentVolume."""
    folder = folder_of(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # fsGroup does not apply to hostPath volumes, and the pods that write here are not root.
    folder.chmod(0o777)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": CAPACITY},
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "hostPath": {"path": str(folder), "type": "Directory"},
        },
    }
