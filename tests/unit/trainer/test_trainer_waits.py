"""No forward or backward pass waits for the device: nothing branches on values there."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from support.language_tasks import ARCHITECTURES, CAUSAL, batch_of, causal, masked
from troika_trainer.attention import rows_known
from troika_trainer.model import build_model
from troika_trainer.tasks.base import Objective


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that would hold up the host until a GPU has come so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = "index" in func.name() and any(
            isinstance(index, torch.Tensor) and index.dtype is torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ())
        )
        depends = torch.Tag.data_dependent_output in func.tags or (
            torch.Tag.dynamic_output_shape in func.tags and "index" not in func.name()
        )
        if by_mask or depends:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def test_what_waits_is_seen() -> None:
    values = torch.arange(4)
    with Waits() as waits:
        values.nonzero()
        values[values > 2]
        bool(values.any())
        values[torch.tensor([1, 2])]
    assert len(waits.found) == 3


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *CAUSAL])
def test_language_models_never_wait(kind: str) -> None:
    make, size = (causal, CAUSAL) if kind in CAUSAL else (masked, ARCHITECTURES)
    task = make({"model_type": kind, **size[kind]})
    model = build_model(task.run, task).train()
    task.attach(model)
    batch = batch_of(task)
    with rows_known(packed=False), Waits() as waits:
        Objective(model, task)(batch)[0].backward()
    assert not waits.found


@pytest.mark.parametrize("kind", ["bert", "modernbert", "gpt2", "llama"])
def test_nor_do_packed_ones(kind: str) -> None:
    make, size = (causal, CAUSAL) if kind in CAUSAL else (masked, ARCHITECTURES)
    task = make({"model_type": kind, **size[kind]}, data={"packing": True})
    model = build_model(task.run, task).train()
    task.attach(model)
    batch = task.apart(batch_of(task), [np.array([20, 12])] * 4)
    with rows_known(packed=True), Waits() as waits:
        Objective(model, task)(batch)[0].backward()
    assert not waits.found


@pytest.mark.parametrize("kind", CAUSAL)
def test_nor_does_a_compiled_decoder_get_a_mask_that_rules_flash_attention_out(kind: str) -> None:
    torch.compiler.reset()
    task = causal({"model_type": kind, **CAUSAL[kind]})
    model = build_model(task.run, task).train()
    task.attach(model)
    masks: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        masks.extend(
            node.kwargs["attn_mask"] for node in graph.graph.nodes if "attn_mask" in node.kwargs
        )
        return graph.forward

    with rows_known(packed=False):
        torch.compile(Objective(model, task).forward, backend=backend)(batch_of(task))
    assert masks == [None, None], "one for each layer"
