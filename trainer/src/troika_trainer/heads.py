"""The output layer over the vocabulary, run only where it is asked for and never kept whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from .batch import Batch
from .packing import without_cache
from .vocabulary import summed_cross_entropy

Where = tuple[torch.Tensor, ...]
"""Rows and columns of positions, each of shape [positions]."""

Trial = Callable[[PreTrainedModel, torch.Tensor], bool]


class Head:
    """Runs the head of a model on some positions only: at 15 % masks it is most of the work.

    Between body and head the hidden states are replaced by those of the positions asked for. That
    is exact for every head that looks at one position at a time; whether this one does is tried.
    Where the last thing that it does is a plain product with the vocabulary (tried too), the loss
    is made without the logits of all positions.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._where: Where | None = None
        self._options = without_cache(model)
        self._hook = model.base_model.register_forward_hook(self._pick)
        self.picks = self._tried(model, self._picks_exactly)
        """Whether the head is run on the positions asked for, or on all of them."""
        if not self.picks:
            self._hook.remove()
        self.fuses = self._tried(model, self._ends_with_a_product)
        """Whether the loss is made without the logits."""

    def logits(self, model: PreTrainedModel, batch: Batch, where: Where) -> torch.Tensor:
        """Logits of the positions `where`. Shape [positions, vocabulary], float32."""
        with self._picking(where):
            logits: torch.Tensor = model(**batch.inputs, **self._options).logits
        return (logits[0] if self.picks else logits[where]).float()

    def loss(
        self, model: PreTrainedModel, batch: Batch, where: Where, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Summed cross-entropy at the positions `where`, shape [].

        Args:
            model: The model.
            batch: Its input.
            where: Positions that predict something.
            wanted: What, shape [positions].
        """
        if not self.can_fuse(model):
            return cross_entropy(self.logits(model, batch, where), wanted, reduction="sum")
        with self._picking(where), _without(_output(model)):
            hidden: torch.Tensor = model(**batch.inputs, **self._options).logits
        hidden = hidden[0] if self.picks else hidden[where]
        return _summed(hidden, _output(model), wanted)

    def loss_of_next(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Summed cross-entropy of each position's next token, the batch's labels. Shape []."""
        labels = batch.labels.flatten()
        if not self.can_fuse(model):
            logits: torch.Tensor = model(**batch.inputs, **self._options).logits[:, :-1]
            return cross_entropy(logits.flatten(0, 1).float(), labels, reduction="sum")
        with _without(_output(model)):
            hidden: torch.Tensor = model(**batch.inputs, **self._options).logits
        return _summed(hidden[:, :-1].flatten(0, 1), _output(model), labels)

    def can_fuse(self, model: PreTrainedModel) -> bool:
        """Whether the loss is made without the logits now: compilers and shards do it their way."""
        sharded = self.fuses and isinstance(_output(model).weight, DTensor)
        return self.fuses and not sharded and not torch.compiler.is_compiling()

    @contextmanager
    def _picking(self, where: Where) -> Iterator[None]:
        self._where = where if self.picks else None
        try:
            yield
        finally:
            self._where = None

    def _pick(self, _module: object, _args: object, output: object) -> object:
        if self._where is not None:
            hidden: torch.Tensor = output["last_hidden_state"]  # type: ignore[index]
            output["last_hidden_state"] = hidden[self._where][None]  # type: ignore[index]
        return output

    @torch.no_grad()
    def _tried(self, model: PreTrainedModel, trial: Trial) -> bool:
        mode = model.training
        ids = torch.arange(5, 21, device=model.device).reshape(2, 8) % model.config.vocab_size
        model.train(mode=False)
        try:
            return trial(model, ids)
        except (RuntimeError, KeyError, TypeError, IndexError, AttributeError):
            return False
        finally:
            self._where = None
            model.train(mode)

    def _picks_exactly(self, model: PreTrainedModel, ids: torch.Tensor) -> bool:
        where = (torch.tensor([0, 1, 1]), torch.tensor([3, 0, 6]))
        full = model(input_ids=ids).logits[where]
        self._where = where
        sparse = model(input_ids=ids).logits
        return sparse.shape[:2] == (1, 3) and torch.allclose(sparse[0], full, atol=1e-5)

    def _ends_with_a_product(self, model: PreTrainedModel, ids: torch.Tensor) -> bool:
        output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if type(output) is not nn.Linear:
            return False
        full = model(input_ids=ids).logits
        with _without(output):
            hidden = model(input_ids=ids).logits
        logits = linear(hidden, output.weight, output.bias)
        return logits.shape == full.shape and torch.allclose(logits, full, atol=1e-5)


def _output(model: PreTrainedModel) -> nn.Linear:
    output: nn.Linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return output


@contextmanager
def _without(output: nn.Linear) -> Iterator[None]:
    """Let the output layer pass on what it is given."""
    output.forward = _same  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del output.forward


def _same(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def _summed(hidden: torch.Tensor, output: nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    return summed_cross_entropy(hidden, output.weight, output.bias, labels)
