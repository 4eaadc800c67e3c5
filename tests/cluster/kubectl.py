"""Talk to the API server as its administrator, through the real kubectl."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.settings import PLACES
from cluster.shell import Argument, run, succeeds

Manifest = Mapping[str, Any]


class Kubectl:
    """kubectl bound to this cluster's kubeconfig."""

    def __init__(self, program: Path) -> None:
        """Use the kubectl at `program`."""
        self._command = (program, "--kubeconfig", PLACES.kubeconfig)

    def __call__(self, *arguments: Argument, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed."""
        return run(*self._command, *arguments, stdin=stdin)

    def succeeds(self, *arguments: Argument) -> bool:
        """Whether the command exits with 0: for questions that are asked until answered."""
        return succeeds(*self._command, "--request-timeout=3s", *arguments)

    def get(self, *arguments: Argument) -> Any:
        """What `kubectl get` answers, parsed."""
        return json.loads(self("get", *arguments, "-o", "json"))

    def apply(self, manifests: Iterable[Manifest]) -> None:
        """Apply objects server-side."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))
