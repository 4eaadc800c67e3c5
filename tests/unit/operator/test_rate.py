"""The mean time between failures that trainers are told, for `checkpoint.interval: Auto`."""

from support.views import pretrain
from troika_api import contract
from troika_api.contract import FailureClass
from troika_api.v1alpha1.status import Goodput, JobStatus
from troika_operator.resources.attempt import Shape
from troika_operator.resources.pod import environment
from troika_operator.resources.rate import failure_every_seconds

GANG = Shape(number=0, nodes=128, processes_per_node=8, gpus_per_node=8)


def test_before_any_failure_it_is_the_published_one() -> None:
    assert round(failure_every_seconds(JobStatus(), GANG) / 3600, 1) == 7.8


def test_failures_bring_it_down_and_quiet_time_brings_it_up() -> None:
    prior = failure_every_seconds(JobStatus(), GANG)
    failed = JobStatus(failures={FailureClass.CRASH: 1, FailureClass.NODE_LOST: 2})
    assert failure_every_seconds(failed, GANG) == prior / 4
    evicted = JobStatus(failures={FailureClass.PREEMPTED: 9})
    assert failure_every_seconds(evicted, GANG) == prior
    quiet = JobStatus(goodput=Goodput(pod_seconds=1000 * 3600))  # 8,000 GPU hours
    assert failure_every_seconds(quiet, GANG) == prior * 2


def test_only_who_asks_is_told() -> None:
    job = pretrain()
    shape = Shape.wanted(job.spec.compute, number=0)
    assert contract.ENV_FAILURE_EVERY_SECONDS not in {var.name for var in environment(job, shape)}
    job.spec.checkpoint.interval = "Auto"
    given = {var.name: var.value for var in environment(job, shape)}
    assert float(given[contract.ENV_FAILURE_EVERY_SECONDS] or 0) > 0
