"""Build images from the root Dockerfile with buildah, reaching registries as the machine does."""

import configparser
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster import cleanup, processes
from cluster.errors import CommandError
from cluster.oci import Layout
from cluster.shell import Argument, run

NUM_GENERATIONS = 2
"""Two, so that going back and forth between branches costs nothing; each may take gigabytes."""
CONTAINER_CA = "/etc/ssl/certs/ca-certificates.crt"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PIP_FILES = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
UV_FILES = ("~/.config/uv/uv.toml", "/etc/uv/uv.toml")


class Buildah:
    """buildah with a storage of its own, so that it touches no other images."""

    def __init__(self, folder: Path, generation: str) -> None:
        """Keep layers below `folder`, those of each `generation` apart."""
        self._storages = folder / "storages"
        self._storage = self._storages / generation
        self._storage.mkdir(parents=True, exist_ok=True)
        # RUN --mount=type=cache lives in the temporary folder: keep that, so that a package that
        # was downloaded once is not downloaded again.
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        self._environment = {"TMPDIR": str(temporary), "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: Argument) -> str:
        """Run buildah."""
        places = (f"--root={self._storage}/layers", f"--runroot={self._storage}/run")
        driver = ("--storage-driver=overlay", "--storage-opt=overlay.skip_mount_home=true")
        return run("buildah", *places, *driver, *arguments, env=self._environment)

    def tidy(self, layout: Layout) -> None:
        """Drop what killed builds left, past generations, and images that the layout dropped.

        Only the holder of the lock calls this, so a buildah that still runs lost its caller.
        """
        processes.stop(processes.find("buildah", f"--root={self._storages}/"), grace=0)
        cleanup.unmount_below(self._storages)
        self._storage.touch()
        storages = sorted(self._storages.iterdir(), key=lambda s: s.stat().st_mtime)
        for storage in storages[:-NUM_GENERATIONS]:
            shutil.rmtree(storage)
        try:
            self("rm", "--all")
            if past := self._images() - set(layout.names()):
                self("rmi", "--force", *past)
        except CommandError:
            # A storage that was damaged by a kill costs a few minutes, a mended one more.
            cleanup.unmount_below(self._storages)
            shutil.rmtree(self._storage)
            self._storage.mkdir()

    def pull(self, image: str, layout: Layout) -> None:
        """Take an image from the layout, unless the storage has it."""
        if image not in self._images():
            self._copy(f"oci:{layout.folder}:{image}", self._address(image))

    def push(self, image: str, layout: Layout) -> None:
        """Put an image into the layout; layers that lie there already are not even read."""
        self._copy(self._address(image), f"oci:{layout.folder}:{image}")

    def _images(self) -> set[str]:
        names = self("images", "--noheading", "--format={{.Name}}:{{.Tag}}").split()
        return {name for name in names if "<none>" not in name}

    def _copy(self, source: str, target: str) -> None:
        # Not `buildah push`: it compresses every layer each time, a minute for a trainer's, only
        # to find that it is there.
        flags = ("--quiet", "--dest-oci-accept-uncompressed-layers")
        run("skopeo", "copy", *flags, source, target, env=self._environment)

    def _address(self, image: str) -> str:
        places = f"overlay@{self._storage}/layers+{self._storage}/run"
        return f"containers-storage:[{places}:overlay.skip_mount_home=true]{image}"

    def build(self, tag: str, context: Path, *, target: str, base: str) -> None:
        """Build the Dockerfile in `context` up to `target`."""
        with _machine_settings() as mounts:
            proxies = {name: os.environ[name] for name in PROXIES if name in os.environ}
            arguments = {"BASE_IMAGE": base, **proxies}
            try:
                self(
                    *("build", "--layers", "--pull-never", "--network=host", "--format=oci"),
                    *(f"--build-arg={name}={value}" for name, value in arguments.items()),
                    *(f"--volume={source}:{place}:ro" for place, source in mounts.items()),
                    *(f"--target={target}", f"--tag={tag}", context),
                )
            except CommandError:
                self("rm", "--all")
                raise


@contextmanager
def _machine_settings() -> Iterator[dict[str, Path]]:
    """Files that a build sees but no image keeps: certificates, and the settings of pip and uv.

    They let `RUN pip install` find the registry that this machine finds, though the Dockerfile
    says nothing about it.
    """
    with TemporaryDirectory() as folder:
        pip, uv = Path(folder, "pip.conf"), Path(folder, "uv.toml")
        with pip.open("w") as file:
            _pip_settings().write(file)
        uv.write_text(_uv_settings())
        mounts = {"/etc/pip.conf": pip, "/etc/uv/uv.toml": uv}
        authorities = Path(os.environ.get("SSL_CERT_FILE", CONTAINER_CA))
        yield {**mounts, CONTAINER_CA: authorities} if authorities.exists() else mounts


def _pip_settings() -> configparser.ConfigParser:
    """pip's files and environment in one file, which is how its environment can be mounted."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read([Path(file).expanduser() for file in PIP_FILES], encoding="utf-8")
    if not settings.has_section("global"):
        settings.add_section("global")
    for name in ("index-url", "extra-index-url", "trusted-host"):
        variable = f"PIP_{name.upper().replace('-', '_')}"
        if variable in os.environ:
            settings.set("global", name, os.environ[variable])
    settings.set("global", "cert", CONTAINER_CA)
    return settings


def _uv_settings() -> str:
    """uv's own file where there is one, else its environment written as one."""
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    if index:
        return f'native-tls = true\n[[index]]\nurl = "{index}"\ndefault = true\n'
    files = (Path(name).expanduser() for name in UV_FILES)
    return next((file.read_text() for file in files if file.exists()), "native-tls = true\n")
