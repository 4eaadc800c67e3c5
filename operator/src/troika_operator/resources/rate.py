"""How far apart the failures of a gang are, for trainers that choose when to save."""

from troika_api import contract
from troika_api.contract import FailureClass
from troika_api.v1alpha1.status import JobStatus

from .attempt import Shape

LOSES_STEPS = (
    FailureClass.CRASH,
    FailureClass.COMMUNICATION,
    FailureClass.HANG,
    FailureClass.NODE_LOST,
    FailureClass.OUT_OF_MEMORY,
)
"""Classes that come without warning. A preempted pod saves before it goes."""


def failure_every_seconds(status: JobStatus, shape: Shape) -> float:
    """Mean time between failures of all devices of the attempt together.

    One failure in `PRIOR_FAILURE_SECONDS` of device time is what we believe before there is any;
    the job's own failures and device time are added to it. Ended attempts only, so that the answer
    is the same however often it is asked for.
    """
    per_node = shape.gpus_per_node or shape.processes_per_node
    held = status.goodput.pod_seconds * per_node if status.goodput else 0
    failures = 1 + sum(status.failures.get(kind, 0) for kind in LOSES_STEPS)
    return (contract.PRIOR_FAILURE_SECONDS + held) / failures / (shape.nodes * per_node)
