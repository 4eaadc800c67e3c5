"""Every object that the examples become, as YAML: `PYTHONPATH=tests python -m support.golden`."""

from dataclasses import replace
from pathlib import Path

import yaml

from troika_operator.resources.attempt import Shape
from troika_operator.resources.labels import Job
from troika_operator.resources.objects import attempt_objects

from .views import PLATFORM, finetune, manifest, pretrain

FOLDER = Path(__file__).parents[1] / "golden" / "operator"
MODEL = "pvc://models/bert-prose"


class Dumper(yaml.SafeDumper):
    """Texts of many lines as lines."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _text)


def jobs() -> dict[str, Job]:
    """By name of the file."""
    llama = {f"spec__{key}": value for key, value in manifest("pretrain-llama-gpu")["spec"].items()}
    return {
        "pretrain-bert": pretrain(),
        "finetune-sentiment": finetune(),
        "pretrain-llama-gpu": pretrain(metadata__name="llama-small", **llama),
    }


def rendered(job: Job) -> str:
    """The objects of its first attempt, on a cluster that serves PodGroups."""
    shape = Shape.wanted(job.spec.compute, number=0)
    base_model = MODEL if job.kind == "FinetuneJob" else None
    objects = attempt_objects(job, shape, replace(PLATFORM, gangs=True), base_model)
    return yaml.dump_all([*objects.shared, objects.job], Dumper=Dumper, sort_keys=False, width=100)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, job in jobs().items():
        (FOLDER / f"{name}.yaml").write_text(rendered(job))


if __name__ == "__main__":
    main()
