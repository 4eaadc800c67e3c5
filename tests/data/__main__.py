"""`PYTHONPATH=tests python3 -m data OUTPUT_DIR [names...]`: make the named sets, or all."""

import argparse
import fcntl
import sys
import time
from pathlib import Path

from .catalogue import SETS
from .errors import DataError
from .files import ROWS, made, make, rule_hash


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m data", description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, help="the folder that gets the sets")
    parser.add_argument("names", nargs="*", metavar="name", help="sets to make; all if none")
    parser.add_argument("--list", action="store_true", help="list the sets and stop")
    asked = parser.parse_args()
    if asked.list:
        for name, build in SETS.items():
            print(f"{name:<14}{(build.__doc__ or '').splitlines()[0]}")
        return 0
    if asked.output is None:
        parser.error("OUTPUT_DIR is missing (or --list)")
    unknown = [name for name in asked.names if name not in SETS]
    if unknown:
        parser.error(f"no such set: {', '.join(unknown)}; there are: {', '.join(SETS)}")
    asked.output.mkdir(parents=True, exist_ok=True)
    with (asked.output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits, and then finds the sets made
        results = [_one(asked.output, name) for name in asked.names or SETS]
    return 0 if all(results) else 1


def _one(output: Path, name: str) -> bool:
    """Make one set unless it is there already; say what it holds."""
    started, folder, rule = time.monotonic(), output / name, rule_hash()
    files = made(folder, rule)
    state = "already made" if files else "made"
    try:
        files = files or make(folder, rule, SETS[name])
    except DataError as problem:
        print(f"{name}: {problem}", file=sys.stderr)
        return False
    total = sum(file["bytes"] for file in files.values())
    seconds = time.monotonic() - started
    print(f"{name}: {state}, {len(files):,} files, {total:,} bytes, {seconds:.1f} s")
    for path, file in files.items():
        if path.endswith(ROWS):
            print(f"  {name}/{path}: {file['rows']:,} rows, {file['bytes']:,} bytes")
    return True


if __name__ == "__main__":
    sys.exit(main())
