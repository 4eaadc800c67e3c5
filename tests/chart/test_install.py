"""The chart against a real API server: its objects are accepted, and a release lives and goes."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.helm import CHART, ROOT, Helm
from chart.matrix import MATRIX
from chart.notes import first_job
from cluster.up import Cluster, ensure_up
from support.waiting import wait_until

pytestmark = pytest.mark.cluster

NAMESPACE = "chart-release"
WATCHED = ("chart-a", "chart-b")
GROUP = "chart-tests.troika.dev"
"""CRDs of a group of their own, so that no test changes those of a running operator."""


def kubectl(
    cluster: Cluster, *arguments: str | Path, body: Any = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", *arguments],
        input=None if body is None else json.dumps(body),
        capture_output=True,
        text=True,
        check=False,
    )


def run(cluster: Cluster, *arguments: str | Path, body: Any = None) -> str:
    done = kubectl(cluster, *arguments, body=body)
    assert done.returncode == 0, done.stderr
    return done.stdout


def get(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(run(cluster, "get", *arguments, "-o", "json"))


def manifests_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = ensure_up()
    # Those of an earlier run may be on their way out.
    run(cluster, "delete", "namespace", NAMESPACE, *WATCHED, "--ignore-not-found")
    namespaces = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": {
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/warn": "restricted",
                },
            },
        }
        for name in (NAMESPACE, *WATCHED)
    ]
    run(cluster, "apply", "--server-side", "-f", "-", body=manifests_of(namespaces))
    yield cluster
    run(cluster, "delete", "namespace", NAMESPACE, *WATCHED, "--wait=false")


@pytest.fixture
def release(cluster: Cluster) -> Iterator[Helm]:
    """Helm with the cluster; whatever release a test leaves is uninstalled."""
    helm = Helm(cluster.helm, cluster.kubeconfig, NAMESPACE)
    yield helm
    helm("uninstall", "release", "--ignore-not-found", "--wait")
    kubectl(cluster, "delete", "crd", "--ignore-not-found", *crd_names())


def crd_names() -> list[str]:
    return [f"{kind}.{GROUP}" for kind in ("pretrainjobs", "finetunejobs")]


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def server_dry_run(cluster: Cluster, items: list[dict[str, Any]]) -> str:
    """What the API server says to the objects, warnings included."""
    arguments = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
    done = kubectl(cluster, *arguments, body=manifests_of(items))
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_api_server_takes_every_object_without_a_warning(
    cluster: Cluster, helm: Helm, values: dict[str, Any]
) -> None:
    warnings = server_dry_run(cluster, Helm(helm.program, None, NAMESPACE).render(values=values))
    assert not warnings


def test_the_api_server_would_warn_of_a_pod_that_is_not_restricted(
    cluster: Cluster, helm: Helm
) -> None:
    values = {"securityContext": {"allowPrivilegeEscalation": True}}
    warnings = server_dry_run(cluster, Helm(helm.program, None, NAMESPACE).render(values=values))
    assert "would violate PodSecurity" in warnings


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> None:
    """The cluster serves our kinds."""
    run(cluster, "apply", "--server-side", "--force-conflicts", "-f", ROOT / "crds")
    crds = ("crd/pretrainjobs.troika.dev", "crd/finetunejobs.troika.dev")
    run(cluster, "wait", "--for=condition=Established", *crds, "--timeout=30s")


def test_the_api_server_takes_the_first_job_of_the_notes(cluster: Cluster, served: None) -> None:
    body = manifests_of(first_job())
    run(cluster, "create", "-n", WATCHED[0], "--dry-run=server", "-f", "-", body=body)


class Copy:
    """A copy of the chart whose CRDs a test may change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "troika"
        shutil.copytree(CHART, self.path)
        for file in (self.path / "files/crds").iterdir():
            crd = yaml.safe_load(file.read_text())
            crd["metadata"]["name"] = f"{crd['spec']['names']['plural']}.{GROUP}"
            crd["spec"]["group"] = GROUP
            # Short names are shared by all groups; these would hide the real ones.
            del crd["spec"]["names"]["shortNames"], crd["spec"]["names"]["categories"]
            file.write_text(yaml.safe_dump(crd))

    def change_crds(self) -> None:
        """Add a field to every spec, and take away the last printer column."""
        for file in (self.path / "files/crds").iterdir():
            crd = yaml.safe_load(file.read_text())
            (version,) = crd["spec"]["versions"]
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"]["spec"]["properties"]["note"] = {"type": "string"}
            version["additionalPrinterColumns"].pop()
            file.write_text(yaml.safe_dump(crd))


def test_an_upgrade_brings_new_crds_and_an_uninstall_leaves_them_with_their_jobs(
    cluster: Cluster, release: Helm, tmp_path: Path
) -> None:
    chart = Copy(tmp_path)
    succeed(release("install", "release", chart.path))
    run(cluster, "wait", "--for=condition=Established", "crd", *crd_names(), "--timeout=30s")
    _, job = first_job()
    job |= {"apiVersion": f"{GROUP}/v1alpha1"}
    job["spec"]["note"] = "kept from the upgrade on"
    run(cluster, "apply", "-n", NAMESPACE, "--validate=ignore", "-f", "-", body=job)
    named = (f"pretrainjobs.{GROUP}", job["metadata"]["name"], "-n", NAMESPACE)
    assert "note" not in get(cluster, *named)["spec"]
    (before,) = get(cluster, "crd", crd_names()[0])["spec"]["versions"]

    chart.change_crds()
    succeed(release("upgrade", "release", chart.path))
    (after,) = get(cluster, "crd", crd_names()[0])["spec"]["versions"]
    assert after["additionalPrinterColumns"] == before["additionalPrinterColumns"][:-1]

    def the_field_stays() -> bool:
        run(cluster, "replace", "-n", NAMESPACE, "--validate=ignore", "-f", "-", body=job)
        return "note" in get(cluster, *named)["spec"]

    wait_until(the_field_stays, "a field that stays")

    succeed(release("uninstall", "release", "--wait"))
    assert not get(
        cluster,
        "deployments,services,serviceaccounts",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/instance=release",
    )["items"]
    assert get(cluster, *named)["spec"]["note"]

    succeed(release("install", "release", chart.path))
    assert get(cluster, *named)["spec"]["note"]


def test_an_uninstall_removes_the_crds_where_that_is_asked_for(
    cluster: Cluster, release: Helm, tmp_path: Path
) -> None:
    succeed(release("install", "release", Copy(tmp_path).path, values={"crds": {"keep": False}}))
    assert get(cluster, "crd", *crd_names())["items"]
    succeed(release("uninstall", "release", "--wait"))
    assert kubectl(cluster, "get", "crd", *crd_names()).returncode != 0


def allowed(
    cluster: Cluster, who: dict[str, Any], asked: list[tuple[str, str, str, str]]
) -> list[bool]:
    """Whether the API server lets someone do each (verb, group, resource, namespace)."""
    reviews = []
    for verb, group, resource, namespace in asked:
        name, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb,
            "group": group,
            "resource": name,
            "subresource": subresource,
            "namespace": namespace,
        }
        reviews.append(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {**who, "resourceAttributes": attributes},
            }
        )
    answers = "jsonpath={.status.allowed}{'\\n'}"
    answered = run(cluster, "create", "-o", answers, "-f", "-", body=manifests_of(reviews))
    return [answer == "true" for answer in answered.split()]


def operator_of(helm: Helm) -> dict[str, Any]:
    namespace = helm.namespace
    return {
        "user": f"system:serviceaccount:{namespace}:release-troika",
        "groups": ["system:serviceaccounts", "system:authenticated"],
    }


FORBIDDEN = [
    ("get", "", "secrets"),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
    ("create", "", "serviceaccounts/token"),
    ("create", "apps", "deployments"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("delete", "troika.dev", "pretrainjobs"),
    ("update", "troika.dev", "finetunejobs"),
    ("patch", "troika.dev", "finetunejobs"),
    ("list", "", "nodes"),
    ("list", "apiextensions.k8s.io", "customresourcedefinitions"),
]


def test_the_operator_may_do_what_its_rules_say_and_nothing_else(
    cluster: Cluster, release: Helm
) -> None:
    succeed(release("install", "release", CHART, values={"crds": {"enabled": False}}))
    rules = get(cluster, "clusterrole", "release-troika")["rules"]
    granted = [
        (verb, group, resource, WATCHED[0])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    who = operator_of(release)
    assert all(allowed(cluster, who, granted))
    assert not any(allowed(cluster, who, [(*action, WATCHED[0]) for action in FORBIDDEN]))

    only_a = {"crds": {"enabled": False}, "watchNamespaces": [WATCHED[0]]}
    succeed(release("upgrade", "release", CHART, values=only_a))
    elsewhere = [(*action[:3], WATCHED[1]) for action in granted]
    assert all(allowed(cluster, who, granted))
    assert not any(allowed(cluster, who, elsewhere))


@pytest.mark.parametrize("role", ["view", "edit"])
def test_the_clusters_own_roles_see_and_write_jobs(
    cluster: Cluster, release: Helm, role: str
) -> None:
    succeed(release("install", "release", CHART, values={"crds": {"enabled": False}}))
    actions = [
        (verb, "troika.dev", kind, WATCHED[0])
        for kind in ("pretrainjobs", "finetunejobs")
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete")
    ]
    expected = [role == "edit" or verb in ("get", "list", "watch") for verb, *_ in actions]
    user = f"{role}er"
    binding = (role, "-n", WATCHED[0], f"--clusterrole={role}", f"--user={user}")
    run(cluster, "create", "rolebinding", *binding)
    # A controller of the cluster aggregates roles a moment after they were made.
    wait_until(lambda: allowed(cluster, {"user": user}, actions) == expected, "the role's rights")


def answer(cluster: Cluster, path: str) -> str:
    """What the operator's Service answers, through the API server."""
    service = f"/api/v1/namespaces/{NAMESPACE}/services/release-troika:metrics/proxy"
    return run(cluster, "get", "--raw", f"{service}{path}")


@pytest.mark.timeout(900)  # builds the operator's image where nobody did before
def test_the_operator_gets_ready_with_these_rights_and_hands_over(
    cluster: Cluster, served: None, release: Helm
) -> None:
    registry, _, name = cluster.image("operator").rpartition("/")
    repository, _, tag = name.partition(":")
    image = {"registry": registry, "repository": repository, "tag": tag, "pullPolicy": "Never"}
    # One namespace, without jobs: the operator of other tests may be at work elsewhere.
    values = {"image": image, "watchNamespaces": [WATCHED[0]], "crds": {"enabled": False}}
    wait = ("--wait", "--timeout=120s")

    succeed(release("install", "release", CHART, *wait, values=values))
    assert answer(cluster, "/readyz") == "ok\n"
    assert "troika_operator_leader 1.0" in answer(cluster, "/metrics")
    assert not get(cluster, "leases", "-n", NAMESPACE)["items"]

    succeed(release("upgrade", "release", CHART, *wait, values={**values, "replicas": 2}))

    def leads() -> bool:
        leases = get(cluster, "leases", "-n", NAMESPACE)["items"]
        holders = [lease["spec"]["holderIdentity"] for lease in leases]
        pods = get(cluster, "pods", "-n", NAMESPACE)["items"]
        running = [pod["metadata"]["name"] for pod in pods]
        return len(running) == 2 and len(holders) == 1 and holders[0] in running

    wait_until(leads, "a leader among two replicas")
    logs = run(cluster, "logs", "-n", NAMESPACE, "deployment/release-troika", "--all-pods")
    assert "forbidden" not in logs.lower()
