"""Where a URI leads: to fsspec's file systems, and to object stores by Arrow's clients.

fsspec wants a package of its own for each kind of object store. Arrow, which reads Parquet here,
has clients for them built in, which find their keys in the usual variables.
"""

import io
import os
from operator import itemgetter
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]
from pyarrow import fs as arrow  # type: ignore[import-untyped]
from typing_extensions import override

from .errors import ConfigError

READ_AHEAD = 4 << 20
"""Bytes of a request, at least: each one costs a round trip, however little it asks for."""
REMEDY = (
    "see that the URI is right, and that compute.env has what opens the store: AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL (s3), GOOGLE_APPLICATION_CREDENTIALS "
    "(gs), or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (abfs)"
)
"""What to look at when a store refuses."""


def _s3() -> arrow.FileSystem:
    """Other stores that speak S3, such as MinIO or Ceph, have an endpoint; Arrow does not look."""
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not given:
        return arrow.S3FileSystem()
    scheme, _, host = given.rpartition("://")
    return arrow.S3FileSystem(scheme=scheme or "https", endpoint_override=host.rstrip("/"))


def _azure() -> arrow.FileSystem:
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise ConfigError(
            "abfs:// names a container, and AZURE_STORAGE_ACCOUNT_NAME is not set", REMEDY
        )
    return arrow.AzureFileSystem(
        account, account_key=os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or None
    )


_CLIENTS = {"s3": _s3, "gs": arrow.GcsFileSystem, "abfs": _azure}


class ObjectStore(ArrowFSWrapper):  # type: ignore[misc]
    """One kind of object store as fsspec sees it; paths are BUCKET/KEY.

    Another process that is sent one makes it anew from the scheme.
    """

    def __init__(self, scheme: str, **options: Any) -> None:
        super().__init__(_CLIENTS[scheme](), **options)
        self.root_marker = ""

    @classmethod
    @override
    def _strip_protocol(cls, path: str) -> str:
        return path.rpartition("://")[2].strip("/")

    @override
    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **options: Any
    ) -> Any:
        """What is below a path, by one list; fsspec's own asks folder by folder, and takes one that
        it may not see for one that is empty.
        """
        selector = arrow.FileSelector(
            self._strip_protocol(path), allow_not_found=True, recursive=maxdepth != 1
        )
        depth = len(selector.base_dir.split("/")) + (maxdepth or 1 << 30)
        entries = [
            self._make_entry(entry)
            for entry in self.fs.get_file_info(selector)
            if len(entry.path.split("/")) <= depth
            and (withdirs or entry.type is arrow.FileType.File)
        ]
        found = {entry["name"]: entry for entry in sorted(entries, key=itemgetter("name"))}
        return found if options.get("detail") else list(found)

    @override
    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        options.pop("block_size", None)
        opened = super()._open(path, mode, **options)
        return io.BufferedReader(opened, READ_AHEAD) if mode == "rb" else opened


def is_object_store(uri: str) -> bool:
    """Whether the URI leads out of this machine to a store with keys."""
    return uri.partition("://")[0] in _CLIENTS


def find(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URI, and the path in it.

    Raises:
        ConfigError: it cannot be reached with what is known.
        ValueError: the scheme is not known.
    """
    if is_object_store(uri):
        scheme, _, path = uri.partition("://")
        return ObjectStore(scheme), path.strip("/")
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, path
