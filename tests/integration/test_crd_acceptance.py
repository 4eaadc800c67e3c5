"""A real API server takes the CRDs and the examples, and refuses each mistake clearly."""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.up import Cluster, ensure_up
from integration.bad_manifests import ALL, IMMUTABLE, MISTAKES, MUTABLE, REMOVED, Mistake

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMESPACE = "crd-acceptance"


def kubectl(
    cluster: Cluster, *arguments: str, body: Any = None, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", *arguments],
        input=text if body is None else json.dumps(body),
        capture_output=True,
        text=True,
        check=False,
    )


def changed(example: str, at: str, value: Any) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((EXAMPLES / example).read_text())
    body["metadata"]["namespace"] = NAMESPACE
    if at == ALL:
        body["spec"] |= value
        return body
    *parents, last = at.split(".")
    node = body["spec"]
    for key in parents:
        node = node.setdefault(key, {})
    if value is REMOVED:
        del node[last]
    else:
        node[last] = copy.deepcopy(value)
    return body


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = ensure_up()
    applied = kubectl(
        cluster, "apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds")
    )
    assert applied.returncode == 0, applied.stderr
    kubectl(
        cluster,
        "wait",
        "--for=condition=Established",
        "crd",
        "-l",
        "app.kubernetes.io/part-of=troika",
        "--timeout=30s",
    )
    kubectl(cluster, "create", "namespace", NAMESPACE)
    yield cluster
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")


def dry_run(cluster: Cluster, body: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return kubectl(cluster, "apply", "--dry-run=server", "--validate=strict", "-f", "-", body=body)


# Those of the demo have a namespace of their own, which the demo makes.
@pytest.mark.parametrize(
    "path",
    sorted(path for path in EXAMPLES.rglob("*.yaml") if path.parent.name != "demo"),
    ids=lambda path: path.name,
)
def test_examples_are_accepted(cluster: Cluster, path: Path) -> None:
    done = kubectl(cluster, "apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert done.returncode == 0, done.stderr


def test_there_are_at_least_forty_mistakes() -> None:
    assert len({mistake.id for mistake in MISTAKES}) == len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_is_refused_at_apply_with_path_and_expectation(
    cluster: Cluster, mistake: Mistake
) -> None:
    done = dry_run(cluster, changed(mistake.example, mistake.at, mistake.value))
    assert done.returncode != 0, "accepted"
    assert mistake.path in done.stderr, done.stderr
    assert mistake.expected in done.stderr, done.stderr


@pytest.fixture(scope="module")
def existing(cluster: Cluster) -> Cluster:
    for example in {mistake.example for mistake in IMMUTABLE}:
        done = kubectl(cluster, "apply", "-f", "-", body=changed(example, "policy.suspend", True))
        assert done.returncode == 0, done.stderr
    return cluster


@pytest.mark.parametrize("mistake", IMMUTABLE, ids=lambda mistake: mistake.id)
def test_what_would_invalidate_a_run_cannot_be_changed(existing: Cluster, mistake: Mistake) -> None:
    done = dry_run(existing, changed(mistake.example, mistake.at, mistake.value))
    assert done.returncode != 0, "accepted"
    assert mistake.path in done.stderr, done.stderr
    assert mistake.expected in done.stderr, done.stderr


@pytest.mark.parametrize(("at", "value"), MUTABLE, ids=str)
def test_what_may_change_can_be_changed(existing: Cluster, at: str, value: Any) -> None:
    done = dry_run(existing, changed("pretrain-bert.yaml", at, value))
    assert done.returncode == 0, done.stderr


def test_numbers_in_scientific_notation_are_integers(cluster: Cluster) -> None:
    body = changed("pretrain-bert.yaml", "training.tokens", 1000)
    body["metadata"]["name"] = "scientific"
    text = json.dumps(body).replace('"tokens": 1000', '"tokens": 1e9')
    done = kubectl(cluster, "apply", "--dry-run=server", "-o", "json", "-f", "-", text=text)
    assert json.loads(done.stdout)["spec"]["training"]["tokens"] == 1_000_000_000


def test_defaults_are_written_out_by_the_server(cluster: Cluster) -> None:
    body = changed("finetune-sentiment.yaml", "policy.suspend", True)
    done = kubectl(cluster, "apply", "--dry-run=server", "-o", "json", "-f", "-", body=body)
    spec = json.loads(done.stdout)["spec"]
    assert spec["training"]["optimizer"]["type"] == "AdamW"
    assert spec["checkpoint"]["interval"] == "10m"
    assert spec["policy"]["retry"]["crash"] == 3
