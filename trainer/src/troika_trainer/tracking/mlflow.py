"""MLflow: one run on a tracking server, found again by every attempt."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from troika_api.v1alpha1.tracking import MLflowTracking
from troika_trainer.integrity import write_durably
from troika_trainer.runfile import Run

from .base import Entry, Outcome, flat

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as ServerRun

T = TypeVar("T")

STATUS = {Outcome.SUCCEEDED: "FINISHED", Outcome.FAILED: "FAILED", Outcome.TERMINATED: "KILLED"}
METRICS_AT_ONCE = 1000
PARAMS_AT_ONCE = 100
PARAM_LENGTH = 500
"""Limits of the server's API."""

_ODD = re.compile(r"[^\w./ -]")
"""What the name of a parameter must not have."""

SETTINGS = {
    # A server that hangs is to be noticed, and tried again by us: its client would warn each time.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MLflow:
    """Metrics and settings of a run. Name and password, or token, stand in MLflow's variables."""

    name = "MLflow"

    def __init__(self, spec: MLflowTracking, run: Run, id_file: Path) -> None:
        self._spec, self._run, self._id_file = spec, run, id_file
        self._run_id = ""
        self._known: dict[str, int] = {}
        """Newest step that the server has, by metric: it keeps what comes twice twice."""
        self._client: MlflowClient | None = None

    def open(self, step: int) -> None:  # noqa: ARG002 - the server knows what it has
        """Find the run of an earlier attempt, or make one."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # noqa: PLC0415 - loads for seconds
        from mlflow.entities import Param  # noqa: PLC0415

        self._client = client = MlflowClient(tracking_uri=self._spec.uri)
        found = self._existing(client)
        if found is None:
            found = client.create_run(
                self._experiment(client), run_name=self._run.name, tags={"troika": self._run.kind}
            )
            write_durably(self._id_file, found.info.run_id.encode())
        self._run_id = found.info.run_id
        client.update_run(self._run_id, status="RUNNING")
        params = [Param(name, value) for name, value in params_of(self._run).items()]
        for part in _parts(params, PARAMS_AT_ONCE):
            client.log_batch(self._run_id, params=part)
        self._known = {
            name: max(entry.step for entry in client.get_metric_history(self._run_id, name))
            for name in found.data.metrics
        }

    def log(self, entries: list[Entry]) -> None:
        """Send what the server does not have."""
        from mlflow.entities import Metric  # noqa: PLC0415

        assert self._client is not None
        metrics = [
            Metric(name, value, int(entry.time * 1000), entry.step)
            for entry in entries
            for name, value in entry.numbers.items()
            if entry.step > self._known.get(name, -1)
        ]
        for part in _parts(metrics, METRICS_AT_ONCE):
            self._client.log_batch(self._run_id, metrics=part)

    def close(self, outcome: Outcome) -> None:
        """Tell the server how it ended."""
        assert self._client is not None
        self._client.set_terminated(self._run_id, status=STATUS[outcome])

    def _existing(self, client: "MlflowClient") -> "ServerRun | None":
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            return client.get_run(self._id_file.read_text().strip())
        except FileNotFoundError:
            return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # somebody has deleted it

    def _experiment(self, client: "MlflowClient") -> str:
        name = self._spec.experiment
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))


def params_of(run: Run) -> dict[str, str]:
    """The settings of a run as the server takes them; it refuses what changes, as trackers may."""
    settings = flat({key: value for key, value in run.wire().items() if key != "tracking"})
    return {_ODD.sub("_", name): str(value)[:PARAM_LENGTH] for name, value in settings}


def _parts(items: list[T], most: int) -> Iterator[list[T]]:
    return (items[at : at + most] for at in range(0, len(items), most))
