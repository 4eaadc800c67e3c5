"""values.yaml, its schema and its table agree, and the schema refuses what cannot work."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from chart.helm import CHART, ROOT, Helm

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

BAD: list[tuple[str, Any, str]] = [
    ("replicaCount", 2, "additional properties 'replicaCount' not allowed"),
    ("replicas", 0, "minimum: got 0, want 1"),
    ("settings.pollInterval", "15s", "got string, want number"),
    ("settings.pollInterval", 0, "exclusiveMinimum: got 0, want 0"),
    ("settings.logLevel", "debug", "value must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
    ("settings.verbose", True, "additional properties 'verbose' not allowed"),
    ("image.name", "troika", "additional properties 'name' not allowed"),
    ("image.registry", "https://registry.example.com", "does not match pattern"),
    ("image.repository", "", "does not match pattern"),
    ("image.repository", "Troika:1", "does not match pattern"),
    ("image.tag", 1.0, "got number, want string"),
    ("image.tag", "a b", "does not match pattern"),
    ("image.digest", "sha256:abc", "does not match pattern"),
    ("image.pullPolicy", "Sometimes", "value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("imagePullSecrets", ["registry"], "got string, want object"),
    ("trainer.image.pullPolicy", "never", "value must be one of"),
    ("trainer.tag", "dev", "additional properties 'tag' not allowed"),
    ("watchNamespaces", "default", "got string, want array"),
    ("watchNamespaces", ["a", "a"], "items at 0 and 1 are equal"),
    ("watchNamespaces", ["Not_A_Name"], "does not match pattern"),
    ("crds.enabled", "yes", "got string, want boolean"),
    ("crds.create", True, "additional properties 'create' not allowed"),
    ("rbac.wildcards", True, "additional properties 'wildcards' not allowed"),
    ("serviceAccount.name", "Mine", "does not match pattern"),
    ("serviceAccount.annotations", {"a": 1}, "got number, want string"),
    ("metrics.port", 80, "minimum: got 80, want 1,024"),
    ("metrics.port", "8080", "got string, want integer"),
    ("metrics.podMonitor.interval", "15", "does not match pattern"),
    ("resources.request", {"cpu": 1}, "additional properties 'request' not allowed"),
    ("extraEnv", {"A": "b"}, "got object, want array"),
    ("extraEnv", [{"name": "A", "value": 1}], "got number, want string"),
    ("extraEnv", [{"name": "TROIKA_LOG_LEVEL", "value": "DEBUG"}], "'not' failed"),
    ("podLabels", {"release": True}, "got boolean, want string"),
    ("tolerations", {"key": "gpu"}, "got object, want array"),
]


def nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(("path", "value", "expected"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_value_is_refused_with_its_path(
    helm: Helm, path: str, value: Any, expected: str
) -> None:
    done = helm.template(values=nested(path, value))
    assert done.returncode != 0
    assert expected in done.stderr
    # An unknown key is reported at the object that does not know it.
    *parents, _ = keys = path.split(".")
    at = parents if "additional properties" in expected else keys
    assert f"at '{''.join(f'/{key}' for key in at)}" in done.stderr


def own_objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object whose fields the chart itself defines."""
    if "properties" in schema:
        yield path, schema
    for key, child in schema.get("properties", {}).items():
        yield from own_objects(child, f"{path}.{key}")


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    for path, schema in own_objects(SCHEMA):
        assert schema["additionalProperties"] is False, path
        values = VALUES
        for key in filter(None, path.split(".")):
            values = values[key]
        # `global` is Helm's; resources may be asked for in more ways than the default does.
        extra = {"": {"global"}, ".resources": {"claims"}}.get(path, set())
        assert schema["properties"].keys() - extra == values.keys(), path


def test_generated_files_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "charts/generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        name = f"{path}{key}"
        yield from leaves(value, f"{name}.") if isinstance(value, dict) and value else [name]


def test_every_value_is_in_the_readme() -> None:
    readme = (CHART / "README.md").read_text()
    for name in leaves(VALUES):
        # A documented object stands for what is in it.
        parts = name.split(".")
        prefixes = [".".join(parts[: count + 1]) for count in range(len(parts))]
        assert any(f"| `{prefix}` |" in readme for prefix in prefixes), name
