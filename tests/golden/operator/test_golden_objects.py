"""Manifest in, objects out. After a change that is meant: `python -m support.golden`."""

import json
from typing import Any

import pytest
import yaml
from kubernetes.aio.client import V1ConfigMap, V1Job, V1Service

from support.golden import FOLDER, jobs, rendered
from support.views import PLATFORM, finetune, pretrain
from troika_api.v1alpha1.run import RUN
from troika_operator.resources.attempt import Platform, Shape
from troika_operator.resources.labels import Job
from troika_operator.resources.objects import attempt_objects


@pytest.mark.parametrize("name", jobs())
def test_the_objects_are_as_they_were(name: str) -> None:
    assert rendered(jobs()[name]) == (FOLDER / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", jobs())
def test_the_api_knows_every_field(name: str) -> None:
    models: dict[str, Any] = {"Job": V1Job, "Service": V1Service, "ConfigMap": V1ConfigMap}
    for body in yaml.safe_load_all(rendered(jobs()[name])):
        if model := models.get(body["kind"]):
            model.model_validate(body)


def made(job: Job, platform: Platform = PLATFORM, **shape: int) -> dict[str, Any]:
    wanted = Shape.wanted(job.spec.compute, number=shape.pop("number", 0))
    body = attempt_objects(job, wanted, platform, None).job
    found: dict[str, Any] = body["spec"]["template"]["spec"]
    return found


def test_the_trainer_can_read_its_run() -> None:
    objects = attempt_objects(
        finetune(), Shape.wanted(finetune().spec.compute, number=0), PLATFORM, "pvc://models/bert"
    )
    config = next(part for part in objects.shared if part["kind"] == "ConfigMap")
    run = RUN.validate_json(config["data"]["run.json"])
    assert run.kind == "FinetuneJob"
    assert run.model.path == "/mnt/troika/models/bert"
    assert run.data.train.uri == "/mnt/troika/corpus/reviews/train.csv"
    assert run.output.uri == "/mnt/troika/models/sentiment"


def test_what_is_only_read_is_mounted_so() -> None:
    mounts = {m["name"]: m for m in made(pretrain())["containers"][0]["volumeMounts"]}
    assert mounts["pvc-corpus"]["readOnly"] is True
    assert "readOnly" not in mounts["pvc-models"]


def test_a_cache_is_mounted_to_be_written() -> None:
    job = finetune(spec__data__cache={"uri": "pvc://corpus/cache"})
    mounts = {m["name"]: m for m in made(job)["containers"][0]["volumeMounts"]}
    assert "readOnly" not in mounts["pvc-corpus"], "it shares its claim with the data"
    objects = attempt_objects(job, Shape.wanted(job.spec.compute, number=0), PLATFORM, None)
    config = next(part for part in objects.shared if part["kind"] == "ConfigMap")
    run = RUN.validate_json(config["data"]["run.json"])
    assert run.data.cache
    assert run.data.cache.uri == "/mnt/troika/corpus/cache"


def test_a_restricted_namespace_takes_the_pods() -> None:
    pod = made(pretrain())
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_a_platform_may_choose_the_user() -> None:
    free = Platform(PLATFORM.image, PLATFORM.pull_policy, run_as_user=None, fs_group=None)
    context = made(pretrain(), free)["securityContext"]
    assert "runAsUser" not in context
    assert "fsGroup" not in context


def test_one_node_and_an_unwilling_job_need_no_gang() -> None:
    gangs = Platform(PLATFORM.image, PLATFORM.pull_policy, gangs=True)
    assert "schedulingGroup" in made(pretrain(), gangs)
    assert "schedulingGroup" not in made(pretrain(spec__compute__nodes=1), gangs)
    assert "schedulingGroup" not in made(pretrain(spec__compute__gang=False), gangs)
    assert "schedulingGroup" not in made(pretrain())


def test_an_image_of_ones_own_keeps_its_entry_point() -> None:
    (container,) = made(pretrain(spec__compute__image="mine:1"))["containers"]
    assert container["image"] == "mine:1"
    assert "command" not in container
    assert "args" not in container


def test_a_secret_becomes_a_reference() -> None:
    token = {"name": "HF_TOKEN", "secret": {"name": "hub", "key": "token"}}
    (container,) = made(pretrain(spec__compute__env=[token]))["containers"]
    assert {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
    } in container["env"]


def test_the_keys_of_trackers_are_references_to_the_secret_and_stand_in_no_run_file() -> None:
    tracking = {"mlflow": {"uri": "https://mlflow.test"}, "secret": {"name": "keys"}}
    own = {"name": "MLFLOW_TRACKING_TOKEN", "value": "mine"}
    job = pretrain(spec__tracking=tracking, spec__compute__env=[own])
    (container,) = made(job)["containers"]
    references = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]
        for variable in container["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY")
    assert references == {name: {"name": "keys", "key": name, "optional": True} for name in names}
    assert own in container["env"]
    objects = attempt_objects(job, Shape.wanted(job.spec.compute, number=0), PLATFORM, None)
    config = next(part for part in objects.shared if part["kind"] == "ConfigMap")
    run = json.loads(config["data"]["run.json"])
    assert run["tracking"] == {"mlflow": {"uri": "https://mlflow.test", "experiment": "troika"}}


def test_without_a_secret_there_are_no_keys() -> None:
    (container,) = made(pretrain(spec__tracking={"wandb": {"project": "a"}}))["containers"]
    assert not any("secretKeyRef" in e.get("valueFrom", {}) for e in container["env"])


def test_attempts_differ_in_what_keeps_them_apart() -> None:
    def env(number: int) -> dict[str, str]:
        (container,) = made(pretrain(), number=number)["containers"]
        return {e["name"]: e.get("value", "") for e in container["env"]}

    first, second = env(0), env(1)
    assert first["PET_RDZV_ENDPOINT"] == "bert-prose-ptj-a0-0.bert-prose-ptj:29500"
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"TROIKA_ATTEMPT", "TROIKA_TERM", "PET_RDZV_ENDPOINT", "PET_RDZV_ID"}
    assert (first["TROIKA_TERM"], second["TROIKA_TERM"]) == (
        "20261124T120000Z-11111111-00000",
        "20261124T120000Z-11111111-00001",
    )
