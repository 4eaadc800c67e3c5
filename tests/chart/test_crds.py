"""The CRDs in the chart are the generated ones, and stay when the release goes."""

from typing import Any

import pytest
import yaml

from chart.helm import CHART, ROOT, Helm, of_kind

SOURCES: dict[str, dict[str, Any]] = {
    path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text())
    for path in (ROOT / "crds").glob("*.yaml")
}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "not kept"])
def test_the_chart_renders_the_generated_crds(helm: Helm, *, keep: bool) -> None:
    rendered = of_kind(helm.render(values={"crds": {"keep": keep}}), "CustomResourceDefinition")
    found = {crd["metadata"]["name"]: crd for crd in rendered}
    for crd in rendered:
        annotations = crd["metadata"].pop("annotations", {})
        assert (annotations.get("helm.sh/resource-policy") == "keep") is keep
    assert found == SOURCES


def test_the_crds_can_be_left_out(helm: Helm) -> None:
    rendered = helm.render(values={"crds": {"enabled": False}})
    assert not of_kind(rendered, "CustomResourceDefinition")


def test_the_chart_lists_its_crds_for_artifact_hub() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    listed = yaml.safe_load(annotations["artifacthub.io/crds"])
    assert {(crd["name"], crd["kind"], crd["version"]) for crd in listed} == {
        (name, crd["spec"]["names"]["kind"], crd["spec"]["versions"][0]["name"])
        for name, crd in SOURCES.items()
    }
