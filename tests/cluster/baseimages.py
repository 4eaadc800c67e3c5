"""The two images that come from no Dockerfile: the pods' sandbox, and the base of ours."""

import hashlib
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.oci import Layout
from cluster.settings import SOURCE, cache_folder
from cluster.shell import exclusive, run, stage

PAUSE_SOURCE = SOURCE / "pause.c"
SUITE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RECIPE = 2
"""Raise it when this file makes another image of the same inputs."""


@dataclass(frozen=True)
class Image:
    """An image's repository, and the hash of what it is made from."""

    repository: str
    key: str

    @property
    def name(self) -> str:
        """The full name; pods use it with imagePullPolicy Never."""
        return f"{self.repository}:{self.key}"


def layout() -> Layout:
    """Where all images lie that a cluster can be handed."""
    return Layout(cache_folder() / "images/oci")


def pause_image() -> Image:
    """The sandbox image's name, which containerd's configuration holds."""
    return Image("localhost/troika-pause", _hash(PAUSE_SOURCE.read_bytes()))


def ensure_pause() -> Image:
    """A static program that sleeps until it is told to end: all that a pod's sandbox runs."""
    image = pause_image()
    with exclusive(cache_folder() / "images/base.lock"), TemporaryDirectory() as name:
        if image.name not in layout().names():
            folder = Path(name)
            run("gcc", "-Os", "-static", "-s", "-o", folder / "pause", PAUSE_SOURCE)
            run("tar", "-C", folder, "--numeric-owner", "-cf", folder / "layer.tar", "pause")
            layout().add(image.name, folder / "layer.tar", {"Entrypoint": ["/pause"]})
    return image


def ensure_base() -> Image:
    """Debian with Python: what our Dockerfile takes as BASE_IMAGE where no registry is at hand."""
    recipe = f"{RECIPE} {SUITE} {PACKAGES} {platform.machine()}"
    image = Image("localhost/troika-base", _hash(recipe.encode()))
    with exclusive(cache_folder() / "images/base.lock"):
        if image.name not in layout().names():
            with (
                stage(f"built {image.name} with debootstrap"),
                # Not in /tmp, which may be small, or mounted so that it forbids devices.
                TemporaryDirectory(dir=cache_folder(), prefix="building-") as folder,
            ):
                _bootstrap(image, Path(folder))
    return image


def _bootstrap(image: Image, folder: Path) -> None:
    root, layer = folder / "root", folder / "layer.tar"
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
    for leftover in (root / "var/cache/apt/archives", root / "var/lib/apt/lists"):
        shutil.rmtree(leftover)
        leftover.mkdir()
    run("tar", "-C", root, "--numeric-owner", "--exclude=./dev/*", "-cf", layer, ".")
    layout().add(image.name, layer, {"Env": [PATH], "Cmd": ["/bin/bash"]})


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
