"""Our own containerd: its own root, state, socket and configuration, never the system's."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from cluster import baseimages, machine, processes
from cluster.errors import CommandError
from cluster.network import CNI_CONFIG
from cluster.packages import CNI_PLUGINS
from cluster.settings import PLACES
from cluster.shell import Argument, run, succeeds

ROOT = PLACES.state / "containerd"
"""Images and snapshots; kept by `down`, so that a warm start imports nothing."""
STATE = PLACES.run / "containerd"
BLOBS = ROOT / "io.containerd.content.v1.content/blobs/sha256"
CLIENT = ("ctr", "--address", str(PLACES.containerd_socket), "--namespace", "k8s.io")
UNUSED = ("aufs", "btrfs", "devmapper", "native", "zfs")


def start() -> None:
    """Start containerd and wait until it answers."""
    _launch("containerd", cri=True)


@contextmanager
def maintenance() -> Iterator[None]:
    """Run containerd without its Kubernetes part, which would otherwise take up old pods."""
    _launch("containerd-maintenance", cri=False)
    try:
        yield
    finally:
        processes.stop([processes.recorded()["containerd-maintenance"]])


def ctr(*arguments: Argument) -> str:
    """Ask our containerd, in the namespace that the kubelet uses."""
    return run(*CLIENT, *arguments)


def import_image(write: Callable[[IO[bytes]], None]) -> None:
    """Import the image archive that `write` writes; blobs that it leaves out must be here."""
    with subprocess.Popen(
        [*CLIENT, "images", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as importer:
        assert importer.stdin is not None
        assert importer.stdout is not None
        try:
            write(importer.stdin)
            importer.stdin.close()
        except BrokenPipeError:
            pass
        output = importer.stdout.read().decode(errors="replace")
    if importer.returncode != 0:
        raise CommandError(f"containerd refused an image:\n{output}")


def forget_containers() -> None:
    """Drop the records of containers that were killed; their images stay."""
    if not ROOT.exists():
        return
    with maintenance():
        containers = ctr("containers", "list", "--quiet").split()
        if containers:
            ctr("containers", "delete", *containers)


def _launch(name: str, *, cri: bool) -> None:
    config = PLACES.run / f"{name}.toml"
    config.write_text(_config(cri=cri))
    process = processes.start(name, ("containerd", "--config", config, "--log-level", "warn"))
    processes.wait_for(
        process,
        lambda: succeeds(*CLIENT, "version"),
        what="containerd",
    )


def _config(*, cri: bool) -> str:
    unused = [f"io.containerd.snapshotter.v1.{name}" for name in UNUSED]
    disabled = unused + ([] if cri else ["io.containerd.grpc.v1.cri"])
    return f"""\
version = 2
root = "{ROOT}"
state = "{STATE}"
disabled_plugins = {disabled}
[grpc]
  address = "{PLACES.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{ROOT}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{baseimages.pause_image().name}"
  # Without the capability to lower a score, runc fails on every sandbox.
  restrict_oom_score_adj = {"false" if machine.may_lower_oom_score() else "true"}
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{CNI_CONFIG}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
"""
