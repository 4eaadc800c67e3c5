"""The embedded cluster itself: what every other test on it takes for granted."""

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import cleanup, processes, up
from cluster.kubectl import Kubectl
from support.waiting import wait_until

pytestmark = pytest.mark.cluster

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Workspace:
    """A namespace that enforces restricted Pod Security, and shorthands to work in it."""

    def __init__(self, kubectl: Kubectl, image: str) -> None:
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.kubectl = kubectl
        self.image = image
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace"}
        self.kubectl.apply([{**namespace, "metadata": {"name": self.name, "labels": labels}}])

    def apply(self, *manifests: dict[str, Any]) -> None:
        placed = ({**m, "metadata": {**m["metadata"], "namespace": self.name}} for m in manifests)
        self.kubectl.apply(placed)

    def pod(self, name: str, script: str, **spec: Any) -> dict[str, Any]:
        container = {
            "name": "main",
            "image": self.image,
            "imagePullPolicy": "Never",
            "command": ["python3", "-uc", script],
            "securityContext": RESTRICTED,
            **spec.pop("container", {}),
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [container],
                **spec,
            },
        }

    def phase(self, pod: str) -> str:
        path = "-o=jsonpath={.status.phase}"
        return self.kubectl("get", "pod", pod, f"--namespace={self.name}", path)

    def logs(self, pod: str) -> str:
        return self.kubectl("logs", pod, f"--namespace={self.name}")

    def succeeded(self, pod: str) -> str:
        """Wait until the pod has succeeded, and return what it printed."""
        ended = ("Succeeded", "Failed")
        wait_until(
            lambda: self.phase(pod) in ended, f"the end of {pod}", seen=lambda: self.phase(pod)
        )
        assert self.phase(pod) == "Succeeded", self.logs(pod)
        return self.logs(pod)


@pytest.fixture(scope="module")
def embedded() -> up.Cluster:
    return up.ensure_up()


@pytest.fixture
def workspace(embedded: up.Cluster) -> Iterator[Workspace]:
    space = Workspace(embedded.admin, embedded.base_image)
    yield space
    embedded.admin("delete", "namespace", space.name, "--wait=false", "--ignore-not-found")


def test_up_reuses_a_healthy_cluster(embedded: up.Cluster) -> None:
    before = processes.recorded()
    assert up.ensure_up() == embedded
    assert processes.recorded() == before


def test_pods_find_each_other_by_headless_service_name(workspace: Workspace) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ring"},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"group": "ring"},
            "ports": [{"port": 2000}],
        },
    }
    listen = "import socket; s = socket.create_server(('', 2000)); s.accept()[0].sendall(b'hello')"
    call = """
import socket, time
for _ in range(150):
    try:
        print(socket.create_connection(("zero.ring", 2000), timeout=1).recv(5).decode())
        break
    except OSError:
        time.sleep(0.1)
socket.create_connection(("kubernetes.default", 443), timeout=3)
"""
    pods = [
        workspace.pod(name, script, hostname=name, subdomain="ring")
        for name, script in (("zero", listen), ("one", call))
    ]
    for pod in pods:
        pod["metadata"]["labels"]["group"] = "ring"
    workspace.apply(service, *pods)
    assert workspace.succeeded("one") == "hello\n"


def test_two_pods_share_a_claimed_volume(workspace: Workspace) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "shared"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    mounted = {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "shared"}}],
        "container": {"volumeMounts": [{"name": "v", "mountPath": "/shared"}]},
    }
    write = "import os; os.makedirs('/shared/a'); open('/shared/a/b', 'w').write('written')"
    workspace.apply(claim, workspace.pod("writer", write, **mounted))
    workspace.succeeded("writer")
    workspace.apply(workspace.pod("reader", "print(open('/shared/a/b').read())", **mounted))
    assert workspace.succeeded("reader") == "written\n"


def test_a_pod_that_is_not_restricted_is_refused(workspace: Workspace) -> None:
    privileged = workspace.pod("root", "", container={"securityContext": {"privileged": True}})
    with pytest.raises(Exception, match="violates PodSecurity"):
        workspace.apply(privileged)


def test_a_gang_waits_until_all_of_it_fits(embedded: up.Cluster, workspace: Workspace) -> None:
    group = {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": "gang"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 3}}},
    }
    four_gpus = {"resources": {"limits": {"nvidia.com/gpu": 4}}}
    names = ("g0", "g1", "g2")
    members = [
        workspace.pod(name, "", schedulingGroup={"podGroupName": "gang"}, container=four_gpus)
        for name in names
    ]
    workspace.apply(group, *members)
    wait_until(
        lambda: "Unschedulable" in gang_conditions(workspace),
        "a gang that is held",
        seen=lambda: gang_conditions(workspace),
    )
    assert {workspace.phase(name) for name in names} == {"Pending"}
    embedded.set_gpus(12)
    try:
        for name in names:
            workspace.succeeded(name)
    finally:
        embedded.set_gpus(8)


def gang_conditions(workspace: Workspace) -> str:
    group = workspace.kubectl.get("podgroup", "gang", f"--namespace={workspace.name}")
    return json.dumps(group.get("status", {}))


def test_prometheus_scrapes_annotated_pods(embedded: up.Cluster, workspace: Workspace) -> None:
    serve = """
import http.server
class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"answer 42\\n")
http.server.HTTPServer(("", 8000), Metrics).serve_forever()
"""
    pod = workspace.pod("exporter", serve)
    pod["metadata"]["annotations"] = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8000",
        "prometheus.io/path": "/metrics",
    }
    pod["metadata"]["labels"]["app.kubernetes.io/name"] = "exporter"
    workspace.apply(pod)

    def scraped() -> bool:
        series = embedded.query(f'answer{{namespace="{workspace.name}"}}')
        return [(s["metric"]["app_kubernetes_io_name"], s["value"][1]) for s in series] == [
            ("exporter", "42")
        ]

    wait_until(scraped, "a scrape")


@pytest.mark.disruptive
def test_a_cluster_that_was_killed_comes_back_clean(
    embedded: up.Cluster, workspace: Workspace
) -> None:
    workspace.apply(workspace.pod("sleeper", "import time; time.sleep(600)"))
    wait_until(lambda: workspace.phase("sleeper") == "Running", "the sleeper")
    before = processes.recorded()
    for process in before.values():
        os.kill(process.pid, signal.SIGKILL)
    again = up.ensure_up()
    assert not set(processes.recorded().values()) & set(before.values())
    assert not processes.find("python3", "time.sleep(600)")
    assert again.admin.get("pods", "--all-namespaces")["items"] == []
    fresh = Workspace(again.admin, again.base_image)
    fresh.apply(fresh.pod("hello", "print('hello')"))
    assert fresh.succeeded("hello") == "hello\n"


@pytest.mark.disruptive
def test_down_leaves_nothing_behind(embedded: up.Cluster) -> None:
    up.take_down()
    assert "troika" not in Path("/proc/self/mountinfo").read_text()
    assert not Path("/sys/class/net/troika0").exists()
    assert not cleanup.leftovers()
    assert up.ensure_up() == embedded
