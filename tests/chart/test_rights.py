"""The operator's rules in the chart are exactly the requests that its code makes."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typing_extensions import override

import troika_operator
from chart.helm import ROOT, Helm, of_kind
from troika_api.v1alpha1.pretrain import PretrainJob
from troika_operator import app, handlers
from troika_operator.bucket import TokenBucket
from troika_operator.cluster import APPLY, Cluster
from troika_operator.connection import Connection, Request
from troika_operator.errors import ConflictError
from troika_operator.plan import Ref
from troika_operator.resources.attempt import Platform, Shape
from troika_operator.resources.objects import attempt_objects
from troika_operator.store import OWN_KINDS

Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""
VERBS = {
    "GET": {"get"},
    "POST": {"create"},
    "PUT": {"update"},
    "DELETE": {"delete"},
    "PATCH": {"patch"},
}
JOB = yaml.safe_load((ROOT / "examples/pretrain-bert.yaml").read_text())
JOB["metadata"] |= {"namespace": "default", "uid": "u", "resourceVersion": "1"}


class Recorder(Connection):
    """Notes which right each request takes, and answers as if all went well."""

    def __init__(self) -> None:
        self.used: set[Right] = set()
        self.made: dict[str, Any] = {}
        """Objects by name. Each is there already when it is to be made, which takes most rights."""

    @override
    async def call(self, request: Request) -> dict[str, Any]:
        root, _, rest = request.path.lstrip("/").partition("/")
        group, rest = rest.split("/", 1) if root == "apis" else ("", rest)
        _, *parts = rest.split("/")
        if parts[0] == "namespaces":
            parts = parts[2:]
        plural, name, subresource = [*parts, "", ""][:3]
        resource = f"{plural}/{subresource}" if subresource else plural
        verbs = VERBS[request.method]
        if request.content_type == APPLY:
            verbs = {"patch", "create"}  # what is applied may be new
        if request.method == "GET" and not name:
            verbs = {"list"}
        self.used |= {(group, resource, verb) for verb in verbs}
        if request.method == "POST":
            assert request.body is not None
            self.made[request.body["metadata"]["name"]] = request.body
            raise ConflictError("exists")
        return self.made.get(name) or request.body or {"metadata": {}, "items": []}


def kinds_given_to(*functions: str) -> Iterator[str]:
    """Kinds that the operator's code calls any of these with, as `"Job"` or as `key.kind`."""
    for file in Path(troika_operator.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in functions:
                continue
            given = node.args[0]
            if isinstance(given, ast.Constant):
                yield str(given.value)
            else:
                assert ast.unparse(given) == "key.kind", ast.unparse(node)
                yield from OWN_KINDS


async def rights_of_the_code() -> set[Right]:
    recorder = Recorder()
    cluster = Cluster(recorder, TokenBucket(1e9, 10**9))
    job = PretrainJob.model_validate(JOB)
    shape = Shape.wanted(job.spec.compute, number=0)
    objects = attempt_objects(job, shape, Platform("image", "Always", gangs=True), None)  # type: ignore[arg-type]
    for part in objects.shared:
        await cluster.apply(part)
    await cluster.create(objects.job)
    for kind in kinds_given_to("Ref"):
        await cluster.delete("default", Ref(kind, "name"))
    for kind in OWN_KINDS:
        await cluster.patch_status({**JOB, "kind": kind}, {"phase": "Running"})
    await cluster.warn(JOB, "Reason", "note")
    await cluster.complaint("default", "uid")
    for kind in kinds_given_to("self.api.get", "self.actions.api.get"):
        await cluster.get(kind, "default", "name")
    for kind in (*app.KINDS, "PodGroup"):
        await cluster.uids(kind, None, selector=None)
    watched = (*handlers.OWN, *handlers.CHILDREN, *handlers.GANGS)
    for group, _, plural in watched:
        recorder.used |= {(group, plural, "list"), (group, plural, "watch")}
    return recorder.used


async def rights_of_a_leader() -> set[Right]:
    recorder = Recorder()
    cluster = Cluster(recorder, TokenBucket(1e9, 10**9))
    lease = {"kind": "Lease", "metadata": {"namespace": "default", "name": "lease"}}
    await cluster.get("Lease", "default", "lease")
    await cluster.put_lease(lease, new=False)
    with pytest.raises(ConflictError):
        await cluster.put_lease(lease, new=True)
    return recorder.used


def granted(role: dict[str, Any]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture(scope="module")
def roles(helm: Helm) -> dict[str, dict[str, Any]]:
    values = {"replicas": 2, "watchNamespaces": ["default"]}
    found = of_kind(helm.render(values=values), "Role")
    return {role["metadata"]["name"]: role for role in found}


async def test_the_operator_has_the_rights_that_it_uses_and_no_more(
    roles: dict[str, dict[str, Any]],
) -> None:
    assert granted(roles["troika"]) == await rights_of_the_code()


async def test_so_has_a_leader_for_its_one_lease(roles: dict[str, dict[str, Any]]) -> None:
    role = roles["troika-leader"]
    assert granted(role) == await rights_of_a_leader()
    for rule in role["rules"]:
        assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["troika"]


def test_no_lease_is_needed_by_one_operator(helm: Helm) -> None:
    assert not of_kind(helm.render(), "Role")
