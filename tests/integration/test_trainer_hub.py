"""Models by hf://: from a mirror of the hub, and then from the cache alone."""

from pathlib import Path
from typing import Any

import pytest

from support import tinyrun
from support.hub import mirror
from support.tiny_tasks import finetune_run, tiny_model, write_rows
from troika_api.contract import ExitCode

WORDS = ("good", "fine", "bad", "dull")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a hub has it: OWNER/NAME."""
    root = tmp_path_factory.mktemp("models")
    tiny_model(root / "acme" / "tiny-bert", [" ".join(WORDS)] * 3, num_hidden_layers=1)
    return root


def run_from(folder: Path, path: str) -> dict[str, Any]:
    """Two steps on four words."""
    rows = [{"text": f"a {word} film", "label": word in WORDS[:2]} for word in WORDS * 4]
    rows_file = write_rows(folder / "rows.jsonl", rows)
    run = finetune_run(
        folder,
        task="TextClassification",
        model=Path("replaced"),
        splits={"train": rows_file, "validation": rows_file},
        training={"epochs": None, "steps": 2},
    )
    run["model"]["path"] = path
    return run


def trained(folder: Path, path: str, cache: Path, **environ: str | None) -> tuple[int, Any]:
    """Train in a process of its own, for the libraries read variables when they are imported.

    Returns:
        The exit code, and the last word where it failed.
    """
    variables: dict[str, Any] = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": None, **environ}
    (rank,) = tinyrun.start(run_from(folder, path), folder, **variables)
    code = rank.wait(240)
    print(rank.log.read_text())
    return code, rank.word() if code else None


def test_a_model_comes_from_a_mirror_of_the_hub_and_then_from_the_cache(
    tmp_path: Path, models: Path
) -> None:
    cache = tmp_path / "cache"
    with mirror(models) as (address, asked):
        code, _ = trained(tmp_path / "a", "hf://acme/tiny-bert", cache, HF_ENDPOINT=address)
        assert code == 0
        fetched = [line.rpartition("/")[2] for line in asked if line.startswith("GET acme")]
        assert fetched.count("model.safetensors") == 1
    assert (tmp_path / "a" / "model" / "model.safetensors").is_file()
    code, _ = trained(tmp_path / "b", "hf://acme/tiny-bert", cache, HF_HUB_OFFLINE="1")
    assert code == 0


def test_a_model_that_the_hub_does_not_have_is_a_mistake_in_the_job(
    tmp_path: Path, models: Path
) -> None:
    with mirror(models) as (address, _):
        code, word = trained(tmp_path, "hf://acme/brt", tmp_path / "cache", HF_ENDPOINT=address)
    assert code == ExitCode.BAD_CONFIG
    assert "acme/brt" in word["message"]


def test_where_the_run_does_not_name_the_hub_nothing_is_asked_of_it(
    tmp_path: Path, models: Path
) -> None:
    local = str(models / "acme" / "tiny-bert")
    with mirror(models) as (address, asked):
        code, _ = trained(tmp_path, local, tmp_path / "cache", HF_ENDPOINT=address)
    assert code == 0
    assert asked == []
