"""`python -m troika_api DIRECTORY` writes the generated CRDs there."""

import sys
from pathlib import Path

import yaml

from .crd import KINDS, definition

HEADER = "# Generated from the models in crds/src/troika_api by `make gen`; do not edit.\n"


def render() -> dict[str, str]:
    """File name -> text of every generated CRD."""
    files = {}
    for kind in KINDS:
        document = definition(kind)
        text = yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)
        files[f"{document['metadata']['name']}.yaml"] = HEADER + text
    return files


def main() -> None:
    """Writes each file into the directory named on the command line."""
    directory = Path(sys.argv[1])
    for name, text in render().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main()
