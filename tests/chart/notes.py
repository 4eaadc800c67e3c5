"""The first job that the chart's notes offer."""

from typing import Any

import yaml

from chart.helm import CHART


def first_job() -> list[dict[str, Any]]:
    """The manifests between the notes' `<<'END'` and `END`, which a shell wants at the margin."""
    notes = (CHART / "templates/NOTES.txt").read_text()
    _, _, rest = notes.partition("<<'END'\n")
    text, end, _ = rest.partition("\nEND\n")
    assert end
    assert "{{" not in text
    return list(yaml.safe_load_all(text))
