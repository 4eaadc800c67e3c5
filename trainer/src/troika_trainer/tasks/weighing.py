"""How errors are weighed: classes against each other, and the truth against doubt."""

from collections.abc import Mapping

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from troika_api.v1alpha1.method import Loss
from troika_trainer.errors import ConfigError


def class_weights(spec: Loss, counts: Mapping[str, int]) -> torch.Tensor | None:
    """Weight of every class, with a mean of 1 over the training rows, or None where all are equal.

    Args:
        spec: What the run asks for.
        counts: Training rows of each class, in the order of the classes.

    Raises:
        ConfigError: a weight is given to a class that does not occur.
    """
    if spec.class_weighting == "Balanced":
        weights = [1.0 / count for count in counts.values()]
    elif spec.class_weights is not None:
        for name in spec.class_weights:
            if name not in counts:
                raise ConfigError(
                    f"loss.classWeights: the training split has no class {name!r}; "
                    f"it has {', '.join(list(counts)[:20])}",
                    "name classes as they stand in the data",
                )
        weights = [spec.class_weights.get(name, 1.0) for name in counts]
    else:
        return None
    raw = torch.tensor(weights, dtype=torch.float64)
    rows = torch.tensor(list(counts.values()), dtype=torch.float64)
    return (raw * rows.sum() / (raw * rows).sum()).float()


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
            labels: Shape [predictions].
            training: Whether the model learns from this.
        """
        if not training:
            return cross_entropy(logits, labels, reduction="sum")
        losses = cross_entropy(logits, labels, reduction="none", label_smoothing=self._smoothing)
        # An example counts as its class does. torch's own `weight` would weigh each share of a
        # smoothed label by the class that gets it: rare classes would outbid the common label.
        if self._weights is not None:
            losses = losses * self._weights.to(logits.device)[labels]
        return losses.sum()

    def many(self, logits: torch.Tensor, labels: torch.Tensor, *, training: bool) -> torch.Tensor:
        """Summed loss where each class is a decision of its own, their mean counts. Shape [].

        Args:
            logits: Shape [samples, classes], float32.
            labels: 1 where a sample has the class, shape [samples, classes], float32.
            training: Whether the model learns from this.
        """
        weights = None
        if training:
            labels = labels * (1.0 - self._smoothing) + 0.5 * self._smoothing
            weights = None if self._weights is None else self._weights.to(logits.device)
        losses = binary_cross_entropy_with_logits(logits, labels, weights, reduction="none")
        return losses.mean(-1).sum()
