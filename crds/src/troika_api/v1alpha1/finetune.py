"""FinetuneJob: adapt a trained model to a task, choose the best checkpoint, report on test data."""

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from .base import CamelModel, validations
from .data import FinetuneData
from .resource import SPEC_RULES, JobSpec, ModelFrom, Resource, immutable
from .run import Task
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
            *immutable("model", "task", "data", "training", "evaluation", "checkpoint", "output"),
        )
    )
    model: FinetuneModel
    """The model to adapt."""
    task: Task
    """What is learnt."""
    data: FinetuneData
    """Labelled rows."""
    evaluation: FinetuneEvaluation = FinetuneEvaluation()
    """How the best checkpoint is chosen."""


class FinetuneJob(Resource):
    """Fine-tunes a model on the cluster's nodes and evaluates it."""

    plural: ClassVar[str] = "finetunejobs"
    short_name: ClassVar[str] = "ftj"

    kind: str = "FinetuneJob"
    spec: FinetuneSpec
