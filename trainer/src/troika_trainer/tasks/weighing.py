"""How errors are weighed: classes against each other, and the truth against doubt."""

from collections.abc import Mapping

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from troika_api.v1alpha1.method import Loss
from troika_trainer.batch import IGNORED
from troika_trainer.errors import ConfigError

MOST_TO_ONE = 1000.0
"""Highest ratio of the weights that the rows with a class and those without it can have."""


def class_weights(spec: Loss, counts: Mapping[str, int]) -> torch.Tensor | None:
    """Weight of every class, with a mean of 1 over the training rows, or None where all are equal.

    Args:
        spec: What the run asks for.
        counts: Training rows of each class, in the order of the classes; of tags the words.

    Raises:
        ConfigError: a weight is given to a class that does not occur.
    """
    rows = torch.tensor(list(counts.values()), dtype=torch.float64)
    if spec.class_weighting == "Balanced":
        raw = 1.0 / rows.clamp(min=1.0)  # a tag may be in the head and not in the data
    elif spec.class_weights is not None:
        raw = _named(spec.class_weights, counts)
    else:
        return None
    return (raw * rows.sum() / (raw * rows).sum()).float()


def decision_weights(spec: Loss, counts: Mapping[str, int], rows: int) -> torch.Tensor | None:
    """What a row counts in the decision on each class, with a mean of 1 over rows and classes.

    Balanced: in every decision the rows with the class count as much as those without it; where
    one kind is more than `MOST_TO_ONE` times as frequent, less, so that no single row is a step
    of its own. Named weights say how much a decision counts, for rows of both kinds.

    Args:
        spec: What the run asks for.
        counts: Training rows that have each class, in the order of the classes.
        rows: Training rows.

    Returns:
        Of rows without the class, and of rows with it; shape [2, classes]. None where all are 1.

    Raises:
        ConfigError: a weight is given to a class that does not occur.
    """
    if spec.class_weighting == "Balanced":
        have = torch.tensor(list(counts.values()), dtype=torch.float64)
        ratio = ((rows - have) / have).clamp(1.0 / MOST_TO_ONE, MOST_TO_ONE)
        without = rows / (rows - have + ratio * have)
        return torch.stack([without, ratio * without]).float()
    if spec.class_weights is not None:
        raw = _named(spec.class_weights, counts)
        return (raw / raw.mean()).float().expand(2, -1)
    return None


def _named(weights: Mapping[str, float], counts: Mapping[str, int]) -> torch.Tensor:
    """The weights of a job by the number of the class, 1 where it names none."""
    for name in weights:
        if name not in counts:
            raise ConfigError(
                f"loss.classWeights: the training split has no class {name!r}; "
                f"it has {', '.join(list(counts)[:20])}",
                "name classes as they stand in the data",
            )
    return torch.tensor([weights.get(name, 1.0) for name in counts], dtype=torch.float64)


def _beside(weights: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The weights where the logits are. They never change: nobody need wait for so small a copy."""
    return weights.to(logits.device, non_blocking=True)


class Weighing:
    """Cross-entropy as the run wants it in training; plain in evaluation, so that runs compare."""

    def __init__(self, spec: Loss, counts: Mapping[str, int] | None = None) -> None:
        self._smoothing = spec.label_smoothing or 0.0
        self._weights = class_weights(spec, counts) if counts else None

    @property
    def plain(self) -> bool:
        """Whether it is cross-entropy and nothing else."""
        return self._weights is None and not self._smoothing

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Summed loss, shape [].

        Args:
            logits: Shape [predictions, classes], float32.
            labels: Shape [predictions]; `IGNORED` where nothing is to be predicted.
            training: Whether the model learns from this.
        """
        if not training or self.plain:
            return cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
        losses = cross_entropy(
            logits,
            labels,
            reduction="none",
            ignore_index=IGNORED,
            label_smoothing=self._smoothing,
        )
        # An example counts as its class does. torch's own `weight` would weigh each share of a
        # smoothed label by the class that gets it: rare classes would outbid the common label.
        if self._weights is not None:
            losses = losses * _beside(self._weights, logits)[labels.clamp(min=0)]
        return losses.sum()

    def among(self, logits: torch.Tensor, labels: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Summed loss where some classes cannot be: doubt is spread over the others. Shape [].

        Args:
            logits: Shape [predictions, classes], float32; -inf where a class cannot be.
            labels: Shape [predictions].
            training: Whether the model learns from this.
        """
        sure = cross_entropy(logits, labels, reduction="sum")
        if not (training and self._smoothing):
            return sure
        impossible = logits == -torch.inf
        logs = logits.log_softmax(-1).masked_fill(impossible, 0.0)
        doubt = -(logs.sum(-1) / (~impossible).sum(-1)).sum()
        return (1.0 - self._smoothing) * sure + self._smoothing * doubt


class DecisionWeighing:
    """The same where a row may have any number of classes: each is a decision of its own."""

    def __init__(self, spec: Loss, counts: Mapping[str, int], rows: int) -> None:
        self._smoothing = spec.label_smoothing or 0.0
        self._weights = decision_weights(spec, counts, rows)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Sum over the samples of the mean over the classes, shape [].

        Args:
            logits: Shape [samples, classes], float32.
            labels: 1 where a sample has the class, else 0, shape [samples, classes].
            training: Whether the model learns from this.
        """
        wanted = labels.float()
        if not training:
            return binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(-1).sum()
        wanted = wanted * (1.0 - self._smoothing) + 0.5 * self._smoothing
        weights = None
        if self._weights is not None:
            without, with_it = _beside(self._weights, logits)
            weights = torch.where(labels > 0, with_it, without)
        losses = binary_cross_entropy_with_logits(logits, wanted, weights, reduction="none")
        return losses.mean(-1).sum()
