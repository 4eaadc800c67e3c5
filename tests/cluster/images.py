"""The images of the root Dockerfile: built when their sources change, loaded when they are new.

An image is named by a hash of its inputs, so an image that is there is the right one, and two
checkouts can use one cluster side by side.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster import baseimages, cleanup, containerd
from cluster.baseimages import Image
from cluster.buildah import Buildah
from cluster.errors import ClusterError, CommandError, MachineError
from cluster.settings import REPOSITORY, cache_folder
from cluster.shell import exclusive, stage, succeeds

TARGETS = {"operator": ("crds", "operator"), "trainer": ("crds", "trainer")}
"""Target of the Dockerfile to the folders that it copies from."""
COMMON = ("Dockerfile", ".dockerignore", "uv.lock", "pyproject.toml", "*/pyproject.toml")
IGNORED = {"__pycache__", "build", "dist"}

NUM_KEPT = 4
"""How many versions of an image stay; each takes only what the others do not have."""
EPOCH = 1_577_836_800
"""2020-01-01: the one time stamp of every file in a build context."""


@dataclass(frozen=True)
class Source:
    """What an image is built from: files of a checkout, and a target of its Dockerfile."""

    target: str
    root: Path = REPOSITORY
    folders: tuple[str, ...] = ()

    def files(self) -> list[Path]:
        """The files that the build sees, and the image's key is made of: no others can matter."""
        common = (file for pattern in COMMON for file in self.root.glob(pattern))
        below = (file for name in self.folders for file in _walk(self.root / name))
        return sorted({*common, *below})

    def dependencies(self) -> str:
        """A hash of what the heavy layers hang on: with it they are all built anew."""
        lock = self.root / "uv.lock"
        return hashlib.sha256(lock.read_bytes() if lock.exists() else b"").hexdigest()[:16]

    def image(self, base: Image) -> Image:
        """The image's name, without building it."""
        digest = hashlib.sha256(base.key.encode())
        for file in self.files():
            digest.update(f"\0{file.relative_to(self.root)}\0{_mode(file)}\0".encode())
            digest.update(file.read_bytes())
        return Image(f"localhost/troika-{self.target}", digest.hexdigest()[:16])


def ensure_loaded(source: Source) -> Image:
    """Build the image unless it is there, hand it to the cluster, and say its name."""
    with exclusive(_folder() / "lock"):
        image = _build(source)
        load(image)
    return image


def ensure_built(source: Source) -> Image:
    """Build the image unless it is there; needs no cluster."""
    with exclusive(_folder() / "lock"):
        return _build(source)


def source_of(target: str) -> Source:
    """The source of one of our own images."""
    if target not in TARGETS:
        raise ClusterError(f"no image {target!r}; there are: {', '.join(TARGETS)}")
    if not (REPOSITORY / "Dockerfile").exists():
        raise ClusterError(f"{REPOSITORY}/Dockerfile is missing; there is no image to build")
    return Source(target, folders=TARGETS[target])


def release_killed_builds() -> None:
    """Unmount what a build that was killed left mounted; waits for one that is still running."""
    if cleanup.mounts_below(_folder()):
        with exclusive(_folder() / "lock"):
            cleanup.unmount_below(_folder())


def load(image: Image) -> None:
    """Hand containerd what it lacks of an image, and drop the oldest versions of it."""
    loaded = containerd.ctr("images", "list", "--quiet").split()
    if image.name in loaded:
        return
    layout = baseimages.layout()
    present = set(containerd.ctr("content", "list", "--quiet").split())
    blobs = layout.blobs(image.name)
    missing = sum(size for digest, size in blobs.items() if digest not in present)
    # The blobs, and the same unpacked.
    if (free := shutil.disk_usage(containerd.ROOT).free) < 2.1 * missing:
        raise MachineError(
            f"{image.name} needs {2.1 * missing / 1e9:.1f} GB of disk below {containerd.ROOT}, and "
            f"{free / 1e9:.1f} GB are free; free some, for instance in {_folder()}"
        )
    with stage(f"loaded {image.name}, {missing / 1e6:.1f} of {sum(blobs.values()) / 1e6:.1f} MB"):
        try:
            containerd.import_image(lambda out: layout.export(image.name, out, without=present))
        except CommandError:
            # The name comes before the layers are unpacked, and would say that all is well.
            succeeds(*containerd.CLIENT, "images", "delete", image.name)
            raise
    layout.share(image.name, containerd.BLOBS)
    _drop_old(image, loaded)


def _drop_old(image: Image, loaded: list[str]) -> None:
    """Forget all but the newest versions of an image; what they alone held goes with them."""
    layout = baseimages.layout()
    versions = [name for name in layout.names() if name.startswith(f"{image.repository}:")]
    for name in versions[:-NUM_KEPT]:
        # The kubelet's side of containerd refers to an image by its configuration's digest too.
        references = {name, layout.config_digest(name)} & set(loaded)
        if references:
            containerd.ctr("images", "delete", *references)
        layout.drop(name)


def _build(source: Source) -> Image:
    base = baseimages.ensure_base()
    image = source.image(base)
    layout = baseimages.layout()
    if image.name in layout.names():
        return image
    buildah = Buildah(_folder() / "buildah", source.dependencies())
    buildah.tidy(layout)
    with stage(f"built {image.name}"), TemporaryDirectory() as context:
        buildah.pull(base.name, layout)
        _stage_context(source, Path(context))
        buildah.build(image.name, Path(context), target=source.target, base=base.name)
        buildah.push(image.name, layout)
    return image


def _stage_context(source: Source, context: Path) -> None:
    """Copy the source with one time stamp and one mode, so that every checkout hits the cache."""
    for file in source.files():
        copy = context / file.relative_to(source.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        copy.chmod(_mode(file))
    for folder, _, files in os.walk(context):
        for name in [".", *files]:
            os.utime(Path(folder, name), (EPOCH, EPOCH))


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name in IGNORED or entry.name.startswith(".") or entry.suffix == ".egg-info":
            continue
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def _mode(file: Path) -> int:
    return 0o755 if os.access(file, os.X_OK) else 0o644


def _folder() -> Path:
    return cache_folder() / "images"
