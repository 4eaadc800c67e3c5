"""Prometheus, scraping the pods that ask for it by annotation, as most clusters' does."""

import json
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cluster import certificates, processes
from cluster.kubectl import Kubectl
from cluster.settings import PLACES, PORTS

URL = f"http://127.0.0.1:{PORTS.prometheus}"
RULES = PLACES.run / "prometheus-rules"
"""Rule files put here are read on a POST to /-/reload."""
POD = "__meta_kubernetes_pod"

RELABELING = [
    {
        "action": "keep",
        "source_labels": [f"{POD}_annotation_prometheus_io_scrape"],
        "regex": "true",
    },
    {"action": "drop", "source_labels": [f"{POD}_phase"], "regex": "Pending|Succeeded|Failed"},
    # One target a pod, at the annotated port: several declared ports would be several targets,
    # and identical ones are scraped once.
    {
        "source_labels": [f"{POD}_ip", f"{POD}_annotation_prometheus_io_port"],
        "separator": ":",
        "target_label": "__address__",
    },
    {
        "source_labels": [f"{POD}_annotation_prometheus_io_path"],
        "regex": "(.+)",
        "target_label": "__metrics_path__",
    },
    {
        "action": "labelmap",
        "regex": f"{POD}_label_(troika_dev_.+|app_kubernetes_io_.+)",
    },
    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
    {"source_labels": [f"{POD}_name"], "target_label": "pod"},
]

ACCESS = (
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:prometheus"},
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:prometheus"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:prometheus",
        },
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:prometheus"}
        ],
    },
)


def start(program: Path, kubectl: Kubectl) -> None:
    """Start Prometheus with an empty store."""
    kubectl.apply(ACCESS)
    storage = PLACES.state / "prometheus"
    shutil.rmtree(storage, ignore_errors=True)
    RULES.mkdir()
    config = PLACES.run / "prometheus.json"
    config.write_text(json.dumps(_config()))
    command: processes.Command = [
        *(program, f"--config.file={config}", f"--storage.tsdb.path={storage}"),
        *(f"--web.listen-address=127.0.0.1:{PORTS.prometheus}", "--web.enable-lifecycle"),
        "--log.level=warn",
    ]
    processes.start("prometheus", command)


def is_ready() -> bool:
    """Whether Prometheus answers queries."""
    try:
        with urllib.request.urlopen(f"{URL}/-/ready", timeout=3):
            return True
    except OSError:
        return False


def query(expression: str) -> list[dict[str, Any]]:
    """The series that a PromQL expression gives now."""
    asked = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{URL}/api/v1/query?{asked}", timeout=10) as answer:
        series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return series


def _config() -> dict[str, object]:
    discovery = {
        "role": "pod",
        "kubeconfig_file": str(certificates.kubeconfig("prometheus")),
    }
    return {
        "global": {
            "scrape_interval": "5s",
            "scrape_timeout": "4s",
            "evaluation_interval": "5s",
        },
        "rule_files": [f"{RULES}/*.yaml"],
        "scrape_configs": [
            {
                "job_name": "pods",
                "kubernetes_sd_configs": [discovery],
                "relabel_configs": RELABELING,
            }
        ],
    }
