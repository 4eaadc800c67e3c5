"""Each task on text learns from real data in seconds, and plain transformers reads the result.

The models are tiny and untrained, so the bar is a trivial baseline, stated in each test.
"""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

from support.real_data import real_data
from support.tiny_tasks import (
    SPLITS,
    Outcome,
    Rows,
    fast,
    finetune_run,
    rows_of,
    tiny_model,
    trained,
    written,
)
from troika_trainer.answers import scored


def curve(outcome: Outcome, score: str) -> list[float]:
    return [entry[score] for entry in outcome.report["history"]]


def question_rows(folder: Path, split: str, limit: int) -> list[dict[str, Any]]:
    """Short ones: most of the time goes into long contexts."""
    rows = rows_of(folder / f"{split}.jsonl")
    short = [row for row in rows if len(row["question"]) < 70 and len(row["context"]) < 380]
    return short[:limit]


def test_answers_are_found_over_the_windows_of_a_context(tmp_path: Path) -> None:
    """Baseline: to answer with the whole context, which is never exactly right.

    What surrounds a word tells where answers begin and end, so the model has convolutions.
    """
    folder = real_data("questions") / "questions"
    limits = {"train": 1600, "validation": 80, "test": 160}
    rows = {split: question_rows(folder, split, limit) for split, limit in limits.items()}
    run = finetune_run(
        tmp_path,
        task="QuestionAnswering",
        model=tiny_model(
            tmp_path / "base",
            (row["context"] for row in rows["train"]),
            model_type="convbert",
            num_hidden_layers=1,
            embedding_size=64,
        ),
        splits=written(tmp_path, rows),
        data={"maxLength": 96, "stride": 24},
        training=fast(0.004, epochs=4),
    )
    everything = [scored("", row["context"], row["answers"]["text"]).f1 for row in rows["test"]]
    outcome = trained(tmp_path, run)
    assert outcome.scores["f1"] > sum(everything) / len(everything) + 0.03
    assert outcome.scores["exactMatch"] > 0.05
    assert outcome.report["report"]["questions"] == 160, "as many answers as questions"
    assert len(outcome.report["report"]["worst"]) == 20
    assert "exact match" in outcome.text
    row = rows["test"][0]
    assert find_answer(outcome.model, row["question"], row["context"]) in row["context"]


def find_answer(model: Path, question: str, context: str) -> str:
    """As transformers' documentation does it, which has no pipeline for questions any more."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    reader = AutoModelForQuestionAnswering.from_pretrained(model)
    tokens = tokenizer(question, context, return_tensors="pt")
    with torch.no_grad():
        output = reader(**tokens)
    start, end = int(output.start_logits.argmax()), int(output.end_logits.argmax())
    first, last = tokens.token_to_chars(start), tokens.token_to_chars(end)
    return "" if first is None or last is None else context[first.start : last.end]


def gloss_rows(folder: Path, limit: int) -> Rows:
    """WordNet's glosses; `noun.animal` is the labels noun and animal."""
    rows: Rows = {}
    for split in SPLITS:
        with (folder / f"{split}.csv").open(newline="") as file:
            part = list(csv.DictReader(file))[: limit if split == "train" else limit // 5]
        rows[split] = [
            {
                "text": row["text"],
                "labels": row["label"].split("."),
                "words": len(row["text"].split()),
            }
            for row in part
        ]
    known = {label for row in rows["train"] for label in row["labels"]}
    return {
        split: [row for row in part if known.issuperset(row["labels"])]
        for split, part in rows.items()
    }


def table(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def share_of_the_largest(rows: list[dict[str, Any]]) -> float:
    """What it earns to say the most frequent class of everything."""
    return Counter(row["label"] for row in rows).most_common(1)[0][1] / len(rows)


def test_glosses_are_sorted_into_the_45_files_of_wordnet(tmp_path: Path) -> None:
    """Baseline: the share of the largest class, about 12 %."""
    folder = real_data("wordnet") / "wordnet"
    rows = {split: table(folder / f"{split}.csv") for split in SPLITS}
    some = rows["train"][:6000]
    rare = [row for row in rows["train"] if row["label"] in ("verb.weather", "noun.motive")]
    rows |= {"train": some + rare, "validation": rows["validation"][:300]}
    rows["test"] = rows["test"][:1500]
    run = finetune_run(
        tmp_path,
        task="TextClassification",
        model=tiny_model(
            tmp_path / "base", (row["text"] for row in rows["train"]), num_hidden_layers=1
        ),
        splits=written(tmp_path, rows),
        data={"maxLength": 32},
        training=fast(0.005, epochs=3),
    )
    outcome = trained(tmp_path, run)
    assert outcome.scores["accuracy"] > 2 * share_of_the_largest(rows["test"])
    classes = outcome.report["report"]["classes"]
    assert len(classes) == 45
    assert sum(score["f1"] > 0 for score in classes) > 10, "not only the largest are found"
    assert len(outcome.report["report"]["confusionMatrix"]) == 45
    assert sum(score["support"] for score in classes) == 1500
    classify: Any = pipeline("text-classification", model=str(outcome.model))
    texts = [row["text"] for row in rows["test"][:200]]
    found = [item["label"] for item in classify(texts, truncation=True, max_length=32)]
    right = sum(label == row["label"] for label, row in zip(found, rows["test"], strict=False))
    assert right / 200 == pytest.approx(outcome.scores["accuracy"], abs=0.1)


def test_reviews_are_told_apart(tmp_path: Path) -> None:
    """Baseline: the share of the larger class, about 58 %."""
    folder = real_data("reviews") / "reviews"
    rows = {split: table(folder / f"{split}.csv") for split in SPLITS}
    rows |= {"train": rows["train"][:6000], "validation": rows["validation"][:300]}
    run = finetune_run(
        tmp_path,
        task="TextClassification",
        model=tiny_model(
            tmp_path / "base", (row["text"] for row in rows["train"]), num_hidden_layers=1
        ),
        splits=written(tmp_path, rows),
        data={"maxLength": 48},
        training=fast(0.002, epochs=3),
    )
    outcome = trained(tmp_path, run)
    assert outcome.scores["accuracy"] > share_of_the_largest(rows["test"]) + 0.05
    classes = outcome.report["report"]["classes"]
    assert [score["name"] for score in classes] == ["fresh", "rotten"]
    assert all(score["recall"] > 0.4 for score in classes), "neither is said of everything"
    worst = outcome.report["worst"]
    assert worst
    assert all({entry["expected"], entry["predicted"]} == {"fresh", "rotten"} for entry in worst)


@pytest.fixture(scope="module")
def glosses() -> Rows:
    return gloss_rows(real_data("wordnet") / "wordnet", 2000)


def test_a_text_has_many_labels(tmp_path: Path, glosses: Rows) -> None:
    """Baseline: to say `noun` of every gloss."""
    labels = [set(row["labels"]) for row in glosses["test"]]
    hits = sum("noun" in of_row for of_row in labels)
    baseline = 2 * hits / (len(labels) + sum(len(of_row) for of_row in labels))
    run = finetune_run(
        tmp_path,
        task="TextClassification",
        model=tiny_model(
            tmp_path / "base", (row["text"] for row in glosses["train"]), num_hidden_layers=1
        ),
        splits=written(tmp_path, glosses),
        data={"columns": {"label": "labels"}, "maxLength": 32},
        training=fast(0.005, epochs=4),
        evaluation={"bestBy": "f1Micro"},
    )
    outcome = trained(tmp_path, run)
    assert outcome.scores["f1Micro"] > baseline
    assert outcome.scores["f1Micro"] == outcome.report["report"]["micro"]["f1"]
    best = outcome.report["evaluation"]["bestStep"]
    steps = {entry["f1Micro"]: entry["step"] for entry in outcome.report["history"]}
    assert best == steps[max(steps)], "the best checkpoint by the score that was named"
    assert outcome.report["report"]["confusionMatrix"] is None
    classify: Any = pipeline("text-classification", model=str(outcome.model), top_k=None)
    scores = {item["label"]: item["score"] for item in classify("a small animal")[0]}
    assert scores["noun"] > 0.5
    assert len(scores) == len(outcome.report["report"]["classes"])


def test_a_number_comes_back_in_its_own_unit(tmp_path: Path, glosses: Rows) -> None:
    """How many words a gloss has, times 1000. Baseline: the mean, correlation 0."""
    rows = {
        split: [{**row, "label": 1000 * row["words"]} for row in part]
        for split, part in glosses.items()
    }
    run = finetune_run(
        tmp_path,
        task="Regression",
        model=tiny_model(
            tmp_path / "base", (row["text"] for row in glosses["train"]), num_hidden_layers=1
        ),
        splits=written(tmp_path, rows),
        data={"maxLength": 48},
        training=fast(epochs=3),
    )
    outcome = trained(tmp_path, run)
    assert outcome.scores["pearson"] > 0.5
    assert outcome.scores["spearman"] > 0.5
    assert outcome.scores["mae"] > 10, "in the unit of the labels"
    answer = pipeline("text-classification", model=str(outcome.model), function_to_apply="none")
    texts = [row["text"] for row in rows["test"][:50]]
    errors = [
        abs(item["score"] - row["label"])
        for item, row in zip(answer(texts), rows["test"], strict=False)
    ]
    assert sum(errors) / len(errors) < 2 * outcome.scores["mae"]


def ranked(folder: Path, rows: Rows, *, epochs: int) -> Outcome:
    run = finetune_run(
        folder,
        task="Ranking",
        model=tiny_model(folder / "base", (row["candidate"] for row in rows["train"])),
        splits=written(folder, rows),
        data={"maxLength": 64},
        training=fast(epochs=epochs),
    )
    return trained(folder, run)


def test_candidates_are_ranked_by_query(tmp_path: Path) -> None:
    """Baseline: a random order, which the report states for the same candidates; AUC 0.5."""
    folder = real_data("ranking") / "ranking"
    limits = {"train": 4800, "validation": 400, "test": 2400}
    rows = {split: rows_of(folder / f"{split}.jsonl", limit) for split, limit in limits.items()}
    outcome = ranked(tmp_path, rows, epochs=2)
    report = outcome.report["report"]
    assert report["num_queries"] == 300
    assert report["num_candidates"] == 2400
    assert outcome.scores["ndcgAt10"] > report["ndcg_at_random"] + 0.1
    assert outcome.scores["auc"] > 0.7
    assert "a random order" in outcome.text
    worst = outcome.report["worst"]
    assert len(worst) == 20
    assert worst[0]["value"] == max(entry["value"] for entry in worst) > 0.5
    for entry in worst:
        row = rows["test"][entry["row"] - 1]
        assert entry["expected"] == str(row["relevance"])
        history, candidate = entry["text"].lower().split("\n")
        # Cut on the left, so that a first word may be half of one.
        assert candidate.split()[0].strip("#") in row["candidate"].lower()
        assert history.split()[-1].strip("#") in row["history"].lower()
    rank = pipeline("text-classification", model=str(outcome.model), function_to_apply="none")
    pair = {"text": rows["test"][0]["history"], "text_pair": rows["test"][0]["candidate"]}
    assert len(rank([pair], truncation=True)) == 1


def test_candidates_that_were_learnt_by_heart_are_ranked_well(tmp_path: Path) -> None:
    """What training has told of a candidate is what the scores are made of."""
    learnt = rows_of(real_data("ranking") / "ranking" / "train.jsonl", 400)
    outcome = ranked(tmp_path, dict.fromkeys(SPLITS, learnt), epochs=15)
    assert outcome.scores["auc"] > 0.9
