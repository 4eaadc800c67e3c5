"""What the operator can be told from outside: environment variables that start with TROIKA_."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from troika_api.v1alpha1.compute import PullPolicy


class Settings(BaseSettings):
    """Every default stands here and nowhere else."""

    model_config = SettingsConfigDict(env_prefix="TROIKA_", frozen=True, extra="ignore")

    trainer_image: str = "troika-trainer:latest"
    """Image of jobs that name none."""
    trainer_pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    """Pull policy of jobs that name none."""
    run_as_user: Annotated[int, Field(ge=1)] | None = 1000
    """User of trainer pods; empty where the platform chooses one, as OpenShift does."""
    fs_group: Annotated[int, Field(ge=1)] | None = 1000
    """Group that owns mounted volumes; empty as above."""

    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to look after, separated by commas; empty: all."""

    poll_interval: Annotated[float, Field(gt=0.0)] = 15.0
    """Seconds between two looks at a trainer's /status."""
    poll_timeout: Annotated[float, Field(gt=0.0)] = 3.0
    """Seconds that one look may take."""
    concurrency: Annotated[int, Field(ge=1)] = 16
    """Jobs that are reconciled at the same time. Writes wait for the API server, not for a core."""
    write_rate: Annotated[float, Field(gt=0.0)] = 200.0
    """Writes per second to the API server, on average."""
    write_burst: Annotated[int, Field(ge=1)] = 400
    """Writes that may be made at once before the rate holds."""
    status_interval: Annotated[float, Field(ge=0.0)] = 2.0
    """Seconds between two writes of a status in which only the reason or the numbers changed."""
    resync_interval: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds between two searches for deletions that no watch event told of."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /metrics, /healthz and /readyz; 0 picks one."""
    log_format: Literal["json", "text"] = "json"
    """Form of a log line."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severity that is logged."""

    leader_election: bool = False
    """Hold a Lease while acting. One replica with strategy Recreate needs none, and a Lease costs
    a write every few seconds; two replicas need one."""
    leader_namespace: str = "troika-system"
    """Namespace of the Lease."""
    leader_lease: str = "troika-operator"
    """Name of the Lease."""
    lease_seconds: Annotated[float, Field(ge=3.0)] = 15.0
    """How long a leader that fell silent keeps the others waiting."""
    pod_name: str | None = None
    """Name under which this replica holds the Lease. Default: the host name."""

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("run_as_user", "fs_group", "pod_name", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value
