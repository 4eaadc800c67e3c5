"""What the world sees: every series of the contract, the status, and lines that machines read."""

import json
import logging
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from troika_api import metrics
from troika_api.contract import ENV_METRICS_PORT, SavedCheckpoint, Stage, TrainerStatus
from troika_trainer.logs import JsonLines, Sentences
from troika_trainer.place import Place
from troika_trainer.server import serve
from troika_trainer.telemetry import StepReport, Telemetry

LABELS = {"kind": "PretrainJob", "name": "a"}


def report(step: int, **changes: float) -> StepReport:
    values = {
        "epoch": 0.5,
        "loss": 2.0,
        "learning_rate": 1e-3,
        "gradient_norm": 1.5,
        "tokens": 100,
        "samples": 4,
        "seconds": 0.5,
        "data_seconds": 0.1,
        "flops": 1e9,
        **changes,
    }
    return StepReport(step=step, **values)  # type: ignore[arg-type]


def telemetry(place: Place | None = None) -> Telemetry:
    return Telemetry(kind="PretrainJob", name="a", place=place or Place(attempt=2))


def told() -> Telemetry:
    seen = telemetry()
    seen.stage(Stage.TOKENIZING)
    seen.stage(Stage.EVALUATING)
    seen.plan(total_steps=10, peak_flops=1e12)
    seen.resumed(step=3, tokens=300)
    seen.validated({"loss": 3.5})
    seen.step(report(4))
    seen.step(report(5, tokens=300))
    seen.saved(SavedCheckpoint(step=5, time=123.0, path="/c/step-5"), blocked=0.2, written=1.0)
    seen.stage(Stage.EXPORTING)
    seen.stage(Stage.DONE)
    return seen


def scraped(seen: Telemetry, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv(ENV_METRICS_PORT, "0")
    port = serve(seen._registry, seen.status.to_json)
    pages = []
    for path in ("metrics", "status"):
        with urllib.request.urlopen(f"http://localhost:{port}/{path}", timeout=5) as answer:
            pages.append(answer.read().decode())
    return pages[0], pages[1]


def test_every_metric_of_the_contract_has_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    page, _ = scraped(told(), monkeypatch)
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    for family in metrics.TRAINER_METRICS:
        name = family.name + ("_count" if family.type == "histogram" else "")
        assert name in samples, f"{name} is missing"
        assert LABELS.items() <= samples[name].labels.items()
    assert samples["troika_train_tokens_total"].value == 400
    assert samples["troika_train_step"].value == 5
    assert samples["process_resident_memory_bytes"].value > 0


def test_the_status_is_that_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    _, page = scraped(told(), monkeypatch)
    status = TrainerStatus.model_validate_json(page)
    assert (status.attempt, status.stage, status.step, status.first_step) == (2, Stage.DONE, 5, 4)
    assert (status.tokens, status.total_steps, status.validation_loss) == (700, 10, 3.5)
    assert status.tokens_per_second == pytest.approx(400.0)
    assert status.data_wait_ratio == pytest.approx(0.2)
    assert status.eta_seconds == pytest.approx(2.5)
    assert status.model_flops_utilization == pytest.approx(2e9 / 1e12)
    assert status.checkpoint is not None
    assert status.checkpoint.step == 5


def test_unknown_hardware_has_no_utilization(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = telemetry()
    seen.plan(total_steps=10, peak_flops=None)
    seen.step(report(1))
    page, status = scraped(seen, monkeypatch)
    assert "modelFlopsUtilization" not in status
    assert "troika_train_peak_flops{" not in page


def test_only_the_first_rank_exports_the_series_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = telemetry(Place(rank=4))
    seen.step(report(1))
    page, status = scraped(seen, monkeypatch)
    assert "troika_train" not in page
    assert "process_cpu_seconds_total" in page
    assert json.loads(status)["step"] == 1


def test_a_taken_port_costs_the_metrics_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("", 0)) as taken:
        monkeypatch.setenv(ENV_METRICS_PORT, str(taken.getsockname()[1]))
        assert serve(telemetry()._registry, str) is None
    assert "no /metrics and /status" in caplog.text


def test_log_lines_are_json_for_machines_and_sentences_for_people() -> None:
    record = logging.makeLogRecord(
        {"msg": "step", "levelno": logging.INFO, "levelname": "INFO", "loss": 1.23456, "mfu": None}
    )
    line = json.loads(JsonLines(Place(rank=1, attempt=2)).format(record))
    assert line["message"] == "step"
    assert (line["rank"], line["attempt"], line["loss"]) == (1, 2, 1.23456)
    assert "mfu" not in line
    assert Sentences().format(record).endswith("step  loss 1.235")


def test_the_word_of_success_lies_beside_the_error_file(tmp_path: Path) -> None:
    assert Place(error_file=tmp_path / "error.json").word_file == tmp_path / "word.json"
    assert Place().word_file is None
