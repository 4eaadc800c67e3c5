"""Debian packages: installed when missing, and none of their services ever started."""

import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import CommandError, MachineError
from cluster.shell import run, stage

PACKAGE_OF = {
    "buildah": "buildah",
    "containerd": "containerd",
    "debootstrap": "debootstrap",
    "g++": "g++",  # torch.compile on the CPU, in tests of the trainer
    "gcc": "gcc",
    "ip": "iproute2",
    "mount": "mount",
    "nft": "nftables",
    "openssl": "openssl",
    "runc": "runc",
    "skopeo": "skopeo",
    "ss": "iproute2",
    "tar": "tar",
}
"""Which package brings which program."""

CNI_PLUGINS = Path("/usr/lib/cni")
FILES = {
    CNI_PLUGINS / "bridge": "containernetworking-plugins",
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"): "debian-archive-keyring",
    Path("/usr/include/stdio.h"): "libc6-dev",
    Path(sysconfig.get_path("include"), "Python.h"): "python3-dev",  # for torch.compile, too
}
"""Packages that are known by a file rather than by a program."""

POLICY = Path("/usr/sbin/policy-rc.d")


def ensure() -> None:
    """Install what is missing; nothing happens on a machine that has it all."""
    missing = {package for program, package in PACKAGE_OF.items() if not shutil.which(program)}
    missing |= {package for file, package in FILES.items() if not file.exists()}
    if missing:
        install(*sorted(missing))


def install(*packages: str) -> None:
    """Install Debian packages without starting the services that some of them bring."""
    if not shutil.which("apt-get"):
        raise MachineError(f"no apt-get here; install by other means: {', '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with stage(f"Debian packages: {' '.join(packages)}"), _no_service_starts():
        try:
            run("apt-get", "update", "-qq", env=quiet)
            run("apt-get", "install", "-qq", "--no-install-recommends", *packages, env=quiet)
        except CommandError as error:
            raise MachineError(f"cannot install {', '.join(packages)}\n{error}") from error


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian's own switch: while policy-rc.d exits 101, no maintainer script starts a service."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
