"""The trainer pod: restricted Pod Security, no token, and the contract's environment."""

from kubernetes.aio.client import (
    V1Capabilities,
    V1ConfigMapVolumeSource,
    V1Container,
    V1ContainerPort,
    V1EmptyDirVolumeSource,
    V1EnvVar,
    V1EnvVarSource,
    V1ObjectFieldSelector,
    V1PersistentVolumeClaimVolumeSource,
    V1PodSecurityContext,
    V1ResourceRequirements,
    V1SeccompProfile,
    V1SecretKeySelector,
    V1SecurityContext,
    V1Toleration,
    V1Volume,
    V1VolumeMount,
)

from troika_api import contract
from troika_api.term import Term
from troika_api.v1alpha1.compute import Compute
from troika_api.v1alpha1.training import AUTO

from . import names
from .attempt import Platform, Shape
from .labels import Job
from .rate import failure_every_seconds

COMPLETION_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
NODE_GONE_SECONDS = 30
"""Half of what Kubernetes waits by itself would still be a long time for a gang."""


def container(job: Job, shape: Shape, platform: Platform, claims: dict[str, bool]) -> V1Container:
    """The trainer. No command: the image's entry point is part of the contract, so that an image
    of one's own needs no fixed path inside.
    """
    compute = job.spec.compute
    return V1Container(
        name=contract.CONTAINER,
        image=compute.image or platform.image,
        image_pull_policy=compute.image_pull_policy or platform.pull_policy,
        env=environment(job, shape),
        ports=[
            V1ContainerPort(name="metrics", container_port=contract.PORT_METRICS),
            V1ContainerPort(name="rendezvous", container_port=contract.PORT_RENDEZVOUS),
        ],
        resources=resources(compute, shape),
        termination_message_path=contract.TERMINATION_LOG,
        # Not FallbackToLogsOnError: a traceback is no last word, and logs may hold secrets.
        termination_message_policy="File",
        security_context=V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=V1Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
        ),
        volume_mounts=[
            V1VolumeMount(name="run", mount_path=contract.RUN_DIR, read_only=True),
            V1VolumeMount(name="tmp", mount_path=contract.SCRATCH_DIR),
            V1VolumeMount(name="shm", mount_path="/dev/shm"),  # noqa: S108 - a mount, not a file
            *(
                V1VolumeMount(
                    name=volume_name(claim),
                    mount_path=contract.mount_path(claim),
                    read_only=read_only or None,
                )
                for claim, read_only in claims.items()
            ),
        ],
    )


def environment(job: Job, shape: Shape) -> list[V1EnvVar]:
    """The contract's variables first, then the user's."""
    short, name = job.short_name, job.metadata.name
    rank0 = f"{names.attempt(short, name, shape.number)}-0.{names.service(short, name)}"
    fixed = {
        contract.ENV_RUN_FILE: contract.RUN_FILE,
        contract.ENV_ATTEMPT: str(shape.number),
        contract.ENV_TERM: str(term(job, shape)),
        contract.ENV_MICRO_BATCH_DIVISOR: str(shape.micro_batch_divisor),
        contract.ENV_TERMINATION_LOG: contract.TERMINATION_LOG,
        contract.ENV_METRICS_PORT: str(contract.PORT_METRICS),
        contract.ENV_NNODES: str(shape.nodes),
        contract.ENV_NPROC_PER_NODE: str(shape.processes_per_node),
        contract.ENV_RDZV_BACKEND: "c10d",
        contract.ENV_RDZV_ENDPOINT: f"{rank0}:{contract.PORT_RENDEZVOUS}",
        # A rank of an earlier attempt that comes back late finds nobody under its old name.
        contract.ENV_RDZV_ID: f"{job.metadata.uid}-{shape.number}",
        "HOME": contract.SCRATCH_DIR,
        # torch asks getpass for a name, which fails for a user that /etc/passwd does not know.
        "USER": "troika",
    }
    if job.spec.checkpoint.interval == AUTO:
        every = failure_every_seconds(job.status, shape)
        fixed[contract.ENV_FAILURE_EVERY_SECONDS] = f"{every:.0f}"
    given_names = {given.name for given in job.spec.compute.env}
    rank = V1EnvVarSource(field_ref=V1ObjectFieldSelector(field_path=COMPLETION_INDEX))
    return [
        *(V1EnvVar(name=k, value=v) for k, v in fixed.items() if k not in given_names),
        V1EnvVar(name=contract.ENV_NODE_RANK, value_from=rank),
        *(variable for variable in tracking_keys(job) if variable.name not in given_names),
        *(
            V1EnvVar(name=given.name, value=given.value)
            if given.secret is None
            else _from_secret(given.name, given.secret.name, given.secret.key)
            for given in job.spec.compute.env
        ),
    ]


def term(job: Job, shape: Shape) -> Term:
    """What fences the attempt's checkpoints, also against jobs of an earlier time."""
    return Term.of(job.metadata.creation_timestamp, job.metadata.uid, shape.number)


def tracking_keys(job: Job) -> list[V1EnvVar]:
    """What opens the trackers: these variables and no others, whatever else the Secret holds.

    Without one of them the pod starts all the same: a tracker never stops a training.
    """
    tracking = job.spec.tracking
    if tracking is None or tracking.secret is None:
        return []
    secret = tracking.secret.name
    return [_from_secret(key, secret, key, optional=True) for key in contract.ENV_TRACKING]


def _from_secret(name: str, secret: str, key: str, *, optional: bool | None = None) -> V1EnvVar:
    selector = V1SecretKeySelector(name=secret, key=key, optional=optional)
    return V1EnvVar(name=name, value_from=V1EnvVarSource(secret_key_ref=selector))


def resources(compute: Compute, shape: Shape) -> V1ResourceRequirements:
    """CPU and memory as given; GPUs as a limit, which is also their request."""
    limits = dict(compute.resources.limits)
    if shape.gpus_per_node:
        limits[compute.gpu_resource] = str(shape.gpus_per_node)
    return V1ResourceRequirements(
        requests=dict(compute.resources.requests) or None, limits=limits or None
    )


def volumes(job: Job, config_name: str, claims: dict[str, bool]) -> list[V1Volume]:
    """run.json, scratch space, shared memory, and the claims."""
    memory = V1EmptyDirVolumeSource(medium="Memory", size_limit=job.spec.compute.shared_memory)
    return [
        V1Volume(name="run", config_map=V1ConfigMapVolumeSource(name=config_name)),
        V1Volume(name="tmp", empty_dir=V1EmptyDirVolumeSource()),
        V1Volume(name="shm", empty_dir=memory),
        *(
            V1Volume(
                name=volume_name(claim),
                persistent_volume_claim=V1PersistentVolumeClaimVolumeSource(claim_name=claim),
            )
            for claim in claims
        ),
    ]


def volume_name(claim: str) -> str:
    """A volume is a DNS label; a claim may have dots and 253 characters."""
    plain = "." not in claim and len(claim) <= names.MAX_LABEL - 4
    return f"pvc-{claim}" if plain else f"pvc-{names.digest(claim, 16)}"


def security(platform: Platform) -> V1PodSecurityContext:
    """Restricted, and a group that lets an unprivileged user write to mounted volumes."""
    return V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=platform.run_as_user,
        fs_group=platform.fs_group,
        # Without this the kubelet walks over every file of a data set at each start.
        fs_group_change_policy="OnRootMismatch" if platform.fs_group is not None else None,
        seccomp_profile=V1SeccompProfile(type="RuntimeDefault"),
    )


def tolerations(compute: Compute) -> list[V1Toleration]:
    """A lost node is given up after 30 s instead of Kubernetes' 300, unless the user says how long:
    of two tolerations the shorter would count. Then the user's own.
    """
    named = {given.key for given in compute.tolerations}
    gone = [
        V1Toleration(
            key=key, operator="Exists", effect="NoExecute", toleration_seconds=NODE_GONE_SECONDS
        )
        for state in ("not-ready", "unreachable")
        if (key := f"node.kubernetes.io/{state}") not in named
    ]
    own = [V1Toleration(**given.model_dump(exclude_none=True)) for given in compute.tolerations]
    return [*gone, *own]
