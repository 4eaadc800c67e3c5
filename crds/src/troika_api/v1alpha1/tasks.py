"""What the API knows of each task: the columns that it reads and the scores that it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic.alias_generators import to_camel

from .base import cel


class Task(StrEnum):
    """What a FinetuneJob learns to do."""

    TEXT_CLASSIFICATION = "TextClassification"
    TOKEN_CLASSIFICATION = "TokenClassification"  # noqa: S105 - a task
    QUESTION_ANSWERING = "QuestionAnswering"
    REGRESSION = "Regression"
    RANKING = "Ranking"
    SEQ2SEQ = "Seq2Seq"
    CHAT = "Chat"
    PREFERENCE = "Preference"
    IMAGE_CLASSIFICATION = "ImageClassification"
    OBJECT_DETECTION = "ObjectDetection"
    AUDIO_CLASSIFICATION = "AudioClassification"
    SPEECH_RECOGNITION = "SpeechRecognition"


class Criterion(StrEnum):
    """A score on validation that can choose the exported checkpoint."""

    LOSS = "loss"
    ACCURACY = "accuracy"
    F1 = "f1"
    F1_MACRO = "f1Macro"
    F1_MICRO = "f1Micro"
    F1_WEIGHTED = "f1Weighted"
    PRECISION = "precision"
    RECALL = "recall"
    EXACT_MATCH = "exactMatch"
    PEARSON = "pearson"
    SPEARMAN = "spearman"
    MSE = "mse"
    MAE = "mae"
    NDCG_AT_10 = "ndcgAt10"
    MRR = "mrr"
    AUC = "auc"
    PERPLEXITY = "perplexity"
    BLEU = "bleu"
    CHRF = "chrf"
    MARGIN = "margin"
    MAP = "mAP"
    MAP50 = "mAP50"
    WER = "wer"
    CER = "cer"

    @property
    def lower_is_better(self) -> bool:
        """True for errors, False for what grows with quality."""
        return self in _ERRORS


_ERRORS = (
    Criterion.LOSS,
    Criterion.PERPLEXITY,
    Criterion.MSE,
    Criterion.MAE,
    Criterion.WER,
    Criterion.CER,
)


@dataclass(frozen=True)
class TaskFacts:
    """What rules and defaults are made from."""

    columns: tuple[str, ...]
    """Roles of `data.columns` that the task reads."""
    criteria: tuple[Criterion, ...]
    """Scores that the task gives; the first chooses where the job names none."""
    loss: tuple[str, ...] = ()
    """Fields of `loss` that the task honours."""
    learning_rate_factor: float = 1.0
    """What the method's default learning rate is multiplied by."""


_OF_CLASSES = (
    Criterion.F1,
    Criterion.F1_MICRO,
    Criterion.F1_WEIGHTED,
    Criterion.PRECISION,
    Criterion.RECALL,
    Criterion.ACCURACY,
    Criterion.LOSS,
)
_LOSS_OF_CLASSES = ("labelSmoothing", "classWeighting", "classWeights")

TASKS: dict[Task, TaskFacts] = {
    Task.TEXT_CLASSIFICATION: TaskFacts(
        columns=("text", "textPair", "label"), criteria=_OF_CLASSES, loss=_LOSS_OF_CLASSES
    ),
    Task.TOKEN_CLASSIFICATION: TaskFacts(
        columns=("tokens", "tags"),
        criteria=(
            Criterion.F1,
            Criterion.F1_MACRO,
            Criterion.F1_WEIGHTED,
            Criterion.PRECISION,
            Criterion.RECALL,
            Criterion.ACCURACY,
            Criterion.LOSS,
        ),
        loss=_LOSS_OF_CLASSES,
    ),
    Task.QUESTION_ANSWERING: TaskFacts(
        columns=("question", "context", "answers"),
        criteria=(Criterion.F1, Criterion.EXACT_MATCH, Criterion.LOSS),
        loss=("labelSmoothing",),
    ),
    Task.REGRESSION: TaskFacts(
        columns=("text", "textPair", "label"),
        criteria=(
            Criterion.PEARSON,
            Criterion.SPEARMAN,
            Criterion.MSE,
            Criterion.MAE,
            Criterion.LOSS,
        ),
    ),
    Task.RANKING: TaskFacts(
        columns=("query", "history", "candidate", "relevance"),
        criteria=(Criterion.NDCG_AT_10, Criterion.MRR, Criterion.AUC, Criterion.LOSS),
    ),
    Task.SEQ2SEQ: TaskFacts(
        columns=("source", "target"),
        criteria=(Criterion.BLEU, Criterion.CHRF, Criterion.LOSS),
        loss=("labelSmoothing",),
    ),
    Task.CHAT: TaskFacts(
        columns=("messages", "prompt", "completion"),
        criteria=(Criterion.LOSS, Criterion.PERPLEXITY, Criterion.ACCURACY),
        loss=("labelSmoothing",),
    ),
    Task.PREFERENCE: TaskFacts(
        columns=("prompt", "chosen", "rejected"),
        criteria=(Criterion.ACCURACY, Criterion.MARGIN, Criterion.LOSS),
        loss=("labelSmoothing", "beta"),
        # The model has learnt to answer already; at higher rates it unlearns that instead.
        learning_rate_factor=0.05,
    ),
    Task.IMAGE_CLASSIFICATION: TaskFacts(
        columns=("image", "label"), criteria=_OF_CLASSES, loss=_LOSS_OF_CLASSES
    ),
    Task.OBJECT_DETECTION: TaskFacts(
        columns=("image", "objects"),
        criteria=(Criterion.MAP, Criterion.MAP50, Criterion.LOSS),
    ),
    Task.AUDIO_CLASSIFICATION: TaskFacts(
        columns=("audio", "label"), criteria=_OF_CLASSES, loss=_LOSS_OF_CLASSES
    ),
    Task.SPEECH_RECOGNITION: TaskFacts(
        columns=("audio", "transcript"),
        criteria=(Criterion.WER, Criterion.CER, Criterion.LOSS),
    ),
}

TASKS_OF_FIELD: dict[str, tuple[Task, ...]] = {
    "stride": (Task.QUESTION_ANSWERING,),
    "label_separator": (Task.TEXT_CLASSIFICATION,),
    "labels": (
        Task.TEXT_CLASSIFICATION,
        Task.TOKEN_CLASSIFICATION,
        Task.IMAGE_CLASSIFICATION,
        Task.OBJECT_DETECTION,
        Task.AUDIO_CLASSIFICATION,
    ),
    "max_target_length": (Task.SEQ2SEQ,),
    "prefix": (Task.SEQ2SEQ,),
    "source_language": (Task.SEQ2SEQ,),
    "target_language": (Task.SEQ2SEQ,),
    "packing": (Task.CHAT,),
    "augmentation": (Task.IMAGE_CLASSIFICATION,),
    "chat_template": (Task.CHAT, Task.PREFERENCE),
    "max_seconds": (Task.AUDIO_CLASSIFICATION, Task.SPEECH_RECOGNITION),
}
"""Optional fields of `data` that only some tasks read."""

LOSS_FIELDS = ("labelSmoothing", "classWeighting", "classWeights", "beta")
GENERATION_FIELDS = ("maxNewTokens", "beams", "maxSequences")
"""Fields of `evaluation` for tasks that write text when they are measured."""


def task_rules(columns: dict[str, str | None]) -> list[dict[str, str]]:
    """CEL rules of a FinetuneJob's spec that depend on its task.

    Args:
        columns: Every role of `data.columns`, camelCase, with its default.
    """
    return [
        *(_criterion_rule(task, facts) for task, facts in TASKS.items()),
        *(_column_rule(role, default) for role, default in columns.items()),
        *(_field_rule("data", to_camel(field), tasks) for field, tasks in TASKS_OF_FIELD.items()),
        *(_field_rule("loss", field, readers_of(field)) for field in LOSS_FIELDS),
        *(_field_rule("evaluation", field, (Task.SEQ2SEQ,)) for field in GENERATION_FIELDS),
    ]


def readers_of(field: str) -> tuple[Task, ...]:
    """The tasks that honour a field of `loss`."""
    return tuple(task for task, facts in TASKS.items() if field in facts.loss)


def _criterion_rule(task: Task, facts: TaskFacts) -> dict[str, str]:
    allowed = ", ".join(f"'{criterion.value}'" for criterion in facts.criteria)
    rule: dict[str, str] = cel(
        f"self.task != '{task.value}' || !has(self.evaluation.bestBy) || "
        f"self.evaluation.bestBy in [{allowed}]",
        f"{task.value} is chosen by one of {allowed.replace(chr(39), '')}",
        field=".evaluation.bestBy",
    )
    return rule


def _column_rule(role: str, default: str | None) -> dict[str, str]:
    readers = [task for task, facts in TASKS.items() if role in facts.columns]
    column = f"self.data.columns.{role}"
    unset = f"{column} == '{default}'" if default else f"!has({column})"
    return _only(f"data.columns.{role}", unset, readers)


def _field_rule(block: str, field: str, readers: tuple[Task, ...]) -> dict[str, str]:
    return _only(f"{block}.{field}", f"!has(self.{block}.{field})", readers)


def _only(path: str, unset: str, readers: Sequence[Task]) -> dict[str, str]:
    tasks = ", ".join(f"'{reader.value}'" for reader in readers)
    rule: dict[str, str] = cel(
        f"{unset} || self.task in [{tasks}]",
        f"{path} is read by {', '.join(readers)} only",
        field=f".{path}",
    )
    return rule
