"""The cluster that the demo runs on: the embedded one, or the one of the current kubeconfig."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.images import TARGETS
from cluster.up import ensure_up

from .shell import Argument, DemoError, run


@dataclass(frozen=True)
class Image:
    """Parts of an image's name, as the chart wants them."""

    registry: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The whole name."""
        return f"{self.registry}/{self.repository}:{self.tag}"

    @classmethod
    def parse(cls, name: str) -> "Image":
        """Take a whole name apart."""
        path, _, tag = name.rpartition(":")
        registry, _, repository = path.rpartition("/")
        return cls(registry, repository, tag)


@dataclass(frozen=True)
class Target:
    """A cluster, and how to reach it."""

    kubectl_command: tuple[str, ...]
    helm_command: tuple[str, ...]
    operator: Image
    trainer: Image
    pull_policy: str
    prometheus_url: str | None

    def kubectl(self, *arguments: Argument, stdin: str | bytes | None = None) -> str:
        """Run kubectl and return what it printed."""
        return run(*self.kubectl_command, *arguments, stdin=stdin)

    def helm(self, *arguments: Argument) -> str:
        """Run helm and return what it printed."""
        return run(*self.helm_command, *arguments)

    def get(self, *arguments: Argument) -> Any:
        """What `kubectl get` answers, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))


def find(environment: Mapping[str, str] = os.environ) -> Target:
    """The cluster that CLUSTER names, made ready.

    Raises:
        DemoError: CLUSTER is neither `embedded` nor `current`, or `current` lacks IMAGE_REGISTRY.
    """
    match environment.get("CLUSTER", "embedded"):
        case "embedded":
            return _embedded()
        case "current":
            return _current(environment)
        case other:
            raise DemoError(f"CLUSTER={other}: expected embedded or current")


def _embedded() -> Target:
    cluster = ensure_up(*TARGETS)
    kubeconfig = str(cluster.kubeconfig)
    return Target(
        kubectl_command=(str(cluster.kubectl), "--kubeconfig", kubeconfig),
        helm_command=(str(cluster.helm), "--kubeconfig", kubeconfig),
        operator=Image.parse(cluster.image("operator")),
        trainer=Image.parse(cluster.image("trainer")),
        pull_policy="Never",
        prometheus_url=cluster.prometheus_url,
    )


def _current(environment: Mapping[str, str]) -> Target:
    registry = environment.get("IMAGE_REGISTRY")
    if not registry:
        raise DemoError(
            "CLUSTER=current needs IMAGE_REGISTRY=: the registry and path from which its nodes "
            "pull troika-operator and troika-trainer (tag IMAGE_TAG, default: latest)"
        )
    for program in ("kubectl", "helm"):
        if not shutil.which(program):
            raise DemoError(f"CLUSTER=current needs {program} on the path")
    tag = environment.get("IMAGE_TAG", "latest")
    return Target(
        kubectl_command=("kubectl",),
        helm_command=("helm",),
        operator=Image(registry, environment.get("OPERATOR_IMAGE", "troika-operator"), tag),
        trainer=Image(registry, environment.get("TRAINER_IMAGE", "troika-trainer"), tag),
        pull_policy=environment.get("IMAGE_PULL_POLICY", "IfNotPresent"),
        prometheus_url=environment.get("PROMETHEUS_URL"),
    )
