"""One OCI image layout for all images: shared layers lie in it once, and stay uncompressed.

containerd is handed only the blobs that it lacks. A trainer image is several gigabytes of
dependencies under a few kilobytes of ours; after a change only the kilobytes travel.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REFERENCE = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


class Layout:
    """An OCI image layout in a folder; skopeo reads and writes it too."""

    def __init__(self, folder: Path) -> None:
        """Open the layout at `folder`, or begin one."""
        self.folder = folder
        self._blobs = folder / "blobs/sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def names(self) -> list[str]:
        """The images in the layout, the newest last."""
        return [entry["annotations"][REFERENCE] for entry in self._entries()]

    def add(self, name: str, layer: Path, config: dict[str, Any]) -> None:
        """Add an image of one layer, moving the layer's tar file into the layout."""
        digest = _digest_of_file(layer)
        size = layer.stat().st_size
        shutil.move(layer, self._blob(digest))
        document = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest]},
            # buildah wants as many entries as there are layers.
            "history": [{"created_by": "troika test cluster"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._put(CONFIG, document),
            "layers": [{"mediaType": LAYER, "digest": digest, "size": size}],
        }
        entry = {**self._put(MANIFEST, manifest), "annotations": {REFERENCE: name}}
        others = [e for e in self._entries() if e["annotations"][REFERENCE] != name]
        self._write_index([*others, entry])

    def drop(self, name: str) -> None:
        """Remove an image, and the blobs that no other image uses."""
        self._write_index([e for e in self._entries() if e["annotations"][REFERENCE] != name])
        used = {digest for name in self.names() for digest in self.blobs(name)}
        for blob in self._blobs.iterdir():
            if f"sha256:{blob.name}" not in used:
                blob.unlink()

    def config_digest(self, name: str) -> str:
        """The digest of an image's configuration."""
        digest: str = self._manifest(name)["config"]["digest"]
        return digest

    def blobs(self, name: str) -> dict[str, int]:
        """Digest and size of all that an image consists of."""
        manifest = self._manifest(name)
        parts = [self._entry(name), manifest["config"], *manifest["layers"]]
        return {part["digest"]: part["size"] for part in parts}

    def export(self, name: str, out: IO[bytes], *, without: Collection[str]) -> None:
        """Write an image as a tar stream that leaves out the blobs in `without`."""
        entry = {**self._entry(name), "annotations": {CONTAINERD_NAME: name}}
        index = {"schemaVersion": 2, "manifests": [entry]}
        with tarfile.open(fileobj=out, mode="w|") as tar:
            _add_bytes(tar, "oci-layout", (self.folder / "oci-layout").read_bytes())
            _add_bytes(tar, "index.json", json.dumps(index).encode())
            for digest in self.blobs(name):
                if digest not in without:
                    path = self._blob(digest)
                    tar.add(path, arcname=str(path.relative_to(self.folder)))

    def share(self, name: str, store: Path) -> None:
        """Let blobs of an image be the same files as in `store`, where the disk is the same one."""
        for digest in self.blobs(name):
            ours, theirs = self._blob(digest), store / digest.removeprefix("sha256:")
            if not theirs.exists() or ours.samefile(theirs):
                continue
            if ours.stat().st_dev == theirs.stat().st_dev:
                spare = ours.with_suffix(".new")
                os.link(theirs, spare)
                spare.rename(ours)

    def _entries(self) -> list[dict[str, Any]]:
        index = self.folder / "index.json"
        return json.loads(index.read_text())["manifests"] if index.exists() else []

    def _entry(self, name: str) -> dict[str, Any]:
        return next(e for e in self._entries() if e["annotations"][REFERENCE] == name)

    def _manifest(self, name: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self._blob(self._entry(name)["digest"]).read_text())
        return manifest

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        document = {"schemaVersion": 2, "manifests": entries}
        spare = self.folder / "index.json.new"
        spare.write_text(json.dumps(document))
        spare.rename(self.folder / "index.json")

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _put(self, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(document, sort_keys=True).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._blob(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest_of_file(file: Path) -> str:
    with file.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
