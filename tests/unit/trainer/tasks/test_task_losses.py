"""What `loss` of a job comes to in the tasks that read it, with real models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    PreTrainedModel,
)

from support.tiny_tasks import finetune_run
from troika_api.v1alpha1.run import RUN, FinetuneRun
from troika_trainer.batch import IGNORED, Batch
from troika_trainer.rows import Row
from troika_trainer.tasks.base import FinetuneTask
from troika_trainer.tasks.question_answering import QuestionAnswering
from troika_trainer.tasks.text_classification import TextClassification
from troika_trainer.tasks.token_classification import TokenClassification

TINY = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
IDS = torch.arange(12).reshape(2, 6) % 20


def run_of(task: str, **loss: Any) -> FinetuneRun:
    run = RUN.validate_python(
        finetune_run(Path("/tmp"), task=task, model=Path("/m"), splits={"train": Path("/t")})
        | {"loss": loss}
    )
    assert isinstance(run, FinetuneRun)
    return run


def logits_and_loss(
    task: FinetuneTask, model: PreTrainedModel, labels: torch.Tensor, *, training: bool
) -> tuple[Any, torch.Tensor]:
    """What the model says, and what the task makes of it."""
    model.train(training)
    batch = Batch({"input_ids": IDS}, labels, weight=1, tokens=12, pairs=72)
    return model(**batch.inputs), task.forward(model, batch)[0]


TAGS = torch.tensor([[IGNORED, 0, 0, 1, IGNORED, 0], [IGNORED, 0, 0, 0, 2, IGNORED]])
"""Of O, B-per and I-per; the other tokens speak for no word."""


def tagger(**loss: Any) -> TokenClassification:
    """Learns from 8 words: 4 are O, 3 are B-per, 1 is I-per."""
    task = TokenClassification(run_of("TokenClassification", **loss), None)
    tags = [["O", "O", "B-per", "I-per"], ["B-per", "O", "O", "B-per"]]
    task.adopt(
        task.survey(
            iter(
                Row({"tokens": ["w"] * 4, "tags": of_row}, "rows.jsonl", line)
                for line, of_row in enumerate(tags, 1)
            )
        )
    )
    return task


def tag_model() -> BertForTokenClassification:
    torch.manual_seed(5)
    return BertForTokenClassification(BertConfig.from_dict({**TINY.to_dict(), "num_labels": 3}))


def test_tags_are_weighed_by_how_rare_they_are_in_words() -> None:
    said, loss = logits_and_loss(
        tagger(classWeighting="Balanced"), tag_model(), TAGS, training=True
    )
    each = cross_entropy(
        said.logits.flatten(0, 1), TAGS.flatten(), reduction="none", ignore_index=IGNORED
    )
    # A third of 8 words for each tag, over the 4, 3 and 1 that have it.
    weights = torch.tensor([8 / 12, 8 / 9, 8 / 3])[TAGS.flatten().clamp(min=0)]
    torch.testing.assert_close(loss, (weights * each).sum())


def test_tags_are_smoothed_where_a_word_is() -> None:
    said, loss = logits_and_loss(tagger(labelSmoothing=0.3), tag_model(), TAGS, training=True)
    where = TAGS != IGNORED
    expected = cross_entropy(said.logits[where], TAGS[where], reduction="sum", label_smoothing=0.3)
    torch.testing.assert_close(loss, expected)


def test_the_loss_of_tags_is_plain_in_evaluation() -> None:
    task = tagger(classWeights={"B-per": 9.0}, labelSmoothing=0.3)
    said, loss = logits_and_loss(task, tag_model(), TAGS, training=False)
    where = TAGS != IGNORED
    torch.testing.assert_close(
        loss, cross_entropy(said.logits[where], TAGS[where], reduction="sum")
    )


def test_a_tag_of_the_head_that_no_word_has_does_no_harm() -> None:
    task = TokenClassification(run_of("TokenClassification", classWeighting="Balanced"), None)
    row = Row({"tokens": ["a", "b"], "tags": ["O", "B-per"]}, "rows.jsonl", 1)
    task.adopt(task.survey(iter([row])))  # I-per is in the head
    said, loss = logits_and_loss(
        task, tag_model(), torch.where(TAGS == 2, IGNORED, TAGS), training=True
    )
    labels = torch.where(TAGS == 2, IGNORED, TAGS).flatten()
    expected = cross_entropy(said.logits.flatten(0, 1), labels, reduction="sum")
    torch.testing.assert_close(loss, expected)


PLACES = torch.full((2, 2, 6), IGNORED)
PLACES[:, :, [0, 3, 4, 5]] = 0  # the first token, and the context
PLACES[0, [0, 1], [3, 5]] = 1
PLACES[1, :, 0] = 1


@pytest.mark.parametrize("training", [True, False])
def test_doubt_about_an_answer_is_spread_over_the_places_where_it_can_be(training: bool) -> None:
    task = QuestionAnswering(run_of("QuestionAnswering", labelSmoothing=0.2), None)
    task.adopt({"may_be_unanswerable": True})
    torch.manual_seed(5)
    model = BertForQuestionAnswering(TINY)
    said, loss = logits_and_loss(task, model, PLACES, training=training)
    expected = torch.zeros(())
    for window, (start, end) in enumerate([(3, 5), (0, 0)]):
        for logits, place in ((said.start_logits, start), (said.end_logits, end)):
            # Places 1 and 2 are of the question.
            logs = log_softmax(logits[window, [0, 3, 4, 5]], -1)
            right = logs[[0, 3, 4, 5].index(place)]
            expected -= 0.8 * right + 0.2 * logs.mean() if training else right
    torch.testing.assert_close(loss, expected / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(
        weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters()
    ), "places that cannot be have no part in it"


def test_many_labels_are_counted_once_a_row() -> None:
    task = TextClassification(run_of("TextClassification", classWeighting="Balanced"), None)
    labels = [["a", "a"], ["a", "b"], [], ["a"]]
    found = task.survey(iter(Row({"label": given}, "rows.jsonl", 1) for given in labels))
    assert (found["labels"], found["counts"], found["rows"]) == (["a", "b"], [3, 1], 4)
