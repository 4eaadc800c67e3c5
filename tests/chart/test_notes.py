"""What Helm prints after an install."""

import re

import yaml

from chart.helm import CHART, ROOT
from chart.notes import first_job
from troika_api.contract import claims
from troika_api.v1alpha1.pretrain import PretrainJob


def test_the_first_job_is_one_that_the_api_knows() -> None:
    claim, body = first_job()
    job = PretrainJob.model_validate(body)
    spec = job.spec
    assert claims(spec.checkpoint.uri, spec.output.uri) == [claim["metadata"]["name"]]


def test_the_notes_watch_the_job_that_they_give() -> None:
    _, body = first_job()
    notes = (CHART / "templates/NOTES.txt").read_text()
    assert f"--for=condition=Complete ptj/{body['metadata']['name']}" in notes


def test_the_first_job_is_the_one_of_the_examples() -> None:
    text = (ROOT / "examples/first/first.yaml").read_text()
    assert list(yaml.safe_load_all(text)) == first_job()


def test_one_kind_is_watched_at_a_time() -> None:
    """As kubectl wants it: "you may only specify a single resource type"."""
    pages = [CHART / "templates/NOTES.txt", CHART / "README.md", ROOT / "README.md"]
    for page in [*pages, *(ROOT / "docs").rglob("*.md")]:
        watching = [
            line for line in page.read_text().splitlines() if re.search(r" (-w|--watch)\b", line)
        ]
        assert not [line for line in watching if re.search(r"get \w+,\w+", line)], page
