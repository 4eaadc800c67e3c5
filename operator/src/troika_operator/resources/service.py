"""The headless Service that gives ranks their host names."""

from kubernetes.aio.client import V1Service, V1ServicePort, V1ServiceSpec

from troika_api.contract import PORT_METRICS, PORT_RENDEZVOUS

from . import names
from .labels import Job, identity, metadata


def build_service(job: Job) -> V1Service:
    """One Service for all attempts: their pods differ in host name."""
    return V1Service(
        api_version="v1",
        kind="Service",
        metadata=metadata(job, names.service(job.short_name, job.metadata.name)),
        spec=V1ServiceSpec(
            cluster_ip="None",
            selector=identity(job),
            # Rank 0 is looked up before it is ready; ready is what the lookup makes it.
            publish_not_ready_addresses=True,
            ports=[
                V1ServicePort(name="metrics", port=PORT_METRICS, protocol="TCP"),
                V1ServicePort(name="rendezvous", port=PORT_RENDEZVOUS, protocol="TCP"),
            ],
        ),
    )
