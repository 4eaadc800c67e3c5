"""`python charts/generate.py` writes what the chart repeats from elsewhere; `--check` compares.

The chart carries copies of the CRDs, because a symbolic link does not survive every way in which
people get a chart (archives, Windows checkouts), and its README a table of the values.
"""  # noqa: INP001  (a script beside the chart, not a package)

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts/troika"
BEGIN = "<!-- Generated from values.yaml by charts/generate.py; do not edit. -->\n"
END = "<!-- End of the generated table. -->\n"


def render() -> dict[Path, str]:
    """Path -> text of every generated file."""
    files = {
        CHART / "files/crds" / source.name: source.read_text()
        for source in sorted((ROOT / "crds").glob("*.yaml"))
    }
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    files[readme] = before + BEGIN + table((CHART / "values.yaml").read_text()) + END + after
    return files


def stale() -> list[Path]:
    """CRDs of the chart that the API no longer has."""
    return sorted(set((CHART / "files/crds").iterdir()) - render().keys())


def table(text: str) -> str:
    """A Markdown table of the values that have a `# --` comment."""
    values = yaml.safe_load(text)
    lines = ["| Value | Default | Meaning |\n", "|---|---|---|\n"]
    for path, comment in documented(text):
        default = json.dumps(_at(values, path))
        lines.append(f"| `{'.'.join(path)}` | `{default}` | {comment} |\n")
    return "".join(lines)


def documented(text: str) -> Iterator[tuple[list[str], str]]:
    """Path and comment of every key under a `# --` comment, in the order of the file."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
        elif key := re.match(r"( *)(\w+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                yield path, " ".join(comment)
            comment = []


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def main() -> None:
    """Write the files, or with `--check` name those that differ and exit with 1."""
    if "--check" in sys.argv[1:]:
        drifted = [path for path, text in render().items() if _read(path) != text] + stale()
        if drifted:
            names = ", ".join(str(path.relative_to(ROOT)) for path in drifted)
            sys.exit(f"not as generated: {names}; run `make gen`")
        return
    for path, text in render().items():
        path.write_text(text)
    for path in stale():
        path.unlink()


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    main()
