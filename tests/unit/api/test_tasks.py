"""What the API knows of tasks: which columns and scores go with which."""

from typing import Any

import pytest
from pydantic import ValidationError

from troika_api.v1alpha1.data import DEFAULT_COLUMNS
from troika_api.v1alpha1.run import RUN, FinetuneRun
from troika_api.v1alpha1.tasks import TASKS, Criterion, Task, task_rules


def finetune(task: str, **changes: Any) -> FinetuneRun:
    run = RUN.validate_python(
        {
            "kind": "FinetuneJob",
            "name": "x",
            "task": task,
            "model": {"path": "/model"},
            "data": {"train": {"uri": "/x"}, **changes.get("data", {})},
            "evaluation": changes.get("evaluation", {}),
            "training": {"steps": 1},
            "checkpoint": {"uri": "/run"},
            "output": {"uri": "/out"},
        }
    )
    assert isinstance(run, FinetuneRun)
    return run


@pytest.mark.parametrize("task", Task)
def test_every_task_has_columns_and_scores(task: Task) -> None:
    facts = TASKS[task]
    assert facts.criteria[0] is finetune(task).best_by
    assert Criterion.LOSS in facts.criteria
    assert set(facts.columns) <= set(DEFAULT_COLUMNS)


def test_of_errors_the_lowest_is_the_best() -> None:
    errors = {"loss", "perplexity", "mse", "mae", "wer", "cer"}
    assert {item for item in Criterion if item.lower_is_better} == errors


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        (
            "Ranking",
            {"evaluation": {"bestBy": "f1"}},
            "evaluation.bestBy f1: Ranking is chosen by one of ndcgAt10, mrr, auc, loss",
        ),
        (
            "TextClassification",
            {"data": {"columns": {"tokens": "words"}}},
            "data.columns.tokens is not read by TextClassification",
        ),
        (
            "TokenClassification",
            {"data": {"columns": {"textPair": "other"}}},
            "data.columns.textPair is not read by TokenClassification",
        ),
        (
            "Regression",
            {"data": {"stride": 8}},
            "data.stride is read by QuestionAnswering only",
        ),
        (
            "QuestionAnswering",
            {"data": {"stride": 65, "maxLength": 128}},
            "data.stride 65 is more than half of data.maxLength",
        ),
        (
            "Ranking",
            {"data": {"labelSeparator": "|"}},
            "data.labelSeparator is read by TextClassification only",
        ),
        (
            "Regression",
            {"data": {"labels": ["low", "high"]}},
            "data.labels is read by TextClassification, TokenClassification",
        ),
        (
            "Seq2Seq",
            {"data": {"chatTemplate": "{{ messages }}"}},
            "data.chatTemplate is read by Chat, Preference only",
        ),
        (
            "ObjectDetection",
            {"data": {"augmentation": "Flip"}},
            "data.augmentation is read by ImageClassification only",
        ),
        (
            "TextClassification",
            {"evaluation": {"maxSequences": 64}},
            "evaluation.maxSequences is read by Seq2Seq only",
        ),
        (
            "TokenClassification",
            {"data": {"labels": ["O", "B-PER", "I-PER", "B-PER"]}},
            "data.labels has B-PER more than once",
        ),
    ],
)
def test_what_does_not_go_with_a_task_is_refused(
    task: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        finetune(task, **changes)
    assert message in str(refused.value)


def test_each_rule_points_at_its_field() -> None:
    rules = task_rules(DEFAULT_COLUMNS)
    assert all(rule["fieldPath"].startswith((".data.", ".evaluation.", ".loss.")) for rule in rules)
    assert len({rule["rule"] for rule in rules}) == len(rules)
