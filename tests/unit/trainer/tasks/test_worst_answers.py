"""What Chat and Preference show of the answers that went most wrong."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from support.trainer_runs import TINY_GPT, finetune_run
from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import RUN
from troika_trainer.batch import IGNORED, Batch
from troika_trainer.data import open_splits, write_splits
from troika_trainer.errors import DataError
from troika_trainer.rows import Row
from troika_trainer.shards import Store, Writer
from troika_trainer.sources import Sources
from troika_trainer.tasks.base import Measured
from troika_trainer.tasks.chat import Chat, Conversations, ConversationTask
from troika_trainer.tasks.conversation import Tokens
from troika_trainer.tasks.preference import ANSWERS, Preference, first_difference
from troika_trainer.tokenizer import train_tokenizer

TALKS: list[Any] = [
    {"prompt": "What is ice?", "completion": "Frozen water."},
    {"prompt": "What is steam?", "completion": "Water that boils, and so rises."},
    {
        "messages": [
            {"role": "user", "content": "Is snow ice?"},
            {"role": "assistant", "content": "It is."},
            {"role": "user", "content": "And rain?"},
            {"role": "assistant", "content": "It was."},
        ]
    },
]
PAIRS: list[Any] = [
    {"prompt": "What is ice?", "chosen": "Frozen water.", "rejected": "Frozen fire."},
    {"prompt": "What is steam?", "chosen": "Hot water.", "rejected": "Cold."},
    {"prompt": "What is snow?", "chosen": "Ice.", "rejected": "Sand."},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [str(row) for row in TALKS]
    spec = TokenizerTraining(vocab_size=300)
    return train_tokenizer(lambda: texts, spec, algorithm="ByteLevelBPE", bidirectional=False)


def made(kind: type[ConversationTask], folder: Path, tokenizer: Any) -> Any:
    run = finetune_run(folder, model=folder / "base", task=kind.__name__, data={"maxLength": 64})
    return kind(RUN.validate_python(run), tokenizer)


def stored(task: ConversationTask, folder: Path, rows: Sequence[dict[str, Any]]) -> Any:
    writer = Writer(folder, task.columns)
    numbered = [Row(row, "rows.jsonl", at, place=at) for at, row in enumerate(rows, start=1)]
    writer.add(task.encode(numbered))
    writer.close({"split": "test"})
    return task.examples(Store(folder))


def measured(predictions: Any) -> Measured:
    return Measured(loss=0.0, weight=1, predictions=np.asarray(predictions, dtype=np.float32))


def test_tokens_are_parted_at_the_answer_that_is_asked_for() -> None:
    #                                    user  first   user   second, and how it ends
    tokens = Tokens(np.arange(9), np.array([0, 0, 1, 1, 0, 0, 1, 1, 0], dtype=bool))
    for place, begin in ((0, 2), (2, 2), (5, 2), (6, 6), (8, 6)):
        before, answer = tokens.parted(place)
        assert before.tolist() == list(range(begin))
        assert answer.tolist() == list(range(begin, 8))


def test_sequences_differ_where_one_of_them_ends_at_the_latest() -> None:
    assert first_difference(np.array([1, 2, 3]), np.array([1, 5, 3])) == 1
    assert first_difference(np.array([1, 2]), np.array([1, 2, 3])) == 2
    assert first_difference(np.array([1, 2]), np.array([1, 2])) == 2


def test_a_conversation_is_measured_by_its_right_tokens_and_its_loss(
    tmp_path: Path, tokenizer: Any
) -> None:
    task = made(Chat, tmp_path, tokenizer)
    torch.manual_seed(1)
    auto: Any = AutoModelForCausalLM
    fields: dict[str, Any] = {**TINY_GPT, "n_positions": 64}
    config = AutoConfig.for_model(**fields, vocab_size=len(tokenizer))
    model = auto.from_config(config).eval()
    task.attach(model)
    examples = stored(task, tmp_path / "store", TALKS)
    batch: Batch = examples.batch(np.arange(3), np.zeros(3, dtype=np.int64))
    with torch.no_grad():
        loss, found = task.forward(model, batch)
        logits = model(**batch.inputs).logits[:, :-1]
    for row in range(3):
        where = batch.labels[row] != IGNORED
        wanted, said = batch.labels[row][where], logits[row][where]
        assert found[row, 0] == (said.argmax(-1) == wanted).sum()
        torch.testing.assert_close(found[row, 1], cross_entropy(said, wanted, reduction="sum"))
    torch.testing.assert_close(loss, found[:, 1].sum())
    scores = task.metrics(Measured(1.0, batch.weight, found.numpy()), examples)
    assert scores["accuracy"] == pytest.approx(float(found[:, 0].sum()) / batch.weight)


def test_of_a_chat_the_dearest_tokens_are_worst_not_the_longest_answer(
    tmp_path: Path, tokenizer: Any
) -> None:
    task = made(Chat, tmp_path, tokenizer)
    examples: Conversations = stored(task, tmp_path / "store", TALKS)
    sizes = [int(examples.tokens(index).answer.sum()) for index in range(3)]
    assert sizes[0] < sizes[1]
    found = task.worst(measured([[0, 3.0 * sizes[0]], [0, 2.0 * sizes[1]], [0, 0.0]]), examples)
    assert [(entry.row, entry.value) for entry in found] == [(1, 3.0), (2, 2.0)]
    assert "What is ice?" in found[0].text
    assert found[0].expected == "Frozen water."
    assert "Frozen" not in found[0].text
    assert found[0].predicted is None, "nothing was written that could be shown"


def test_of_a_longer_talk_all_is_shown_that_the_loss_is_on(tmp_path: Path, tokenizer: Any) -> None:
    task = made(Chat, tmp_path, tokenizer)
    examples = stored(task, tmp_path / "store", TALKS[2:])
    (entry,) = task.worst(measured([[0, 9.0]]), examples)
    assert "Is snow ice?" in entry.text
    assert entry.expected.startswith("It is.")
    assert "And rain?" in entry.expected
    assert entry.expected.endswith("It was.")


def test_of_preferences_those_the_wrong_way_round_are_worst(tmp_path: Path, tokenizer: Any) -> None:
    task = made(Preference, tmp_path, tokenizer)
    examples = stored(task, tmp_path / "store", PAIRS)
    examples.reference = np.array([[-9, -9], [-5, -5], [-7, -7]], dtype=np.float32)
    #                       margin -0.1   right         margin -0.2, as beta is 0.1
    policy = measured([[-9.5, -8.5], [-5.0, -6.0], [-8.0, -6.0]])
    found = task.worst(policy, examples)
    assert [(entry.row, entry.expected, entry.predicted) for entry in found] == [
        (3, "Ice.", "Sand."),
        (1, "Frozen water.", "Frozen fire."),
    ]
    assert [entry.value for entry in found] == pytest.approx([-0.2, -0.1])
    assert {entry.measure for entry in found} == {"margin"}
    assert "What is snow?" in found[0].text
    assert "Frozen" not in found[1].text, "what both begin with is part of the answer"
    assert task.metrics(policy, examples)["accuracy"] == pytest.approx(1 / 3)


def test_what_a_message_says_is_not_dropped_in_silence(tmp_path: Path, tokenizer: Any) -> None:
    said = {"role": "assistant", "content": "It is.", "tool_calls": [{"name": "thermometer"}]}
    row = {"messages": [{"role": "user", "content": "Is it cold?"}, said]}
    task = made(Chat, tmp_path, tokenizer)
    with pytest.raises(DataError, match="line 1, message 2 has 'tool_calls'"):
        stored(task, tmp_path / "store", [row])


def test_a_prompt_that_answers_repeat_is_read_once(tmp_path: Path, tokenizer: Any) -> None:
    def whole(row: dict[str, str], answer: str) -> list[dict[str, str]]:
        said = {"role": "assistant", "content": row[answer]}
        return [{"role": "user", "content": row["prompt"]}, said]

    twice = [{**row, **{name: whole(row, name) for name in ANSWERS}} for row in PAIRS]
    task = made(Preference, tmp_path, tokenizer)
    one, other = stored(task, tmp_path / "one", PAIRS), stored(task, tmp_path / "other", twice)
    for index in range(3):
        for plain, repeated in zip(one.pair(index), other.pair(index), strict=True):
            assert repeated.ids.tolist() == plain.ids.tolist()
            assert repeated.answer.tolist() == plain.answer.tolist()


@pytest.mark.parametrize("kind", [Chat, Preference])
def test_rows_keep_their_numbers_where_others_are_left_out(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, kind: type[ConversationTask]
) -> None:
    monkeypatch.setattr("troika_trainer.sources.SMALLEST_PORTION", 1)  # a store for each file
    rows: list[Any] = TALKS[:2] if kind is Chat else PAIRS[:2]
    late = {**rows[0], "prompt": "What is ice, and why? " * 20}
    for name, part in {"a": [late, rows[0], late], "b": [late, rows[1]]}.items():
        text = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(text)
    files = {"uri": str(tmp_path / "*.jsonl")}
    changes = {"maxLength": 64, "train": files, "validation": files, "test": files}
    run: Any = RUN.validate_python(
        finetune_run(tmp_path, model=tmp_path / "base", task=kind.__name__, data=changes)
    )
    task = kind(run, tokenizer)
    write_splits(tmp_path / "data", sources=Sources.of(run), task=task, alive=lambda: None)
    examples: Any = task.examples(open_splits(tmp_path / "data", task)["test"])
    predictions = [[0, 9.0], [0, 8.0]] if kind is Chat else [[-9.0, -1.0], [-8.0, -1.0]]
    assert [entry.row for entry in task.worst(measured(predictions), examples)] == [2, 5]


def test_what_is_cut_is_told_once_for_each_split(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [TALKS[0], {**TALKS[0], "completion": "Frozen water. " * 50}, TALKS[1]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"uri": str(tmp_path / "a.jsonl")}
    changes = {"maxLength": 64, "train": files, "validation": files, "test": files}
    run: Any = RUN.validate_python(
        finetune_run(tmp_path, model=tmp_path / "base", task="Chat", data=changes)
    )
    task = Chat(run, tokenizer)
    write_splits(tmp_path / "data", sources=Sources.of(run), task=task, alive=lambda: None)
    told = [record.getMessage() for record in caplog.records if "were cut" in record.getMessage()]
    assert [line.split(" split, ")[0] for line in told] == ["train", "validation", "test"]
    assert all("input_ids: 1 of 3 texts (33.3 %) fill the 64 tokens" in line for line in told)
