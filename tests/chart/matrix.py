"""Sets of values that the chart must make valid objects of."""

from typing import Any

MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "side-loaded images": {
        "image": {"registry": "localhost", "tag": "dev", "pullPolicy": "Never"},
    },
    "private registry": {
        "image": {
            "registry": "registry.example.com:5000/team/",
            "digest": "sha256:" + "0" * 64,
        },
        "trainer": {"image": {"registry": "other.example.com", "tag": "cuda13"}},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "two namespaces": {"watchNamespaces": ["chart-a", "chart-b"]},
    "nothing cluster-wide": {
        "watchNamespaces": ["chart-a"],
        "crds": {"enabled": False},
        "rbac": {"aggregate": False},
    },
    "roles made elsewhere": {
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "mine"},
    },
    "CRDs go with the release": {"crds": {"keep": False}},
    "other names": {"fullnameOverride": "horses", "nameOverride": "horse"},
    "placed and labelled": {
        "serviceAccount": {"annotations": {"example.com/role": "trainer"}},
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "extraEnv": [
            {"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "podLabels": {"team": "research", "app.kubernetes.io/name": "not-ours-to-change"},
        "podAnnotations": {"example.com/note": "42"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control-plane", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}
                    ]
                }
            }
        },
        "priorityClassName": "system-cluster-critical",
    },
    "three operators": {"replicas": 3, "watchNamespaces": ["chart-a"]},
    "a platform that chooses users": {"trainer": {"runAsUser": None, "fsGroup": None}},
    "other port, no annotations": {"metrics": {"port": 9000, "annotations": False}},
}
