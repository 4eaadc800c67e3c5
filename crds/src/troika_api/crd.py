"""pydantic models -> CustomResourceDefinitions with structural schemas."""

from typing import Any

from .v1alpha1.base import INT_OR_STRING
from .v1alpha1.finetune import FinetuneJob
from .v1alpha1.pretrain import PretrainJob
from .v1alpha1.resource import GROUP, PRINTER_COLUMNS, VERSION, Resource

KINDS: tuple[type[Resource], ...] = (PretrainJob, FinetuneJob)
Schema = dict[str, Any]

_DROPPED = ("title", "discriminator")


def structural(schema: Schema, definitions: Schema | None = None) -> Schema:
    """A JSON Schema of pydantic's as a structural schema of Kubernetes'.

    Structural means: no $ref, no null type, every node typed, bounds in the draft-4 form.
    See https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions
    """
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    node = {key: value for key, value in schema.items() if key != "$defs"}
    node = _resolve(node, definitions)
    for key in _DROPPED:
        node.pop(key, None)
    if "const" in node:
        node["enum"] = [node.pop("const")]
        node.setdefault("type", "string")
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in node:
            node[bound.lower()] = node.pop(f"exclusive{bound}")
            node[f"exclusive{bound}"] = True
    if node.get("type") == "object":
        _object(node, definitions)
    elif node.get("type") == "array":
        node["items"] = structural(node["items"], definitions)
        node.pop("prefixItems", None)
    if "default" in node:
        _default(node)
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    return node


def _resolve(node: Schema, definitions: Schema) -> Schema:
    """Inlines $ref and unwraps `X | None`; what stands beside the reference wins."""
    if "anyOf" in node:
        options = [option for option in node.pop("anyOf") if option.get("type") != "null"]
        if len(options) != 1:
            raise ValueError(f"a structural schema has no unions: {options}")
        node = _merge(options[0], node)
        if node.get(INT_OR_STRING):
            node.pop("anyOf")  # its CEL rule says which numbers and which texts
            return node
    if "allOf" in node:
        for part in node.pop("allOf"):
            node = _merge(part, node)
    if "$ref" in node:
        name = node.pop("$ref").rsplit("/", 1)[-1]
        return _resolve(_merge(definitions[name], node), definitions)
    return node


def _merge(base: Schema, over: Schema) -> Schema:
    rules = [*base.get("x-kubernetes-validations", []), *over.get("x-kubernetes-validations", [])]
    merged = {**base, **over}
    if rules:
        merged["x-kubernetes-validations"] = rules
    return merged


def _default(node: Schema) -> None:
    """Keep of a default what the fields' own defaults do not say: the API server fills in those."""
    if node["default"] is None:
        del node["default"]
    elif isinstance(node["default"], dict):
        fields = node.get("properties", {})
        node["default"] = {
            key: value
            for key, value in node["default"].items()
            if value is not None and value != fields.get(key, {}).get("default")
        }


def _object(node: Schema, definitions: Schema) -> None:
    properties = node.get("properties")
    if properties:
        node["properties"] = {key: structural(p, definitions) for key, p in properties.items()}
    extra = node.pop("additionalProperties", None)
    if isinstance(extra, dict):
        node["additionalProperties"] = structural(extra, definitions)
    if "patternProperties" in node or "propertyNames" in node:
        # Key patterns have no structural form; bounds on the number and values remain.
        value = next(iter(node.pop("patternProperties", {}).values()), None)
        node.pop("propertyNames", None)
        if value is not None:
            node["additionalProperties"] = structural(value, definitions)


def definition(kind: type[Resource]) -> Schema:
    """The CustomResourceDefinition of one kind."""
    full = kind.model_json_schema(by_alias=True)
    definitions = full["$defs"]
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": structural(full["properties"]["spec"], definitions),
        "status": structural(full["properties"]["status"], definitions),
    }
    properties["status"].pop("default", None)
    singular = kind.__name__.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "troika"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": kind.plural,
                "singular": singular,
                "shortNames": [kind.short_name],
                "categories": ["troika"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": ".status.phase"}],
                    "additionalPrinterColumns": PRINTER_COLUMNS,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": " ".join((kind.__doc__ or "").split()),
                            "required": ["spec"],
                            "properties": properties,
                        }
                    },
                }
            ],
        },
    }
