"""What the end-to-end tests say over and over: apply a job, wait, look."""

import copy
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from demo.shell import DemoError
from demo.target import Target
from support.waiting import wait_until

T = TypeVar("T")


@dataclass
class Jobs:
    """The jobs of one namespace."""

    target: Target
    namespace: str
    made: list[tuple[str, str]] = field(default_factory=list)

    def apply(self, manifest: dict[str, Any]) -> str:
        """Apply a job, return its name."""
        body = copy.deepcopy(manifest)
        body["metadata"]["namespace"] = self.namespace
        self.target.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        name: str = body["metadata"]["name"]
        self.made.append((body["kind"], name))
        return name

    def patch(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Merge into a job's spec."""
        self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """kubectl in the namespace."""
        return self.target.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """`kubectl get` in the namespace, parsed."""
        return self.target.get("-n", self.namespace, *arguments)

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """The status of a job, empty before the operator saw it."""
        status: dict[str, Any] = self.get(kind, name).get("status", {})
        return status

    def condition(self, kind: str, name: str, type_: str) -> dict[str, Any] | None:
        """A condition of a job."""
        conditions: list[dict[str, Any]] = self.status(kind, name).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), None)

    def wait(self, kind: str, name: str, condition: str, *, timeout: int) -> dict[str, Any]:
        """`kubectl wait` for a condition; returns the status, and shows it when the wait fails."""
        try:
            self.kubectl(
                "wait", f"--for=condition={condition}", kind, name, f"--timeout={timeout}s"
            )
        except DemoError as error:
            status = json.dumps(self.status(kind, name), indent=1)
            raise AssertionError(f"{error}\nstatus: {status}\n{self.logs(name)}") from error
        return self.status(kind, name)

    def step(self, kind: str, name: str) -> int:
        """The step that the status shows."""
        step: int = self.status(kind, name).get("progress", {}).get("step", 0)
        return step

    def wait_for_step(self, kind: str, name: str, step: int, *, timeout: float) -> int:
        """Wait until the status shows at least this step."""
        return wait_until(
            lambda: reached if (reached := self.step(kind, name)) >= step else None,
            f"step {step} of {kind} {name}",
            seconds=timeout,
            seen=lambda: self.status(kind, name),
        )

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a job, by rank."""
        pods: list[dict[str, Any]] = self.get("pods", "-l", f"troika.dev/job-name={name}")["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def children(self, name: str) -> dict[str, list[str]]:
        """Names of everything that belongs to a job, by kind."""
        found: dict[str, list[str]] = {}
        kinds = "jobs,pods,services,configmaps,podgroups.scheduling.k8s.io"
        for item in self.get(kinds, "-l", f"troika.dev/job-name={name}")["items"]:
            found.setdefault(item["kind"], []).append(item["metadata"]["name"])
        return found

    def logs(self, name: str) -> str:
        """The end of the pods' logs, for a test that failed."""
        try:
            return self.kubectl(
                "logs", "-l", f"troika.dev/job-name={name}", "--tail=30", "--prefix"
            )
        except DemoError as error:
            return f"no logs: {error}"
