"""What Helm prints after an install."""

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
