"""Bring the cluster up: reuse a healthy one made from the same inputs, else start anew."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import (
    baseimages,
    binaries,
    certificates,
    cleanup,
    containerd,
    controlplane,
    images,
    machine,
    monitoring,
    network,
    node,
    packages,
    processes,
    storage,
)
from cluster.baseimages import Image
from cluster.kubectl import Kubectl
from cluster.settings import NODE_NAME, PLACES, REPOSITORY, SOURCE
from cluster.shell import exclusive, stage

RECORD = PLACES.run / "cluster.json"
"""Written last, so that it exists only for a cluster that was once whole."""
CONFIGURING = (
    *("certificates", "containerd", "controlplane", "monitoring", "network", "node", "settings"),
    "storage",
)
"""Modules whose change makes another cluster."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster, as tests and demos need it."""

    kubeconfig: Path
    kubectl: Path
    helm: Path
    promtool: Path
    prometheus_url: str
    node: str
    audit_log: Path
    base_image: str
    """An image with Python and a shell, which pods of tests may use."""

    @property
    def admin(self) -> Kubectl:
        """kubectl with the administrator's rights."""
        return Kubectl(self.kubectl)

    def image(self, target: str) -> str:
        """The image of the Dockerfile's `target`, built and loaded where it is not yet."""
        return images.ensure_loaded(images.source_of(target)).name

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers to a PromQL expression: series with `metric` and `value`."""
        return monitoring.query(expression)

    def set_gpus(self, count: int) -> None:
        """Let the node claim to have `count` GPUs."""
        node.advertise_gpus(self.admin, count)


def ensure_up(*targets: str) -> Cluster:
    """Return a healthy cluster made from this checkout's inputs; start it where there is none.

    Args:
        targets: Images of the Dockerfile that are built beside the cluster's programs: compiling
            keeps the cores busy, an image the network and the disk.
    """
    machine.require()
    packages.ensure()
    with ThreadPoolExecutor(max_workers=1) as pool:
        built = pool.submit(_build_images, targets)
        programs = binaries.ensure()
        pause, base = built.result()
    inputs = _inputs(programs, base.name)
    kubectl = Kubectl(programs["kubectl"])
    with exclusive(PLACES.lock):
        if _recorded_inputs() == inputs and is_healthy(kubectl):
            storage.replenish(kubectl)
        else:
            with stage("cleaned up"):
                cleanup.remove_everything()
            machine.require_free_ports()
            _start(programs, kubectl, (pause, base))
            RECORD.write_text(
                json.dumps(
                    {
                        "inputs": inputs,
                        "checkout": str(REPOSITORY),
                        "kubectl": str(programs["kubectl"]),
                        "helm": str(programs["helm"]),
                        "promtool": str(programs["promtool"]),
                        "base_image": base.name,
                    }
                )
            )
    return running()


def _build_images(targets: Iterable[str]) -> tuple[Image, Image]:
    """Build the pause image, the base, and images on top of it."""
    pause, base = baseimages.ensure_pause(), baseimages.ensure_base()
    for target in targets:
        images.ensure_built(images.source_of(target))
    return pause, base


def running() -> Cluster:
    """The cluster that was started last, from whichever checkout."""
    return _describe(json.loads(RECORD.read_text()))


def take_down() -> None:
    """Leave nothing running and nothing behind but the caches and the logs."""
    machine.require()
    with exclusive(PLACES.lock):
        cleanup.remove_everything()
    images.release_killed_builds()


def is_healthy(kubectl: Kubectl) -> bool:
    """Whether every daemon that was started still runs, and the node is ready."""
    daemons = processes.recorded()
    return (
        bool(daemons)
        and all(process.alive for process in daemons.values())
        and node.is_ready(kubectl)
        and monitoring.is_ready()
    )


def _start(programs: dict[str, Path], kubectl: Kubectl, preloaded: Iterable[Image]) -> None:
    PLACES.run.mkdir(parents=True)
    cleanup.clear_logs()
    with stage("network and certificates"):
        network.create()
        certificates.create()
    with stage("control plane"):
        controlplane.start(programs, kubectl)
    with stage("containerd and images"):
        containerd.start()
        for image in preloaded:
            images.load(image)
    with stage("node"):
        node.start_kubelet(programs["kubelet"])
        node.start_proxy(programs["kube-proxy"])
        network.start_dns(programs["coredns"], kubectl)
        monitoring.start(programs["prometheus"], kubectl)
        storage.create(kubectl)
        controlplane.wait_for_service_account(kubectl)
        node.wait_until_ready(kubectl)
        node.advertise_gpus(kubectl)
    processes.wait_for(processes.recorded()["prometheus"], monitoring.is_ready, what="Prometheus")


def _describe(record: dict[str, str]) -> Cluster:
    return Cluster(
        kubeconfig=PLACES.kubeconfig,
        kubectl=Path(record["kubectl"]),
        helm=Path(record["helm"]),
        promtool=Path(record["promtool"]),
        prometheus_url=monitoring.URL,
        node=NODE_NAME,
        audit_log=PLACES.audit_log,
        base_image=record["base_image"],
    )


def _inputs(programs: dict[str, Path], base_image: str) -> str:
    """A hash of what a cluster is made from: the programs, and the modules that configure them."""
    digest = hashlib.sha256("\0".join([*map(str, programs.values()), base_image]).encode())
    for name in CONFIGURING:
        digest.update(f"\0{name}\0".encode() + (SOURCE / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _recorded_inputs() -> str | None:
    return json.loads(RECORD.read_text())["inputs"] if RECORD.exists() else None
