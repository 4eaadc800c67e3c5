"""What comes with a model and is not opened unasked: code, and weights that may hold code."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import hub
from typing_extensions import override

from support.tiny_tasks import tiny_model
from support.trainer_runs import finetune_run, train_here
from troika_trainer.errors import ConfigError, StorageError
from troika_trainer.loading import cannot_load
from troika_trainer.runfile import local_or_hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model", ["a fine and moving film"] * 3, num_hidden_layers=1)


def steps(folder: Path, model: Path, **named: Any) -> dict[str, Any]:
    training = {"epochs": None, "steps": 2}
    run = finetune_run(folder, model=model, data={"maxLength": 32}, training=training)
    run["model"].update(named)
    return run


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_are_not_opened(tmp_path: Path, model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save(Trap(tmp_path / "ran"), model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot load the model") as failure:
        train_here(steps(tmp_path / "run", model))
    assert "model.safetensors" in str(failure.value.remedy)
    assert not (tmp_path / "ran").exists()


def test_weights_are_exported_as_safetensors(tmp_path: Path, model: Path) -> None:
    train_here(steps(tmp_path / "run", model))
    endings = {file.suffix for file in (tmp_path / "run" / "model").iterdir()}
    assert ".safetensors" in endings
    assert not endings & {".bin", ".pt", ".pth", ".pkl"}


def test_code_that_comes_with_a_model_is_run_only_where_the_run_says_so(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(cache, str(tmp_path / "modules"))
    ran = tmp_path / "ran"
    (model / "coded.py").write_text(
        "from pathlib import Path\n"
        "from transformers import BertConfig, BertForSequenceClassification\n"
        f"Path({str(ran)!r}).touch()\n"
        "class CodedConfig(BertConfig):\n    model_type = 'coded'\n"
        "class CodedModel(BertForSequenceClassification):\n    config_class = CodedConfig\n"
    )
    file = model / "config.json"
    classes = {"AutoConfig": "CodedConfig", "AutoModelForSequenceClassification": "CodedModel"}
    coded = {name: f"coded.{value}" for name, value in classes.items()}
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, "model_type": "coded", "auto_map": coded}))

    with pytest.raises(ConfigError, match="code of its own") as failure:
        train_here(steps(tmp_path / "unasked", model))
    assert "model.trustRemoteCode: true" in str(failure.value.remedy)
    assert not ran.exists()

    train_here(steps(tmp_path / "asked", model, trustRemoteCode=True))
    assert ran.exists()


def test_a_hub_that_does_not_answer_is_no_mistake_in_the_run() -> None:
    said = "We couldn't connect to "
    assert said in inspect.getsource(hub), "transformers puts it in other words now"
    error = OSError(f"{said}'https://huggingface.co' to load the files")
    found = cannot_load("the model", "acme/bert", error, remedy="name another")
    assert isinstance(found, StorageError)
    assert "acme/bert" in str(found)


@pytest.mark.parametrize("path", ["s3://bucket/model", "https://example.com/model"])
def test_a_model_in_an_object_store_is_refused_for_what_it_is(path: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot load a model from {path}") as failure:
        local_or_hub(path)
    assert "to a volume" in str(failure.value.remedy)


def test_a_model_is_a_directory_or_a_name_on_the_hub() -> None:
    assert local_or_hub("/models/bert") == "/models/bert"
    assert local_or_hub("hf://owner/bert") == "owner/bert"
