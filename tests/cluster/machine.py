"""What the machine must have, and which cgroup version it speaks."""

import os
import re
from pathlib import Path

from cluster.errors import MachineError
from cluster.settings import CGROUP, NETWORK, PORTS
from cluster.shell import run

CAP_SYS_RESOURCE = 24


def require() -> None:
    """Raise MachineError unless a cluster can run here at all."""
    if os.geteuid() != 0:
        raise MachineError("the cluster needs root: it makes cgroups, mounts and a bridge")
    if not cgroup_mounts():
        raise MachineError("no cgroup file system is mounted; the kubelet cannot run without one")


def require_free_ports() -> None:
    """Raise MachineError naming the process that sits on a port that we need."""
    wanted = {str(port): name for name, port in vars(PORTS).items()}
    for line in run("ss", "-Hltnp").splitlines():
        fields = line.split()
        address, _, port = fields[3].rpartition(":")
        dns = port == "53" and address in ("0.0.0.0", "*", "[::]", NETWORK.address)
        if port in wanted or dns:
            owner = re.search(r'"([^"]+)",pid=(\d+)', line)
            who = f"{owner[1]} (pid {owner[2]})" if owner else "another process"
            role = wanted.get(port, "coredns")
            raise MachineError(f"port {port}, which {role} needs, is taken by {who}; stop it first")


def cgroup_mounts() -> list[Path]:
    """Where cgroup hierarchies are mounted: one on v2, one per controller on v1."""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [Path(m[4]) for m in mounts if m[m.index("-") + 1] in ("cgroup", "cgroup2")]


def is_cgroup_v2() -> bool:
    """Whether the kubelet will find the unified hierarchy."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def make_cgroups() -> None:
    """Make the cgroup that pods live under, in every hierarchy, as the kubelet demands."""
    if is_cgroup_v2():
        _delegate_controllers(Path("/sys/fs/cgroup"))
    for mount in cgroup_mounts():
        (mount / CGROUP).mkdir(exist_ok=True)


def may_lower_oom_score() -> bool:
    """Whether a container may be shielded from the OOM killer; some virtual machines forbid it."""
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> CAP_SYS_RESOURCE & 1)


def _delegate_controllers(root: Path) -> None:
    """Let child cgroups use every controller that the root has."""
    enable = " ".join(f"+{name}" for name in (root / "cgroup.controllers").read_text().split())
    try:
        (root / "cgroup.subtree_control").write_text(enable)
    except OSError:
        # Inside a container the root cgroup is an ordinary one, and an ordinary one may not hold
        # processes and delegate at the same time: move them one level down.
        (root / "init").mkdir(exist_ok=True)
        for pid in (root / "cgroup.procs").read_text().split():
            (root / "init/cgroup.procs").write_text(pid)
        (root / "cgroup.subtree_control").write_text(enable)
