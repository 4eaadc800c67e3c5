"""A run that is stopped and resumed, followed by real trackers: every number is there once."""

import json
import os
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from support.tinyrun import free_port
from support.trainer_runs import finetune_run, pretrain_run, train_here
from support.waiting import wait_until
from troika_trainer.errors import TerminatedError
from troika_trainer.shutdown import StopSignal

pytestmark = pytest.mark.slow

STEPS, STOPPED_AT = 12, 5
BLOCK, FULL, LAST = 32768, 1, 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server with a data base of its own."""
    root = tmp_path_factory.mktemp("mlflow")
    uri = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", uri.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db"]
    command += ["--default-artifact-root", str(root / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True
        )
    try:
        wait_until_healthy(uri, process, root / "log")
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)


def wait_until_healthy(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def healthy() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
                return bool(answer.read() == b"OK")
        except OSError:
            return False

    wait_until(healthy, "MLflow", seconds=240, seen=lambda: log.read_text()[-3000:])


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, server: str) -> tuple[Path, list[str]]:
    """A fine-tune run in two attempts, and MLflow's word for its state after each."""
    root = tmp_path_factory.mktemp("runs")
    base = pretrain_run(root / "base", training={"steps": 2}, evaluation={"everySteps": 2})
    train_here(base)
    run = finetune_run(
        root / "tuned",
        model=root / "base" / "model",
        tracking={
            "mlflow": {"uri": server, "experiment": "reviews"},
            "wandb": {"project": "reviews", "mode": "Offline"},
        },
    )

    def stop(step: int, signal: StopSignal) -> None:
        signal.requested = step == STOPPED_AT

    states = []
    with pytest.raises(TerminatedError):
        train_here(run, after_step=stop)
    states.append(mlflow_run(server, root / "tuned").info.status)
    train_here(run)
    states.append(mlflow_run(server, root / "tuned").info.status)
    return root / "tuned", states


def mlflow_run(server: str, root: Path) -> Any:
    run_id = (root / "checkpoints" / "mlflow-run").read_text()
    return MlflowClient(tracking_uri=server).get_run(run_id)


def test_mlflow_has_one_run_with_every_number_once(
    followed: tuple[Path, list[str]], server: str
) -> None:
    root, states = followed
    client = MlflowClient(tracking_uri=server)
    run = mlflow_run(server, root)
    experiment = client.get_experiment_by_name("reviews")
    assert experiment is not None
    assert run.info.experiment_id == experiment.experiment_id
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert states == ["KILLED", "FINISHED"]

    def steps(name: str) -> list[int]:
        return [entry.step for entry in client.get_metric_history(run.info.run_id, name)]

    assert steps("train/loss") == list(range(1, STEPS + 1))
    assert steps("validation/f1") == [6, 12]
    assert steps("test/f1") == [12]
    assert run.data.params["training.globalBatchSize"] == "8"
    assert run.data.params["task"] == "TextClassification"


def test_event_files_have_every_step_once(followed: tuple[Path, list[str]]) -> None:
    root, _ = followed
    directory = root / "checkpoints" / "tensorboard"
    assert len(list(directory.iterdir())) == 2
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, STEPS + 1))
    assert [event.step for event in events.Scalars("validation/loss")] == [6, 12]
    report = json.loads((root / "model" / "report.json").read_text())
    curve = {point["step"]: point for point in report["curve"]}
    for event in events.Scalars("train/learning_rate"):
        assert event.value == pytest.approx(curve[event.step]["learning_rate"])


def test_wandb_has_files_to_synchronise(followed: tuple[Path, list[str]]) -> None:
    root, _ = followed
    files = sorted((root / "checkpoints" / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = (root / "checkpoints" / "wandb-run").read_text()
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    steps = [step for file in files for step in history_of(file)]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, STEPS + 1))


def history_of(file: Path) -> Iterator[int]:
    """Steps of which a W&B file has the training loss."""
    proto: Any = wandb_internal_pb2
    for data in records_of(file.read_bytes()):
        record = proto.Record()
        record.ParseFromString(data)
        names = [item.key or "/".join(item.nested_key) for item in record.history.item]
        if "train/loss" in names:
            yield int(record.history.step.num)


def records_of(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file: those of a LevelDB log, after a header of 7 bytes."""
    assert content[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:  # the rest of a block is too short for a header
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def test_the_page_shows_the_whole_run(followed: tuple[Path, list[str]]) -> None:
    root, _ = followed
    report = json.loads((root / "model" / "report.json").read_text())
    assert [point["step"] for point in report["curve"]] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in report["history"]] == [6, 12]
    assert report["run"]["tracking"]["mlflow"]["experiment"] == "reviews"
    assert report["environment"]["Ranks"] == "1 on 1 node"
    page = (root / "model" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    for mistake in report["worst"]:
        assert mistake["expected"] != mistake["predicted"]
        assert mistake["text"] in page
    assert (len(report["worst"]) > 0) == (report["evaluation"]["metrics"]["accuracy"] < 1)


def test_trackers_that_are_down_cost_a_warning(
    followed: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, _ = followed
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run = finetune_run(
        tmp_path,
        model=root.parent / "base" / "model",
        training={"epochs": 1},
        tracking={"mlflow": {"uri": nobody}, "wandb": {"project": "a", "uri": nobody}},
    )
    train_here(run)
    assert (tmp_path / "model" / "report.html").exists()
    assert "MLflow: " in caplog.text
    assert "training goes on without it" in caplog.text
