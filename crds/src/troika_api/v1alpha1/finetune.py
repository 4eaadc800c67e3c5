"""FinetuneJob: adapt a trained model to a task, choose the best checkpoint, report on test data."""

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from .base import CamelModel, cel, validations
from .data import DEFAULT_COLUMNS, FinetuneData
from .method import Loss, Method
from .resource import SPEC_RULES, JobSpec, ModelFrom, Resource, immutable
from .tasks import Task, task_rules
from .training import FinetuneEvaluation


class FinetuneModel(CamelModel):
    """The model to adapt."""

    from_: Annotated[ModelFrom, Field(alias="from")]
    """Weights to start from."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


class FinetuneSpec(JobSpec):
    """What to fine-tune, for which task, on what, and how it is judged."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            *SPEC_RULES,
            *task_rules(DEFAULT_COLUMNS),
            cel(
                "!(has(self.method.type) && self.method.type == 'QLoRA') || "
                "!has(self.training.sharding) || self.training.sharding == 'None'",
                "QLoRA cannot be sharded: weights in 4 bits have no parts; use LoRA with FSDP",
                field=".training.sharding",
            ),
            cel(
                "!(has(self.method.type) && self.method.type == 'QLoRA') || "
                "!has(self.training.precision) || self.training.precision != 'FP8'",
                "QLoRA computes in BF16: its weights are in 4 bits already",
                field=".training.precision",
            ),
            *immutable(
                "model",
                "task",
                "method",
                "loss",
                "data",
                "training",
                "evaluation",
                "checkpoint",
                "output",
            ),
        )
    )
    model: FinetuneModel
    """The model to adapt."""
    task: Task
    """What is learnt."""
    method: Method = Method()
    """Which weights are trained."""
    loss: Loss = Loss()
    """How errors are weighed."""
    data: FinetuneData
    """Labelled rows."""
    evaluation: FinetuneEvaluation = FinetuneEvaluation()
    """When validation is measured, and how the best checkpoint is chosen."""


class FinetuneJob(Resource):
    """Fine-tunes a model on the cluster's nodes and evaluates it."""

    plural: ClassVar[str] = "finetunejobs"
    short_name: ClassVar[str] = "ftj"

    kind: str = "FinetuneJob"
    spec: FinetuneSpec
