"""What the chart makes of its values, without a cluster."""

from typing import Any

import pytest

from chart.helm import CHART, PROMETHEUS_OPERATOR, RELEASE, Helm, container, of_kind, only
from chart.matrix import MATRIX

matrix = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())


@matrix
def test_helm_finds_nothing_to_complain_about(helm: Helm, values: dict[str, Any]) -> None:
    done = helm("lint", "--strict", CHART, values=values)
    assert done.returncode == 0, done.stdout + done.stderr


@matrix
def test_no_two_objects_share_a_name(helm: Helm, values: dict[str, Any]) -> None:
    names = [
        (m["apiVersion"], m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"])
        for m in helm.render(values=values)
    ]
    assert len(names) == len(set(names))


@matrix
def test_the_selector_is_part_of_the_pods_labels_and_no_upgrade_changes_it(
    helm: Helm, values: dict[str, Any]
) -> None:
    manifests = helm.render(values=values)
    deployment = only(manifests, "Deployment")["spec"]
    selector = deployment["selector"]["matchLabels"]
    assert selector == {
        "app.kubernetes.io/name": values.get("nameOverride", "troika"),
        "app.kubernetes.io/instance": RELEASE,
    }
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()
    assert only(manifests, "Service")["spec"]["selector"] == selector


def test_annotations_of_the_user_win_and_stand_there_once(helm: Helm) -> None:
    text = helm.template(values={"podAnnotations": {"prometheus.io/scrape": "false"}}).stdout
    assert [line.strip() for line in text.splitlines() if "prometheus.io/scrape" in line] == [
        'prometheus.io/scrape: "false"'
    ]


def test_lists_and_maps_may_be_left_empty(helm: Helm) -> None:
    empty = ("watchNamespaces", "podLabels", "podAnnotations", "extraEnv", "tolerations")
    assert helm.render(values=dict.fromkeys(empty)) == helm.render()


def images(helm: Helm, values: dict[str, Any]) -> tuple[str, str]:
    operator = container(helm.render(values=values))
    environment = {variable["name"]: variable.get("value") for variable in operator["env"]}
    return operator["image"], environment["TROIKA_TRAINER_IMAGE"]


@pytest.mark.parametrize(
    ("values", "operator", "trainer"),
    [
        pytest.param({}, "troika-operator:0.1.0", "troika-trainer:0.1.0", id="defaults"),
        pytest.param(
            MATRIX["side-loaded images"],
            "localhost/troika-operator:dev",
            "localhost/troika-trainer:dev",
            id="the trainer follows the operator",
        ),
        pytest.param(
            MATRIX["private registry"],
            "registry.example.com:5000/team/troika-operator@sha256:" + "0" * 64,
            "other.example.com/troika-trainer:cuda13",
            id="unless it says otherwise, and a digest is one image's only",
        ),
    ],
)
def test_image_references(helm: Helm, values: dict[str, Any], operator: str, trainer: str) -> None:
    assert images(helm, values) == (operator, trainer)


def test_labels_of_the_user_do_not_replace_ours(helm: Helm) -> None:
    manifests = helm.render(values=MATRIX["placed and labelled"])
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "research"
    assert labels["app.kubernetes.io/name"] == "troika"


@matrix
def test_the_pod_is_restricted(helm: Helm, values: dict[str, Any]) -> None:
    manifests = helm.render(values=values)
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert all("emptyDir" in volume for volume in pod["volumes"])
    assert container(manifests)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_pod_monitors_need_a_cluster_that_serves_them(helm: Helm) -> None:
    done = helm.template(values={"metrics": {"podMonitor": {"enabled": True}}})
    assert done.returncode != 0
    assert "metrics.podMonitor.enabled: the cluster does not serve" in done.stderr


@pytest.mark.parametrize(
    ("watched", "selected"),
    [([], {"any": True}), (["a", "b"], {"matchNames": ["a", "b"]})],
    ids=["all namespaces", "two namespaces"],
)
def test_pod_monitors_follow_the_operator_and_its_trainers(
    helm: Helm, watched: list[str], selected: dict[str, Any]
) -> None:
    monitor = {"enabled": True, "interval": "15s", "additionalLabels": {"release": "prometheus"}}
    values = {"metrics": {"podMonitor": monitor}, "watchNamespaces": watched}
    monitors = of_kind(helm.render(PROMETHEUS_OPERATOR, values=values), "PodMonitor")
    by_name = {found["metadata"]["name"]: found for found in monitors}
    assert by_name.keys() == {"troika", "troika-trainer"}
    assert by_name["troika-trainer"]["spec"]["namespaceSelector"] == selected
    for found in monitors:
        assert found["metadata"]["labels"]["release"] == "prometheus"
        (endpoint,) = found["spec"]["podMetricsEndpoints"]
        # The operator's series are of jobs in other namespaces than its own, and say so.
        honors = {"honorLabels": True} if found["metadata"]["name"] == "troika" else {}
        assert endpoint == {"port": "metrics", "interval": "15s", **honors}


def test_a_user_without_cluster_rights_can_install_it(helm: Helm) -> None:
    manifests = helm.render(values=MATRIX["nothing cluster-wide"])
    assert all(manifest["metadata"].get("namespace") for manifest in manifests)
