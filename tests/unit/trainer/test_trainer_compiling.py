"""Compiled where it pays: tried once, on runs that are long enough, with the same losses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from support.trainer_runs import TINY_BERT, TINY_GPT, pretrain_run, train_here
from troika_trainer import compiling
from troika_trainer.distributed import Group
from troika_trainer.place import Place


class Machine:
    """One on which a pass takes so many seconds, compiled and not; None: its memory runs out."""

    def __init__(self, without: float | None, compiled: float | None) -> None:
        self.compiled, self.turns = False, 0
        self._without, self._compiled = without, compiled

    def seconds(self) -> float | None:
        return self._compiled if self.compiled else self._without

    def turn(self, on: bool) -> None:
        self.compiled, self.turns = on, self.turns + 1


@pytest.mark.parametrize(
    ("machine", "passes", "chosen", "turns"),
    [
        (Machine(1.0, 0.8), 10_000, True, 1),
        (Machine(1.0, 0.99), 10_000, False, 2),
        (Machine(1.0, 1.3), 10_000, False, 2),
        (Machine(1.0, None), 10_000, False, 2),
        (Machine(None, 0.1), 10_000, False, 0),
        (Machine(1.0, 0.1), 1_000, False, 0),
    ],
    ids=["faster", "hardly", "slower", "too large", "too large without", "a short run"],
)
def test_it_is_chosen_where_it_pays(
    machine: Machine, passes: int, chosen: bool, turns: int
) -> None:
    assert compiling.choose(machine.seconds, machine.turn, passes=passes) is chosen
    assert (machine.compiled, machine.turns) == (chosen, turns)


def test_ranks_compile_layer_by_layer() -> None:
    objective: Any = torch.nn.Module()
    kind = {key: value for key, value in TINY_BERT.items() if key != "model_type"}
    config = AutoConfig.for_model("bert", vocab_size=16, **kind)
    objective.model = AutoModelForMaskedLM.from_config(config)  # type: ignore[no-untyped-call]
    device = torch.device("cpu")
    assert compiling.pieces(objective, Group(Place(), device)) == [objective]
    two = Group(Place(world_size=2), device)
    assert compiling.pieces(objective, two) == list(objective.model.bert.encoder.layer)


def test_compiling_can_be_taken_back() -> None:
    module, calls = torch.nn.Linear(2, 2), []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Any:
        calls.append(graph)
        return graph.forward

    module.compile(backend=backend)
    module(torch.ones(1, 2))
    assert len(calls) == 1
    compiling.switch([module], on=False)
    module(torch.ones(3, 2))
    assert len(calls) == 1


@pytest.fixture
def forgetful() -> Iterator[None]:
    yield
    torch._dynamo.reset()
    torch._dynamo.config.suppress_errors = False


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "model"), [("MaskedLM", TINY_BERT), ("CausalLM", TINY_GPT)])
@pytest.mark.usefixtures("forgetful")
def test_a_compiled_run_has_the_losses_of_one_that_is_not(
    tmp_path: Path, objective: str, model: dict[str, Any]
) -> None:
    def run(compiled: str) -> Any:
        folder = tmp_path / compiled
        training = {"steps": 4, "precision": "FP32", "compile": compiled}
        changes = {"data": {"packing": True}, "training": training, "model": {"config": None}}
        changed = pretrain_run(folder, objective=objective, **changes)
        changed["model"]["config"] = model
        return train_here(changed)

    assert run("Always").losses == pytest.approx(run("Never").losses, abs=1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
def test_what_a_trial_has_shown_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "WORTH_A_TRIAL", 0.0)
    monkeypatch.setattr(compiling, "PAYS", 0.0)  # whatever the machine
    training = {"steps": 2, "precision": "FP32"}
    plain = train_here(pretrain_run(tmp_path / "plain", training=training))
    run = pretrain_run(tmp_path / "auto", training=training | {"compile": "Auto"})
    assert train_here(run).losses == pytest.approx(plain.losses, abs=1e-5)
    file = tmp_path / "auto" / "checkpoints" / "cache" / "compile.json"
    assert json.loads(file.read_text()) == {"CPU": True}

    def never(*_: Any, **__: Any) -> bool:
        raise AssertionError("tried again")

    monkeypatch.setattr(compiling, "choose", never)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run["training"]["steps"] = 4
    assert len(train_here(run).losses) == 2
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
