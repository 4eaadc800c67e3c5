"""Write a set's files; put the whole set in place at once, with a manifest of what it holds."""

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

MANIFEST = "manifest.json"
ROWS = (".jsonl", ".csv")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """One JSON object a line, UTF-8 as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A header line, then the rows; quoted where needed, as every CSV reader expects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def rule_hash() -> str:
    """A hash of every rule here: any change in this package makes the sets anew.

    The source is the rule's version, because a number that a person must remember to raise
    would one day leave old files under a new rule.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def made(folder: Path, rule: str) -> dict[str, dict[str, int]]:
    """The files that the manifest lists, if this rule made them and all are there; else none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, int]] = manifest["files"]
        whole = all((folder / name).stat().st_size == f["bytes"] for name, f in files.items())
        return files if whole and manifest["rule"] == rule else {}
    except (OSError, ValueError, KeyError):
        return {}


def make(folder: Path, rule: str, build: Callable[[Path], list[str]]) -> dict[str, dict[str, int]]:
    """Build a set in a temporary folder beside its place, then rename it into place.

    A reader sees the old set or the new one, never a half. `build` returns the packages that
    it read, for the manifest.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        packages = sorted(set(build(temporary)))
        files = {
            str(path.relative_to(temporary)): {"bytes": path.stat().st_size, **_rows(path)}
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        manifest = {"rule": rule, "packages": packages, "files": files}
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide the set from a trainer's user
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            folder.rename(old / "old")
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return files


def _rows(path: Path) -> dict[str, int]:
    if path.suffix not in ROWS:
        return {}
    with path.open(encoding="utf-8", newline="") as opened:
        if path.suffix == ".csv":
            return {"rows": sum(1 for _ in csv.reader(opened)) - 1}
        return {"rows": sum(1 for _ in opened)}
