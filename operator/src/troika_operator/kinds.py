"""Where the API serves each kind that the operator touches."""

from dataclasses import dataclass

from troika_api.v1alpha1.resource import API_VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind and its collection."""

    kind: str
    api_version: str
    plural: str

    @property
    def group_path(self) -> str:
        """Where the API tells what it serves of the group and version."""
        root = "/api" if "/" not in self.api_version else "/apis"
        return f"{root}/{self.api_version}"

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Path of the collection, an object, or a subresource of it."""
        inside = f"/namespaces/{namespace}" if namespace else ""
        parts = [f"{self.group_path}{inside}/{self.plural}", name, subresource]
        return "/".join(part for part in parts if part)


KINDS = {
    kind.kind: kind
    for kind in (
        Kind("PretrainJob", API_VERSION, "pretrainjobs"),
        Kind("FinetuneJob", API_VERSION, "finetunejobs"),
        Kind("Job", "batch/v1", "jobs"),
        Kind("Pod", "v1", "pods"),
        Kind("PodGroup", "scheduling.k8s.io/v1beta1", "podgroups"),
        Kind("Service", "v1", "services"),
        Kind("ConfigMap", "v1", "configmaps"),
        Kind("Event", "events.k8s.io/v1", "events"),
        Kind("Lease", "coordination.k8s.io/v1", "leases"),
    )
}
