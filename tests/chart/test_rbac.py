"""Who may do what."""

from typing import Any

import pytest

from chart.helm import Helm, Manifest, of_kind
from chart.matrix import MATRIX

ROLES = ("Role", "ClusterRole")
BINDINGS = ("RoleBinding", "ClusterRoleBinding")


def every(manifests: list[Manifest], kinds: tuple[str, ...]) -> list[Manifest]:
    return [manifest for kind in kinds for manifest in of_kind(manifests, kind)]


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_no_rule_has_a_wildcard(helm: Helm, values: dict[str, Any]) -> None:
    for role in every(helm.render(values=values), ROLES):
        for rule in role["rules"]:
            assert rule.keys() - {"resourceNames"} == {"apiGroups", "resources", "verbs"}
            assert not any("*" in entry for entries in rule.values() for entry in entries)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_every_binding_binds_a_role_of_the_chart_to_its_account(
    helm: Helm, values: dict[str, Any]
) -> None:
    manifests = helm.render(values=values)
    (deployment,) = of_kind(manifests, "Deployment")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    roles = {
        (role["kind"], role["metadata"].get("namespace"), role["metadata"]["name"])
        for role in every(manifests, ROLES)
    }
    for binding in every(manifests, BINDINGS):
        role, namespace = binding["roleRef"], binding["metadata"].get("namespace")
        assert (role["kind"], namespace, role["name"]) in roles
        (subject,) = binding["subjects"]
        assert subject == {
            "kind": "ServiceAccount",
            "name": account,
            "namespace": deployment["metadata"]["namespace"],
        }


def test_watched_namespaces_get_a_role_each_and_the_cluster_none(helm: Helm) -> None:
    manifests = helm.render(values=MATRIX["two namespaces"])
    for kind in ("Role", "RoleBinding"):
        namespaces = [m["metadata"]["namespace"] for m in of_kind(manifests, kind)]
        assert namespaces == ["chart-a", "chart-b"]
    assert not of_kind(manifests, "ClusterRoleBinding")
    (wide,) = of_kind(helm.render(), "ClusterRoleBinding")
    (role,) = [
        role
        for role in of_kind(helm.render(), "ClusterRole")
        if role["metadata"]["name"] == wide["roleRef"]["name"]
    ]
    assert role["rules"] == of_kind(manifests, "Role")[0]["rules"]
