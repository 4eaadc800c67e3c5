"""Methods and losses of fine-tuning: which weights are trained, and how errors are weighed."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .base import CamelModel, cel, validations

Weight = Annotated[float, Field(gt=0.0, le=1e6)]


class MethodType(StrEnum):
    """Which weights of the model are trained.

    Full: all. LoRA: small matrices beside the frozen ones. QLoRA: the same, with the frozen ones
    in 4 bits. Frozen: the head only. All of them train what the task adds to the model.
    """

    FULL = "Full"
    LORA = "LoRA"
    QLORA = "QLoRA"
    FROZEN = "Frozen"


ADAPTERS = (MethodType.LORA, MethodType.QLORA)
"""Methods that train an adapter."""

DEFAULT_RANK = 16


class Method(CamelModel):
    """Which weights are trained, and what is exported."""

    # The server tries these rules on the default, {}, before it fills in what that leaves out.
    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "(has(self.type) && self.type in ['LoRA', 'QLoRA']) || !(has(self.rank) || "
                "has(self.alpha) || has(self.dropout) || has(self.targets) || "
                "(has(self.merge) && self.merge))",
                "rank, alpha, dropout, targets and merge are read by LoRA and QLoRA only",
            ),
            cel(
                "!has(self.type) || self.type != 'QLoRA' || !has(self.merge) || !self.merge",
                "merge needs LoRA: weights in 4 bits cannot take an adapter in without loss",
                field=".merge",
            ),
        )
    )
    type: MethodType = MethodType.FULL
    """Which weights are trained."""
    rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Rank of the adapter's matrices. Default: 16."""
    alpha: Annotated[float, Field(gt=0.0, le=65536.0)] | None = None
    """The adapter's output is scaled by alpha / rank. Default: twice the rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout on the adapter's input. Default: 0."""
    targets: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(min_length=1, max_length=64),
        ]
        | None
    ) = None
    """Names of the linear layers that get an adapter, such as q_proj, or all-linear alone for
    every one of the model's body. Default: those that peft knows for the architecture."""
    merge: bool = False
    """Export the whole model with the adapter merged in, in place of the adapter."""

    def check(self) -> None:
        """What the CRD states in CEL, for run files written by hand.

        Raises:
            ValueError: fields that do not fit the type.
        """
        given = self.model_dump(exclude={"type"}, exclude_none=True, exclude_defaults=True)
        if self.type not in ADAPTERS and given:
            raise ValueError(f"method.{next(iter(given))} is read by LoRA and QLoRA only")
        if self.type is MethodType.QLORA and self.merge:
            raise ValueError("method.merge needs LoRA")


class Loss(CamelModel):
    """How errors are weighed. A field that the task does not honour is refused."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.classWeights) || !has(self.classWeighting)",
                "set at most one of classWeights and classWeighting",
                field=".classWeights",
            )
        )
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Share of the target that is spread evenly over all classes or tokens, for QuestionAnswering
    over all places of the context; for Preference the probability that a pair is the wrong way
    round. Training only: evaluation measures the plain loss. Default: 0."""
    class_weighting: Literal["Uniform", "Balanced"] | None = None
    """Balanced: a class counts by how rare it is, so that all classes together count the same; the
    classes of TokenClassification are the tags, counted in words. Where a row may have several
    classes, each is a decision of its own: there the rows with the class count as much as those
    without it, and one row at most 1000 times another. Default: Uniform."""
    class_weights: Annotated[dict[str, Weight], Field(min_length=1, max_length=1000)] | None = None
    """Weight by the name of the class, such as B-PER for a tag; the others count 1. Weights are
    scaled to a mean of 1 over the training rows (for tags: words), so that the learning rate keeps
    its meaning. Where a row may have several classes: what the decision on the class counts, for
    rows with and without it."""
    beta: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    """Preference: how strongly the model is held to the one that it starts from. Default: 0.1."""
