"""The output layer over the vocabulary, run only where it is asked for and never kept whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from .batch import Batch, Where
from .packing import without_cache
from .vocabulary import summed_cross_entropy

Inputs = dict[str, torch.Tensor]
Trial = Callable[[PreTrainedModel, Inputs], bool]

ADDED = "final_logits_bias"
"""Buffer of BART and its kin, of shape [1, vocabulary]."""

_NOTHING = nn.Identity()


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
        self._holder = _holder(model)
        self.fuses = self._tried(model, self._ends_with_a_product)
        """Whether the loss is made without the logits."""

    def logits(self, model: PreTrainedModel, batch: Batch, where: Where) -> torch.Tensor:
        """Logits of the positions `where`. Shape [positions, vocabulary], float32."""
        with self._picking(where):
            logits: torch.Tensor = model(**batch.inputs, **self._options).logits
        return (logits[0] if self.picks else logits[where]).float()

    def loss(
        self,
        model: PreTrainedModel,
        batch: Batch,
        where: Where,
        wanted: torch.Tensor,
        *,
        smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Summed cross-entropy at the positions `where`, shape [].

        Args:
            model: The model.
            batch: Its input.
            where: Positions that predict something.
            wanted: What, shape [positions].
            smoothing: Share of the truth that all words have in equal parts.
        """
        if not self.fuses:
            logits = self.logits(model, batch, where)
            return cross_entropy(logits, wanted, reduction="sum", label_smoothing=smoothing)
        with self._picking(where), self._without_output(model):
            hidden: torch.Tensor = model(**batch.inputs, **self._options).logits
        hidden = hidden[0] if self.picks else hidden[where]
        return _summed(model, hidden, wanted, smoothing=smoothing)

    def loss_of_next(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Summed cross-entropy of each position's next token, the batch's labels. Shape []."""
        labels = batch.labels.flatten()
        if not self.fuses:
            logits: torch.Tensor = model(**batch.inputs, **self._options).logits[:, :-1]
            return cross_entropy(logits.flatten(0, 1).float(), labels, reduction="sum")
        with self._without_output(model):
            hidden: torch.Tensor = model(**batch.inputs, **self._options).logits
        return _summed(model, hidden[:, :-1].flatten(0, 1), labels)

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

    @contextmanager
    def _without_output(self, model: PreTrainedModel) -> Iterator[None]:
        """Have the model give as its logits what its output layer would be given.

        The layer is exchanged and put back, which compilers can follow; they cannot follow a method
        that is exchanged.
        """
        output, added, (holder, name) = _output(model), getattr(model, ADDED, None), self._holder
        setattr(holder, name, _NOTHING)
        if added is not None:
            setattr(model, ADDED, added.new_zeros(1, 1))
        try:
            yield
        finally:
            setattr(holder, name, output)
            if added is not None:
                setattr(model, ADDED, added)

    @torch.no_grad()
    def _tried(self, model: PreTrainedModel, trial: Trial) -> bool:
        mode = model.training
        ids = torch.arange(5, 21, device=model.device).reshape(2, 8) % model.config.vocab_size
        inputs = {"input_ids": ids}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids.flip(1)
        model.train(mode=False)
        try:
            return trial(model, inputs)
        except (RuntimeError, KeyError, TypeError, IndexError, AttributeError):
            return False
        finally:
            self._where = None
            model.train(mode)

    def _picks_exactly(self, model: PreTrainedModel, inputs: Inputs) -> bool:
        where = (torch.tensor([0, 1, 1]), torch.tensor([3, 0, 6]))
        full = model(**inputs).logits[where]
        self._where = where
        sparse = model(**inputs).logits
        return sparse.shape[:2] == (1, 3) and torch.allclose(sparse[0], full, atol=1e-5)

    def _ends_with_a_product(self, model: PreTrainedModel, inputs: Inputs) -> bool:
        output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if type(output) is not nn.Linear:
            return False
        full = model(**inputs).logits
        with self._without_output(model):
            hidden = model(**inputs).logits
        logits = linear(hidden, output.weight, _bias(model))
        return logits.shape == full.shape and torch.allclose(logits, full, atol=1e-5)


def _output(model: PreTrainedModel) -> nn.Linear:
    output: nn.Linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return output


def _bias(model: PreTrainedModel) -> torch.Tensor | None:
    """What is added to the product, shape [vocabulary]: BART and its kin keep it in the model."""
    added: torch.Tensor | None = getattr(model, ADDED, None)
    return _output(model).bias if added is None else added[0]


def _holder(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that has the output layer, and its name there."""
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    path = next((name for name, module in model.named_modules() if module is output), "")
    owner, _, name = path.rpartition(".")
    return model.get_submodule(owner), name


def _summed(
    model: PreTrainedModel, hidden: torch.Tensor, labels: torch.Tensor, *, smoothing: float = 0.0
) -> torch.Tensor:
    weight = _output(model).weight
    return summed_cross_entropy(hidden, weight, _bias(model), labels, smoothing=smoothing)
