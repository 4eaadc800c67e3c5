"""Seq2Seq, Chat and Preference: tiny models learn real data, and beat what needs no learning."""

import json
from collections import Counter
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from support.real_data import head, real_data
from support.tiny_models import causal_model, encoder_decoder, read_rows
from support.trainer_runs import Recorder, merged, train_here

pytestmark = pytest.mark.slow


def run_of(
    folder: Path, source: Path, rows: tuple[int, int], start: Path, **changes: Any
) -> dict[str, Any]:
    """A run on the first rows of a data set: so many to learn from, so many to be tested on."""
    files = {
        split: head(source / f"{split}.jsonl", folder / f"{split}.jsonl", rows[split != "train"])
        for split in ("train", "validation", "test")
    }
    base: dict[str, Any] = {
        "kind": "FinetuneJob",
        "name": folder.name,
        "model": {"path": str(start)},
        "data": {
            **{split: {"uri": str(file)} for split, file in files.items()},
            "maxLength": 96,
        },
        "training": {
            "epochs": 2,
            "globalBatchSize": 32,
            "precision": "FP32",
            "optimizer": {"learningRate": 0.005},
        },
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "1h"},
        "output": {"uri": str(folder / "model")},
    }
    return merged(base, changes)


def scores_of(folder: Path) -> dict[str, float]:
    report = json.loads((folder / "model" / "report.json").read_text())
    scores: dict[str, float] = report["evaluation"]["metrics"]
    print(folder.name, scores)
    return scores


def worst_of(folder: Path) -> list[dict[str, Any]]:
    """The worst examples of the report, of which the page shows as many."""
    found: list[dict[str, Any]] = json.loads((folder / "model" / "report.json").read_text())[
        "worst"
    ]
    page = (folder / "model" / "report.html").read_text()
    assert found
    assert page.count("<dt>expected</dt>") == len(found)
    return found


def uncut(text: str) -> str:
    """The whole letters of an answer that was cut to `maxLength`."""
    assert text
    return text.rstrip("\ufffd")


def definitions(rows: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for row in rows for message in row["messages"]]


# ------------------------------------------------------------------------------------- Seq2Seq


def test_translation_beats_the_copied_source(tmp_path: Path) -> None:
    source = real_data("translation") / "translation" / "de"
    rows = read_rows(source / "train.jsonl")
    texts = [text for row in rows for text in (row["source"], row["target"])]
    run = run_of(
        tmp_path,
        source,
        (len(rows), 100),
        encoder_decoder(tmp_path / "start", texts),
        task="Seq2Seq",
        evaluation={"maxNewTokens": 16, "bestBy": "chrf"},
        training={"epochs": 6, "globalBatchSize": 64},
    )
    train_here(run)

    test = read_rows(tmp_path / "test.jsonl")
    sources, targets = [row["source"] for row in test], [row["target"] for row in test]
    constant = Counter(row["target"] for row in rows).most_common(1)[0][0]
    baseline = CHRF().corpus_score([constant] * len(test), [targets]).score
    scores = scores_of(tmp_path)
    assert scores["chrf"] > baseline + 5

    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    asked = tokenizer(sources, padding=True, return_tensors="pt")
    written = model.generate(**asked, max_new_tokens=16, do_sample=False)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    again = CHRF().corpus_score(texts, [targets])
    assert again.score == pytest.approx(scores["chrf"], abs=0.5)
    again_in_words = BLEU().corpus_score(texts, [targets])
    assert again_in_words.score == pytest.approx(scores["bleu"], abs=0.1)


# ---------------------------------------------------------------------------------------- Chat


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has never seen a text, with a tokenizer that has no chat template."""
    rows = read_rows(real_data("instructions") / "instructions" / "messages" / "train.jsonl")
    return causal_model(tmp_path_factory.mktemp("start"), definitions(rows[:2000]))


def answer_tokens(folder: Path, split: str, tokenizer: Any) -> list[int]:
    """The tokens of all answers, with their ends."""
    rows = read_rows(folder / f"{split}.jsonl")
    answers = [
        row["messages"][-1]["content"] if "messages" in row else row["completion"] for row in rows
    ]
    return [token for text in answers for token in tokenizer(text + tokenizer.eos_token).input_ids]


def word_by_word(folder: Path, tokenizer: Any) -> float:
    """Loss of one who knows how frequent each token of an answer is, and nothing else."""
    told, asked = (answer_tokens(folder, split, tokenizer) for split in ("train", "test"))
    counts, size = Counter(told), len(tokenizer)
    return -sum(log((counts[token] + 1) / (len(told) + size)) for token in asked) / len(asked)


def always_the_same(folder: Path, tokenizer: Any) -> float:
    """Accuracy of one who says the same token in every place: the best there is."""
    asked = answer_tokens(folder, "test", tokenizer)
    return Counter(asked).most_common(1)[0][1] / len(asked)


@pytest.mark.parametrize("layout", ["messages", "prompt_completion"])
def test_chat_learns_more_than_how_frequent_tokens_are(
    tmp_path: Path, talker: Path, layout: str
) -> None:
    data = real_data("instructions") / "instructions"
    run = run_of(tmp_path, data / layout, (3000, 200), talker, task="Chat")
    train_here(run)
    scores = scores_of(tmp_path)

    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert scores["loss"] < word_by_word(tmp_path, tokenizer)
    assert scores["accuracy"] > always_the_same(tmp_path, tokenizer) + 0.01
    test = read_rows(tmp_path / "test.jsonl")
    worst = worst_of(tmp_path)
    assert worst[0]["value"] > scores["loss"]
    for entry in worst:
        row = test[entry["row"] - 1]
        asked, told = (
            [message["content"] for message in row["messages"]]
            if layout == "messages"
            else (row["prompt"], row["completion"])
        )
        assert asked in entry["text"]
        assert told.startswith(uncut(entry["expected"]))

    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert "<|assistant|>" in (tmp_path / "model" / "chat_template.jinja").read_text()
    talk = [{"role": "user", "content": 'Define the noun "water".'}]
    prompt = tokenizer.apply_chat_template(
        talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    assert tokenizer.decode(written[0, prompt["input_ids"].shape[1] :]).strip()


def test_the_chat_template_of_the_job_is_exported_with_the_model(
    tmp_path: Path, talker: Path
) -> None:
    template = (
        "{% for message in messages %}[{{ message.role }}] {{ message.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    data = real_data("instructions") / "instructions" / "messages"
    run = run_of(tmp_path, data, (64, 16), talker, task="Chat", training={"epochs": 1})
    run["data"]["chatTemplate"] = template
    train_here(run)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == template
    for entry in worst_of(tmp_path):
        assert "[user]" in entry["text"], "the model saw what the template writes"


# ---------------------------------------------------------------------------------- Preference


@pytest.mark.parametrize("method", ["Full", "LoRA"])
def test_preference_tells_the_better_answer(tmp_path: Path, talker: Path, method: str) -> None:
    run = run_of(
        tmp_path,
        real_data("preference") / "preference",
        (1500, 300),
        talker,
        task="Preference",
        method={"type": method},
        training={"optimizer": {"learningRate": 0.002}},
    )
    train_here(run)
    scores = scores_of(tmp_path)
    assert scores["accuracy"] > 0.6  # a coin gives 0.5
    assert scores["margin"] > 0
    assert scores["loss"] < log(2)  # that of the start
    test = read_rows(tmp_path / "test.jsonl")
    for entry in worst_of(tmp_path):
        row = test[entry["row"] - 1]
        assert row["prompt"] in entry["text"]
        assert row["chosen"].startswith(uncut(entry["expected"]))
        assert row["rejected"].startswith(uncut(entry["predicted"]))
        assert entry["value"] < 0, "the rejected answer was the likelier one"

    kind: Any = AutoPeftModelForCausalLM if method == "LoRA" else AutoModelForCausalLM
    model = kind.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert model(input_ids=torch.arange(8)[None]).logits.isfinite().all()


def test_the_reference_is_looked_at_once_and_kept(tmp_path: Path, talker: Path) -> None:
    run = run_of(
        tmp_path,
        real_data("preference") / "preference",
        (64, 16),
        talker,
        task="Preference",
        training={"epochs": None, "steps": 2, "optimizer": {"learningRate": 0.01}},
    )
    first = train_here(run)
    kept = sorted((tmp_path / "checkpoints" / "cache").glob("first-look-*.npy"))
    before = [file.stat().st_mtime_ns for file in kept]
    assert [file.stem.rpartition("-")[0] for file in kept] == [
        f"first-look-{s}" for s in ("test", "train", "validation")
    ]
    assert first.losses[0] == pytest.approx(log(2), abs=1e-4)

    second: Recorder = train_here(merged(run, {"training": {"steps": 4}}))
    assert [file.stat().st_mtime_ns for file in kept] == before
    assert second.losses[0] < log(2)
