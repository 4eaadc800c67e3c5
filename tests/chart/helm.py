"""The chart as helm sees it."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/troika"
RELEASE = "troika"
PROMETHEUS_OPERATOR = "--api-versions=monitoring.coreos.com/v1/PodMonitor"
"""Makes `helm template` believe that the cluster serves PodMonitors."""

Values = Mapping[str, Any]
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Helm:
    """The helm program, without or with a cluster to talk to."""

    program: Path
    kubeconfig: Path | None = None
    namespace: str = "troika-system"

    def __call__(
        self, *arguments: str | Path, values: Values | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run helm; `values` go in as a file."""
        options = [f"--namespace={self.namespace}"]
        options += [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig else []
        options += ["--values=-"] if values is not None else []
        return subprocess.run(
            [self.program, *arguments, *options],
            input=None if values is None else json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
        )

    def template(
        self, *arguments: str, values: Values | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `helm template` on the chart."""
        return self("template", RELEASE, CHART, *arguments, values=values)

    def render(self, *arguments: str, values: Values | None = None) -> list[Manifest]:
        """The objects that the chart makes of `values`."""
        done = self.template(*arguments, values=values)
        assert done.returncode == 0, done.stderr
        # The C loader: the CRDs are thousands of lines, and every test renders them.
        documents = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
        return [document for document in documents if document]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """The one of a kind."""
    (manifest,) = of_kind(manifests, kind)
    return manifest


def container(manifests: list[Manifest]) -> Manifest:
    """The operator's container."""
    (found,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found
