"""Weights & Biases: one run of a project, online or as files to be synchronised later."""

import os
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from troika_api.v1alpha1.tracking import WandbMode, WandbTracking
from troika_trainer.integrity import write_durably
from troika_trainer.runfile import Run

from .base import Entry, Outcome

if TYPE_CHECKING:
    import wandb

CLOUD = "https://api.wandb.ai"
KEY = "WANDB_API_KEY"
SECONDS_TO_START = 30.0
SECONDS_TO_FINISH = 10.0


class WeightsAndBiases:
    """History and settings of a run. The key stands in WANDB_API_KEY, or in ~/.netrc."""

    name = "Weights & Biases"

    def __init__(self, spec: WandbTracking, run: Run, directory: Path) -> None:
        self._spec, self._settings, self._directory = spec, run, directory
        self._run: wandb.Run | None = None

    def open(self, step: int) -> None:  # noqa: ARG002 - the server knows what it has
        """Go on with the run of an earlier attempt, or begin one.

        Raises:
            PermissionError: there is no key; asking for one would wait for a person.
        """
        import wandb  # noqa: PLC0415 - loads for seconds

        offline = self._spec.mode is WandbMode.OFFLINE
        if not offline and not self._has_key():
            raise PermissionError(
                f"no key: put {KEY} into the Secret of tracking.secret, or set mode: Offline"
            )
        scratch = tempfile.mkdtemp(prefix="troika-wandb-")
        self._run = wandb.init(
            project=self._spec.project,
            entity=self._spec.entity,
            name=self._settings.name,
            id=self._run_id(),
            job_type=self._settings.kind,
            config=self._settings.wire(),
            resume=None if offline else "allow",
            mode="offline" if offline else "online",
            # What is to be synchronised by hand has to outlive the pod.
            dir=self._directory if offline else scratch,
            settings=wandb.Settings(
                base_url=self._spec.uri or os.environ.get("WANDB_BASE_URL", CLOUD),
                init_timeout=SECONDS_TO_START,
                finish_timeout=SECONDS_TO_FINISH,
                reinit="create_new",
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
            ),
        )

    def log(self, entries: list[Entry]) -> None:
        """Write what the run does not have; it takes no step back."""
        assert self._run is not None
        for entry in entries:
            if entry.step >= self._run.step:
                self._run.log(dict(entry.numbers), step=entry.step)

    def close(self, outcome: Outcome) -> None:
        """Upload the rest."""
        assert self._run is not None
        if outcome is Outcome.TERMINATED:
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome is Outcome.SUCCEEDED else 1)

    def _has_key(self) -> bool:
        from requests.utils import get_netrc_auth  # noqa: PLC0415

        server = self._spec.uri or CLOUD
        return bool(os.environ.get(KEY) or get_netrc_auth(server))

    def _run_id(self) -> str:
        """The same in every attempt."""
        file = self._directory / "wandb-run"
        if not file.exists():
            write_durably(file, uuid.uuid4().hex[:12].encode())
        return file.read_text()
