"""The models accept what the examples say and refuse what cannot be meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from troika_api.contract import claims, local_path, storage_uri
from troika_api.v1alpha1.base import duration_seconds
from troika_api.v1alpha1.finetune import FinetuneJob
from troika_api.v1alpha1.pretrain import PretrainJob
from troika_api.v1alpha1.resource import ModelFrom
from troika_api.v1alpha1.run import RUN, PretrainRun

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
KINDS = {"PretrainJob": PretrainJob, "FinetuneJob": FinetuneJob}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_parses_and_survives_a_round_trip(path: Path) -> None:
    body: dict[str, Any] = yaml.safe_load(path.read_text())
    job = KINDS[body["kind"]].model_validate(body)
    again = KINDS[body["kind"]].model_validate(job.wire())
    assert again == job


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("0.5h", 1800)]
)
def test_durations_are_read_in_seconds(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "-1s", "1d", "1s2"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s or 1h30m"):
        duration_seconds(text)


def test_volume_uris_become_mounted_paths_and_back() -> None:
    uri = "pvc://corpus/train/*.jsonl"
    assert local_path(uri) == "/mnt/troika/corpus/train/*.jsonl"
    assert storage_uri(local_path(uri)) == uri
    assert local_path("pvc://corpus") == "/mnt/troika/corpus"
    assert local_path("s3://bucket/x") == storage_uri("s3://bucket/x") == "s3://bucket/x"


def test_each_claim_is_mounted_once() -> None:
    assert claims("pvc://b/x", "pvc://a", "s3://c/d", "pvc://b/y") == ["a", "b"]


def test_a_path_may_not_climb_out_of_its_volume() -> None:
    body = yaml.safe_load((ROOT / "examples/pretrain-bert.yaml").read_text())
    body["spec"]["output"]["uri"] = "pvc://models/../../etc"
    with pytest.raises(ValidationError, match=r"'\.\.' is not allowed"):
        PretrainJob.model_validate(body)


@pytest.mark.parametrize("name", ["bert", "bert-v1.2", "b" * 253])
def test_whatever_a_job_may_be_called_another_can_start_from_it(name: str) -> None:
    assert ModelFrom.model_validate({"pretrainJob": name}).pretrain_job == name


@pytest.mark.parametrize("name", ["", "Bert", "-bert", "bert.", "a/b", "b" * 254])
def test_what_no_job_may_be_called_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ModelFrom.model_validate({"finetuneJob": name})


def test_run_json_is_told_apart_by_kind() -> None:
    run = RUN.validate_python(
        {
            "kind": "PretrainJob",
            "name": "x",
            "objective": "CausalLM",
            "model": {"config": {"model_type": "gpt2"}},
            "data": {"train": {"uri": "/data/*.txt"}},
            "training": {"steps": 1},
            "checkpoint": {"uri": "/run"},
            "output": {"uri": "/model"},
        }
    )
    assert isinstance(run, PretrainRun)


@pytest.mark.parametrize(
    ("objective", "streaming", "expected"),
    [("Denoising", False, "by MaskedLM and CausalLM only"), ("CausalLM", True, "leave streaming")],
)
def test_a_run_file_packs_only_what_can_be_kept_apart(
    objective: str, streaming: bool, expected: str
) -> None:
    run = {
        "kind": "PretrainJob",
        "name": "x",
        "objective": objective,
        "model": {"path": "/x"},
        "data": {"train": {"uri": "/x"}, "packing": True, "streaming": streaming},
        "training": {"steps": 1},
        "checkpoint": {"uri": "/x"},
        "output": {"uri": "/y"},
    }
    with pytest.raises(ValidationError, match=expected):
        RUN.validate_python(run)
