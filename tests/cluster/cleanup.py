"""Take everything away, however the last cluster ended: `down` and a start after kill -9 are one.

The order matters: daemons, then what they left running, then mounts, then files. A file tree is
deleted only after it is certain that nothing is mounted below it.
"""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from cluster import containerd, machine, network, processes
from cluster.errors import MachineError
from cluster.settings import CGROUP, PLACES
from cluster.shell import run

KEPT = ("containerd", "logs")
"""Entries of the state folder that `down` leaves: the images, and the logs of what went wrong."""


def remove_everything() -> None:
    """Leave no process, no mount, no cgroup, no interface, no table and no state of a cluster."""
    if not (PLACES.run.exists() or PLACES.state.exists()):
        return
    # No last words: all that a daemon would save is deleted, and containerd survives a kill.
    processes.stop(processes.recorded().values(), grace=0)
    _kill_pods()
    unmount_below(PLACES.run, PLACES.state)
    network.remove()
    _delete(*(entry for entry in _entries(PLACES.state) if entry.name not in KEPT))
    _delete(containerd.STATE)
    if PLACES.run.exists():
        containerd.forget_containers()
    _remove_log_links()
    _delete(PLACES.run)


def leftovers() -> list[str]:
    """What of a cluster is still there: processes, cgroups, mounts, the interface, its tables."""
    processes_left = [f"process {p.pid}" for p in processes.recorded().values() if p.alive]
    shims = [f"process {p.pid}" for p in _shims()]
    mounts = [f"mount {point}" for point in mounts_below(PLACES.run, PLACES.state)]
    cgroups = [f"cgroup {folder}" for folder in _cgroups()]
    return [*processes_left, *shims, *mounts, *cgroups, *network.leftovers()]


def clear_logs() -> None:
    """Drop the last cluster's logs; `down` keeps them, since they may tell why it was needed."""
    _delete(PLACES.logs)


def _kill_pods() -> None:
    """End shims, which would report to a containerd that is gone, and all that pods ran."""
    deadline = time.monotonic() + 10
    while True:
        pids = [process.pid for process in _shims()]
        for cgroup in _cgroups():
            pids += map(int, (cgroup / "cgroup.procs").read_text().split())
        if not pids:
            break
        if time.monotonic() > deadline:
            raise MachineError(f"these processes of pods do not end: {sorted(set(pids))}")
        processes.kill(set(pids))
        time.sleep(0.02)
    for cgroup in _cgroups():
        cgroup.rmdir()


def _shims() -> list[processes.Process]:
    """What stands between containerd and each pod; it outlives a containerd that is killed."""
    return processes.find("containerd-shim", str(PLACES.containerd_socket))


def _cgroups() -> list[Path]:
    """Our cgroups in every hierarchy, children before their parents."""
    roots = [mount / CGROUP for mount in machine.cgroup_mounts()]
    return [
        Path(folder)
        for root in roots
        if root.exists()
        for folder, _, _ in os.walk(root, topdown=False)
    ]


def mounts_below(*folders: Path) -> list[str]:
    """Mount points below the folders, the last mounted first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # The kernel writes a blank in a path as \\040.
    points = [line.split()[4].replace("\\040", " ") for line in reversed(lines)]
    return [p for p in points if any(Path(p).is_relative_to(folder) for folder in folders)]


def unmount_below(*folders: Path) -> None:
    """Detach every mount below the folders."""
    mounts = mounts_below(*folders)
    for start in range(0, len(mounts), 100):
        run("umount", "--lazy", *mounts[start : start + 100])


def _entries(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.exists() else ()


def _delete(*paths: Path) -> None:
    """Delete trees; refuse where something is still mounted, since its files are not ours."""
    for path in paths:
        if mounts := mounts_below(path):
            raise MachineError(f"cannot clean up: still mounted: {', '.join(mounts)}")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _remove_log_links() -> None:
    """The kubelet links every pod's log here, whatever its configuration says."""
    for link in _entries(Path("/var/log/containers")):
        if link.is_symlink() and str(link.readlink()).startswith(str(PLACES.state)):
            link.unlink()
