"""A run goes on from checkpoints of its own only, and from these whatever job it is part of."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.trainer_runs import LICENSE, finetune_run, merged, pretrain_run, train_here
from troika_api.v1alpha1.run import RUN
from troika_trainer.batch import Examples
from troika_trainer.distributed import Group
from troika_trainer.errors import ConfigError, DataError
from troika_trainer.frozen import digest_of_frozen
from troika_trainer.integrity import seal, write_durably
from troika_trainer.lineage import Lineage, check, digest_of, lineage
from troika_trainer.place import Place
from troika_trainer.prepare import Cache, _kept

CHECKPOINT = Path("/checkpoints/step-400")
OURS = {"kind": "PretrainJob", "training.seed": "1", "data.train": "a" * 64}


def told(found: Lineage) -> tuple[type[Exception], str, str]:
    with pytest.raises((ConfigError, DataError)) as caught:
        check(found, OURS, checkpoint=CHECKPOINT)
    return caught.type, str(caught.value), str(caught.value.remedy)


def test_what_differs_is_named_with_what_it_was_and_what_to_do() -> None:
    kind, message, remedy = told(OURS | {"training.seed": "7"})
    assert kind is ConfigError
    assert message == "/checkpoints/step-400 is of another run: training.seed was 7 and is 1"
    assert remedy == (
        "put training.seed back to go on, or give this run a checkpoint.uri of its own"
    )
    kind, message, remedy = told(OURS | {"training.seed": "7", "data.train": "b" * 64})
    assert kind is DataError
    assert "has changed (digest bbbbbbbbbbbb then, aaaaaaaaaaaa now)" in message
    assert remedy.startswith("put training.seed and data.train back")


def test_what_does_not_differ_passes() -> None:
    check(dict(OURS), OURS, checkpoint=CHECKPOINT)


@pytest.mark.parametrize(
    ("found", "lacking"),
    [
        ({}, "data.train, kind, training.seed"),
        ({"kind": "PretrainJob", "training.seed": "1"}, "data.train"),
        (OURS | {"data.packing": "True"}, "data.packing"),
    ],
)
def test_what_cannot_be_compared_does_not_pass(found: Lineage, lacking: str) -> None:
    kind, message, remedy = told(found)
    assert kind is ConfigError
    assert message == f"{CHECKPOINT} may be of another run: only one of both has {lacking}"
    assert remedy == "give this run a checkpoint.uri of its own"


def test_what_follows_from_a_difference_is_not_told_besides() -> None:
    _, message, _ = told(OURS | {"training.seed": "7", "data.shuffleWindow": "64"})
    assert message.endswith("is of another run: training.seed was 7 and is 1")


def test_the_length_of_a_run_may_change_and_its_order_may_not(tmp_path: Path) -> None:
    def of(**changes: Any) -> Lineage:
        run = RUN.validate_python(merged(pretrain_run(tmp_path), changes))
        return lineage(run, {})

    assert of() == of(training={"steps": 99}) == of(checkpoint={"keep": 7}) == of(name="other")
    changes: list[dict[str, Any]] = [
        {"training": {"seed": 5}},
        {"training": {"globalBatchSize": 16}},
        {"data": {"sequenceLength": 16}},
        {"data": {"packing": True}},
        {"data": {"streaming": True}},
        {"objective": "CausalLM"},
    ]
    for change in changes:
        assert of(**change) != of()


def split(directory: Path, content: bytes, test: bytes = b"") -> str:
    for name, value in {"train": content, "test": test}.items():
        (directory / name).mkdir(parents=True)
        (directory / name / "index.json").write_bytes(value)
    seal(directory)
    return digest_of(directory, "train")


def test_a_digest_is_of_content_and_of_one_split(tmp_path: Path) -> None:
    first = split(tmp_path / "a", b"1")
    os.utime(tmp_path / "a" / "train" / "index.json", (1, 1))
    assert first == digest_of(tmp_path / "a", "train") == split(tmp_path / "b", b"1", b"2")
    assert first != split(tmp_path / "c", b"2")


def test_the_same_run_goes_on_with_a_copy_of_its_data_and_more_steps(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path)
    train_here(run)
    elsewhere = tmp_path / "elsewhere.txt"
    shutil.copy(LICENSE, elsewhere)
    longer = {"data": {"train": {"uri": str(elsewhere)}}, "training": {"steps": 14}}
    again = train_here(merged(run, longer), place=Place(attempt=1))
    assert [step.step for step in again.steps] == [13, 14]


def test_another_seed_or_other_rows_do_not_go_on_from_there(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path)
    train_here(run)
    with pytest.raises(ConfigError, match=r"step-12 is of another run: training\.seed was"):
        train_here(merged(run, {"training": {"seed": 4711}}), place=Place(attempt=1))
    other = tmp_path / "other.txt"
    other.write_text(LICENSE.read_text().upper() * 2)
    changed = merged(run, {"data": {"train": {"uri": str(other)}}})
    with pytest.raises(DataError, match=r"another run: data\.train, or what turns it"):
        train_here(changed, place=Place(attempt=1))


@pytest.mark.parametrize("method", [{"type": "Frozen"}, {"type": "LoRA", "rank": 4}])
def test_what_was_learnt_beside_one_model_does_not_go_on_beside_another(
    tmp_path: Path, method: dict[str, object]
) -> None:
    for name, seed in {"base": 1, "copy": 1, "other": 2}.items():
        train_here(pretrain_run(tmp_path / name, training={"seed": seed, "steps": 2}))

    def on(name: str, attempt: int) -> list[int]:
        run = finetune_run(
            tmp_path,
            model=tmp_path / name / "model",
            method=method,
            training={"steps": 2 + attempt},
        )
        return [step.step for step in train_here(run, place=Place(attempt=attempt)).steps]

    assert on("base", 0) == [1, 2]
    assert on("copy", 1) == [3]
    with pytest.raises(ConfigError, match="the frozen part of model has changed") as caught:
        on("other", 2)
    assert "put the frozen part of model back" in str(caught.value.remedy)


def test_a_digest_is_of_all_frozen_weights_and_of_no_other() -> None:
    body, head = torch.nn.Linear(300, 200), torch.nn.Linear(1, 1)
    model = torch.nn.Sequential(body, head)
    assert digest_of_frozen(model) is None
    body.requires_grad_(requires_grad=False)
    before = digest_of_frozen(model)
    with torch.no_grad():
        head.weight += 1
        assert digest_of_frozen(model) == before
        body.weight *= 1.001
    assert digest_of_frozen(model) != before


def test_a_truncated_first_look_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "cache" / "first-look-train-1.npy"
    cache = Cache(tmp_path, tmp_path, Group(Place(), torch.device("cpu")), lambda: None)
    looks = []

    def measure(_: Examples) -> Any:
        looks.append(1)
        return np.arange(6.0)

    examples: Any = None  # nothing is read of them here
    for size in (None, None, 140, 0):
        if size is not None:
            file.write_bytes(file.read_bytes()[:size])
        assert _kept(file, examples, cache, measure).tolist() == list(range(6))
    assert len(looks) == 3
    assert f"{file} is damaged and made again" in caplog.text
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        write_durably(tmp_path / "a", b"content")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
