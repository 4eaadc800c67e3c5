"""The CRDs are generated from the models, committed, and structural."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from troika_api.__main__ import render
from troika_api.crd import KINDS, definition, structural
from troika_api.metrics import OPERATOR_METRICS, TRAINER_METRICS
from troika_api.v1alpha1.base import INT_OR_STRING

ROOT = Path(__file__).parents[3]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for key, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def schemas() -> list[Any]:
    return [
        pytest.param(
            definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"], id=kind.__name__
        )
        for kind in KINDS
    ]


@pytest.mark.parametrize("name", sorted(render()))
def test_the_committed_crd_is_what_the_models_say(name: str) -> None:
    assert (ROOT / "crds" / name).read_text() == render()[name], "run `make gen`"


@pytest.mark.parametrize("schema", schemas())
def test_every_node_is_typed_and_has_no_leftovers_of_json_schema(schema: dict[str, Any]) -> None:
    for path, node in nodes(schema):
        assert "type" in node or node.get(INT_OR_STRING), path
        leftovers = {"$ref", "anyOf", "allOf", "title", "const", "$defs"} & node.keys()
        assert not leftovers, f"{path}: {leftovers}"


@pytest.mark.parametrize("schema", schemas())
def test_every_field_says_what_it_is_for(schema: dict[str, Any]) -> None:
    for path, node in nodes({"type": "object", "properties": schema["properties"]}):
        parent, _, field = path.rpartition(".")
        if field in ("", "apiVersion", "kind", "metadata") or path.endswith("[]") or not parent:
            continue
        assert node.get("description"), f"{path} has no docstring"


@pytest.mark.parametrize("schema", schemas())
def test_strings_lists_and_maps_of_the_spec_are_bounded(schema: dict[str, Any]) -> None:
    for path, node in nodes(schema["properties"]["spec"]):
        if node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if isinstance(node.get("additionalProperties"), dict):
            assert "maxProperties" in node, path


def test_a_union_is_refused_since_kubernetes_has_none() -> None:
    class Model(BaseModel):
        value: int | str

    with pytest.raises(ValueError, match="no unions"):
        structural(Model.model_json_schema())


def test_the_union_that_kubernetes_has_is_bounded_by_a_rule() -> None:
    (node,) = [
        node
        for path, node in nodes(
            definition(KINDS[0])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        )
        if path == ".spec.training.microBatchSize"
    ]
    assert node.keys() == {INT_OR_STRING, "x-kubernetes-validations", "description"}


def test_exclusive_bounds_take_the_form_of_openapi_3_0() -> None:
    assert structural({"type": "number", "exclusiveMinimum": 0}) == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
    }


def test_names_columns_and_subresource() -> None:
    for kind in KINDS:
        spec = definition(kind)["spec"]
        assert spec["names"]["categories"] == ["troika"]
        assert spec["names"]["shortNames"] == [kind.short_name]
        version = spec["versions"][0]
        assert version["subresources"] == {"status": {}}
        names = [column["name"] for column in version["additionalPrinterColumns"]]
        assert names[:4] == ["Phase", "Step", "Progress", "Loss"]


def test_crds_are_small_enough_for_a_client_side_apply() -> None:
    for text in render().values():
        assert len(yaml.safe_dump(yaml.safe_load(text))) < 256 * 1024


@pytest.mark.parametrize("metric", [*TRAINER_METRICS, *OPERATOR_METRICS], ids=lambda m: m.name)
def test_metric_names_follow_the_conventions(metric: Any) -> None:
    assert metric.name.startswith("troika_")
    assert (metric.type == "counter") == metric.name.endswith("_total")
    assert metric.help.endswith(".")
    assert not {"uid", "pod", "step"} & set(metric.labels) or metric.name == "troika_job_info"
