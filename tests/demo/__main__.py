"""`make demo`: everything that Troika is for, on a real cluster, in a few minutes."""

import json
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

from . import table, volume
from .install import install
from .shell import DemoError, run, stage
from .target import Target, find

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "examples" / "demo"
NAMESPACE = "troika-demo"
CLAIM = "demo"
TRAINING_TIMEOUT = 1800.0
QUERY = (
    "max by (kind, name) "
    f'(max_over_time(rate(troika_train_tokens_total{{namespace="{NAMESPACE}"}}[1m])[30m:5s]))'
)
"""The best minute of both jobs, which have ended by the time that this is asked."""


def main() -> int:
    """Run the demo; 1 with a sentence when it cannot go on."""
    began = time.monotonic()
    try:
        _demo()
    except (DemoError, ClusterError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\nThe whole demo took {time.monotonic() - began:.0f} s.")
    return 0


def _demo() -> None:
    with stage("Cluster and images"):
        target = find()
    with stage("Helm chart"):
        print(install(target, poll_seconds=3).splitlines()[0])
    with stage("Namespace, volume and data"):
        _prepare(target)
    with stage("Training: a PretrainJob, and a FinetuneJob that waits for its model"):
        target.kubectl(
            "apply", "-f", MANIFESTS / "pretrain.yaml", "-f", MANIFESTS / "finetune.yaml"
        )
        jobs = table.follow(target, NAMESPACE, timeout=TRAINING_TIMEOUT)
    _report(target, jobs)


def _prepare(target: Target) -> None:
    """A clean start: what an earlier demo left goes first, jobs before the data that they read."""
    target.kubectl("apply", "-f", MANIFESTS / "storage.yaml")
    target.kubectl("-n", NAMESPACE, "delete", "ptj,ftj", "--all", "--wait=true", "--timeout=2m")
    target.kubectl(
        "-n", NAMESPACE, "wait", "--for=delete", "pod", "-l", "troika.dev/job-name", "--timeout=3m"
    )
    volume.start(target, NAMESPACE, CLAIM)
    target.kubectl(
        "-n", NAMESPACE, "exec", volume.POD, "--",
        "rm", "-rf", f"{volume.MOUNT}/models", f"{volume.MOUNT}/checkpoints",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        print(run(sys.executable, "-m", "data", folder, "prose", "reviews").rstrip())
        size = volume.upload(target, NAMESPACE, Path(folder))
    print(f"    {size / 1e6:.1f} MB on the volume")


def _report(target: Target, jobs: list[dict[str, Any]]) -> None:
    by_kind = {job["kind"]: job["status"] for job in jobs}
    print("\n" + target.kubectl("-n", NAMESPACE, "get", "ptj,ftj"))
    print(volume.read(target, NAMESPACE, "models/sentiment/report.txt"))
    for kind, status in by_kind.items():
        print(f"{kind:12} model: {status['model']['uri']}")
    print(f"\n{QUERY}")
    for series in _query(target):
        labels = series["metric"]
        print(f"  {labels['kind']} {labels['name']}: {float(series['value'][1]):,.0f} tokens/s")


def _query(target: Target) -> list[dict[str, Any]]:
    if target.prometheus_url is None:
        print("  no Prometheus is known: set PROMETHEUS_URL= to see the answer")
        return []
    url = f"{target.prometheus_url}/api/v1/query?" + urllib.parse.urlencode({"query": QUERY})
    with urllib.request.urlopen(url, timeout=10) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    if not result:
        raise DemoError(f"Prometheus at {target.prometheus_url} has no answer to: {QUERY}")
    return result


if __name__ == "__main__":
    sys.exit(main())
