"""The trainer as a pod runs it: real processes, real signals, the same numbers at the end."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM

from support.trainer_launch import DEADLINE, Launched, Launcher, launching
from support.trainer_runs import pretrain_run
from support.waiting import wait_until
from troika_api.contract import ExitCode, FailureClass, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 160
TRAINING = {"steps": STEPS, "optimizer": {"learningRate": 0.002}}
EVALUATION = {"everySteps": 40}


def long_run(folder: Path, **changes: Any) -> dict[str, Any]:
    """Long enough to be interrupted, with a checkpoint every five steps."""
    run = pretrain_run(folder, training=TRAINING, evaluation=EVALUATION)
    return {**run, **changes}


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with launching(tmp_path / "launched") as launcher:
        yield launcher


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Validation loss by step of a run on two ranks that was left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with launching(folder / "launched") as launcher:
        launched = launcher.start(long_run(folder), ranks=2)
        assert launched.wait() == ExitCode.OK, launched.output()
        losses = launched.validation()
    assert sorted(losses) == [0, 40, 80, 120, 160]
    assert losses[160] < losses[0] - 0.5
    AutoModelForMaskedLM.from_pretrained(folder / "model")
    return losses


def in_mid_run(launched: Launched) -> None:
    """Wait until it has made steps beyond a checkpoint and has many to go."""
    wait_until(lambda: launched.reached(23), "step 23", seconds=DEADLINE, every=0.01)


def test_one_rank_gives_the_losses_of_two(
    tmp_path: Path, launcher: Launcher, undisturbed: dict[int, float]
) -> None:
    launched = launcher.start(long_run(tmp_path), ranks=1)
    assert launched.wait() == ExitCode.OK, launched.output()
    assert launched.validation() == pytest.approx(undisturbed, abs=1e-4)


def test_a_killed_process_is_restarted_in_place_and_loses_nothing(
    tmp_path: Path, launcher: Launcher, undisturbed: dict[int, float]
) -> None:
    launched = launcher.start(long_run(tmp_path), ranks=2)
    in_mid_run(launched)
    os.kill(launched.workers()[1], signal.SIGKILL)
    again = wait_until(
        lambda: (said := launched.status()) and said.started_again,
        "a new start",
        seconds=DEADLINE,
    )
    assert again == "rank 1 was killed by SIGKILL"
    assert launched.wait() == ExitCode.OK, launched.output()
    assert len(launched.lines("resumed")) == 1
    assert launched.validation()[STEPS] == pytest.approx(undisturbed[STEPS], abs=1e-6)
    word = launched.word()
    assert word.outcome == "Succeeded"
    assert word.model_path == str(tmp_path / "model")
    assert word.evaluation is not None
    assert word.evaluation.metrics["loss"] == pytest.approx(undisturbed[STEPS], abs=1e-4)


def test_sigterm_saves_and_the_next_attempt_goes_on(
    tmp_path: Path, launcher: Launcher, undisturbed: dict[int, float]
) -> None:
    run = long_run(tmp_path)
    run["checkpoint"]["interval"] = "1h"  # whatever is found afterwards, the signal has saved
    first = launcher.start(run, ranks=2)
    in_mid_run(first)
    first.process.terminate()
    assert first.wait() == ExitCode.TERMINATED
    word = first.word()
    assert word.outcome == "Terminated"
    assert word.status is not None
    assert word.status.checkpoint is not None
    stopped_at = word.status.checkpoint.step
    assert word.status.step == stopped_at >= 23

    second = launcher.start(run, ranks=2, TROIKA_ATTEMPT="1")
    assert second.wait() == ExitCode.OK, second.output()
    assert second.lines("resumed")[0]["step"] == stopped_at
    assert second.validation()[STEPS] == pytest.approx(undisturbed[STEPS], abs=1e-6)


def test_sigterm_to_one_of_two_nodes_stops_both_at_the_same_step(
    tmp_path: Path, launcher: Launcher, undisturbed: dict[int, float]
) -> None:
    run = long_run(tmp_path)
    nodes = launcher.start_nodes(run, run)
    in_mid_run(nodes[0])
    nodes[1].process.terminate()
    assert [node.wait() for node in nodes] == [ExitCode.TERMINATED] * 2, nodes[0].output()
    words = [node.word() for node in nodes]
    assert [word.outcome for word in words] == ["Terminated"] * 2
    assert words[0].message == words[1].message
    assert words[0].rank == 0, "rank 0 is on node 0, whatever the addresses"

    rest = launcher.start(run, ranks=1, TROIKA_ATTEMPT="1")  # and on another number of ranks
    assert rest.wait() == ExitCode.OK, rest.output()
    assert rest.validation()[STEPS] == pytest.approx(undisturbed[STEPS], abs=1e-4)


def test_a_node_that_fails_for_good_names_the_cause_and_its_peer_the_effect(
    tmp_path: Path, launcher: Launcher
) -> None:
    good = long_run(tmp_path)
    bad = {**good, "model": {"config": {**good["model"]["config"], "hidden_act": "nonsense"}}}
    nodes = launcher.start_nodes(good, bad)
    codes = [node.wait() for node in nodes]
    assert codes == [ExitCode.COMMUNICATION, ExitCode.BAD_CONFIG], nodes[0].output()
    words = [node.word() for node in nodes]
    assert [word.failure for word in words] == [
        FailureClass.COMMUNICATION,
        FailureClass.BAD_CONFIG,
    ]
    assert "nonsense" in words[1].message


def test_status_and_metrics_are_served_while_it_trains(tmp_path: Path, launcher: Launcher) -> None:
    launched = launcher.start(long_run(tmp_path), ranks=1)
    loading = wait_until(launched.status, "a status", seconds=DEADLINE, every=0.01)
    assert loading.stage is Stage.LOADING, "the server is up before torch is"
    in_mid_run(launched)
    status = launched.status()
    page = launched.get("metrics")
    assert status is not None
    assert page is not None
    assert status.total_steps == STEPS
    assert status.tokens_per_second is not None
    assert 'troika_train_tokens_total{kind="PretrainJob",name="tiny"}' in page
    assert launched.wait() == ExitCode.OK


def test_a_bad_run_file_ends_the_pod_before_torch_is_loaded(
    tmp_path: Path, launcher: Launcher
) -> None:
    run = long_run(tmp_path)
    run["training"]["stepz"] = 3
    launched = launcher.start(run)
    assert launched.wait() == ExitCode.BAD_CONFIG
    word = launched.word()
    assert (word.outcome, word.failure) == ("Failed", FailureClass.BAD_CONFIG)
    assert "training.stepz" in word.message


def test_data_that_is_not_there_ends_the_pod_before_torch_is_loaded(
    tmp_path: Path, launcher: Launcher
) -> None:
    run = long_run(tmp_path)
    run["data"]["train"] = {"uri": "/nowhere/rows.jsonl"}
    launched = launcher.start(run, ranks=2)
    assert launched.wait() == ExitCode.BAD_DATA
    word = launched.word()
    assert (word.outcome, word.failure) == ("Failed", FailureClass.BAD_DATA)
    assert word.message == "no file matches /nowhere/rows.jsonl"
    assert word.remedy
    assert not launched.lines("serving metrics and status"), "no rank was started"


def test_a_bad_row_ends_the_attempt_without_a_restart(tmp_path: Path, launcher: Launcher) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 5}\n')
    run = long_run(tmp_path)
    run["data"]["train"] = {"uri": str(path)}
    launched = launcher.start(run, ranks=2)
    assert launched.wait() == ExitCode.BAD_DATA
    word = launched.word()
    assert (word.failure, word.rank) == (FailureClass.BAD_DATA, 0)
    assert word.message == f"{path}, line 2, column 'text': expected text, got int 5"
    assert len(launched.lines("serving metrics and status")) == 1, "started once"


def test_plain_torchrun_works_too(tmp_path: Path, launcher: Launcher) -> None:
    run = pretrain_run(tmp_path)
    launched = launcher.torchrun(run, ranks=2)
    assert launched.wait() == 0, launched.output()
    assert (tmp_path / "model" / "model.safetensors").exists()
