"""From what pods show to one cause."""

from dataclasses import dataclass
from typing import Any

import pytest

from support.views import at, exited, job_view, pending, pod_view, said
from troika_api.contract import FailureClass, LastWord
from troika_api.v1alpha1.status import Failure
from troika_operator.failures import Settling, judge
from troika_operator.views import PodView


def word(kind: FailureClass, message: str, *, time: float = 0.0, rank: int = 1) -> LastWord:
    stamp = at(time).timestamp() if time else 0.0
    return LastWord(outcome="Failed", failure=kind, message=message, rank=rank, time=stamp)


def terminated(time: float = 0.0) -> LastWord:
    return LastWord(outcome="Terminated", time=at(time).timestamp() if time else 0.0)


@dataclass
class Case:
    """Pods as they are seen a minute later, and what is made of them."""

    name: str
    pods: tuple[PodView, ...]
    kind: FailureClass
    text: str = ""


C = FailureClass
CASES = [
    Case("an exit code alone", (pod_view(0, exit=exited(1)), pod_view(1)), C.CRASH, "exit code 1"),
    Case(
        "text that is not ours",
        (pod_view(0, exit=exited(1, message="Traceback: boom")), pod_view(1)),
        C.CRASH,
        "exit code 1: Traceback: boom",
    ),
    Case("a signal", (pod_view(0, exit=exited(139)), pod_view(1)), C.CRASH, "signal 11 (SIGSEGV)"),
    Case("killed from outside", (pod_view(0, exit=exited(137)),), C.CRASH, "signal 9 (SIGKILL)"),
    Case("contract: config", (pod_view(0, exit=exited(10)),), C.BAD_CONFIG),
    Case("contract: data", (pod_view(0, exit=exited(11)),), C.BAD_DATA),
    Case("contract: loss", (pod_view(0, exit=exited(12)),), C.NON_FINITE),
    Case("contract: memory", (pod_view(0, exit=exited(13)),), C.OUT_OF_MEMORY),
    Case("contract: peers", (pod_view(0, exit=exited(14)),), C.COMMUNICATION),
    Case("contract: storage", (pod_view(0, exit=exited(15)),), C.STORAGE),
    Case("contract: SIGTERM", (pod_view(0, exit=exited(143)),), C.PREEMPTED),
    Case(
        "the last word beats the exit code",
        (pod_view(0, exit=exited(1, word=word(C.STORAGE, "disk full"))),),
        C.STORAGE,
        "rank 1 in pod bert-prose-ptj-a0-0-xxxxx on node n0: disk full",
    ),
    Case(
        "a last word whose time is in milliseconds is none of the contract's",
        (pod_view(0, exit=exited(15, message='{"outcome": "Failed", "time": 1795521600000}')),),
        C.STORAGE,
    ),
    Case(
        "a last word whose rank is none",
        (pod_view(0, exit=exited(15, message='{"outcome": "Failed", "rank": -1}')),),
        C.STORAGE,
    ),
    Case(
        "a volume has the name that it has in the job",
        (pod_view(0, exit=exited(11, word=word(C.BAD_DATA, "/mnt/troika/corpus/a.csv, line 2"))),),
        C.BAD_DATA,
        "node n0: pvc://corpus/a.csv, line 2",
    ),
    Case(
        "the kernel's verdict beats the last word",
        (pod_view(0, exit=exited(137, reason="OOMKilled", word=word(C.CRASH, "worker died"))),),
        C.OUT_OF_MEMORY,
        "memory limit",
    ),
    Case(
        "an entry point that does not exist",
        (pod_view(0, exit=exited(128, reason="StartError", message="exec: nope: not found")),),
        C.BAD_CONFIG,
        "nope",
    ),
    Case(
        "a node whose driver fails is no fault of the spec",
        (
            pod_view(
                0,
                exit=exited(
                    128,
                    reason="StartError",
                    message="error running hook #0: nvidia-container-cli: initialization error: "
                    "nvml error: driver not loaded",
                ),
            ),
        ),
        C.CRASH,
        "driver not loaded",
    ),
    Case(
        "a node that was started anew",
        (
            pod_view(0, exit=exited(255, 70, reason="Unknown")),
            pod_view(1, exit=exited(14, 50, word=word(C.COMMUNICATION, "reset by peer"))),
        ),
        C.NODE_LOST,
        "does not know how the container ended",
    ),
    Case(
        "an evicted pod whose container is not found any more",
        (
            pod_view(
                0,
                disrupted=said("TerminationByKubelet", "low on memory", when=40),
                exit=exited(137, 0, reason="ContainerStatusUnknown"),
            ),
            pod_view(1),
        ),
        C.PREEMPTED,
        "low on memory",
    ),
    Case(
        "a broken connection is an effect of a crash that came later to light",
        (
            pod_view(0, exit=exited(14, 50, word=word(C.COMMUNICATION, "reset by peer"))),
            pod_view(1, exit=exited(1, 52, word=word(C.CRASH, "assertion failed"))),
        ),
        C.CRASH,
        "assertion failed",
    ),
    Case(
        "of two causes the earlier one, by the words' clocks rather than by whole seconds",
        (
            pod_view(0, exit=exited(1, 50, word=word(C.CRASH, "second", time=50.9))),
            pod_view(1, exit=exited(12, 50, word=word(C.NON_FINITE, "first", time=50.2))),
        ),
        C.NON_FINITE,
        "first",
    ),
    Case(
        "SIGTERM by the Job controller is an effect",
        (
            pod_view(0, exit=exited(143, 49, word=terminated(49)), deleted=at(48)),
            pod_view(1, exit=exited(13, 47, word=word(C.OUT_OF_MEMORY, "CUDA out of memory"))),
        ),
        C.OUT_OF_MEMORY,
        "CUDA",
    ),
    Case(
        "a pod that had to be killed after its grace period is an effect",
        (pod_view(0, exit=exited(137, 90), deleted=at(48)), pod_view(1, exit=exited(15, 47))),
        C.STORAGE,
    ),
    Case(
        "a deleted pod is the cause when nothing had failed before",
        (
            pod_view(0, exit=exited(14, 55, word=word(C.COMMUNICATION, "reset"))),
            pod_view(1, deleted=at(50), gone_by=at(170)),
        ),
        C.PREEMPTED,
        "was deleted",
    ),
    Case(
        "preemption",
        (pod_view(0, disrupted=said("PreemptionByScheduler", "by a higher priority")), pod_view(1)),
        C.PREEMPTED,
        "PreemptionByScheduler: by a higher priority",
    ),
    Case("eviction", (pod_view(0, disrupted=said("EvictionByEvictionAPI")),), C.PREEMPTED),
    Case(
        "a node that stopped answering",
        (pod_view(0, ready=False, disrupted=said("DeletionByTaintManager")), pod_view(1)),
        C.NODE_LOST,
    ),
    Case(
        "a node that an administrator tainted still lives",
        (pod_view(0, disrupted=said("DeletionByTaintManager")), pod_view(1)),
        C.PREEMPTED,
    ),
    Case("a node that was removed", (pod_view(0, disrupted=said("DeletionByPodGC")),), C.NODE_LOST),
    Case(
        "eviction comes before the crash that it causes",
        (
            pod_view(0, disrupted=said("TerminationByKubelet", "low on memory", when=40)),
            pod_view(1, exit=exited(1, 44)),
        ),
        C.PREEMPTED,
        "low on memory",
    ),
    Case(
        "refused by the kubelet",
        (pending(0, phase="Failed", ended=said("OutOfcpu", "no room")), pod_view(1)),
        C.PREEMPTED,
        "OutOfcpu: no room",
    ),
    *(
        Case(
            f"evicted for what it wrote itself: {text}",
            (pod_view(0, phase="Failed", ended=said("Evicted", text)),),
            C.CRASH,
            text,
        )
        for text in (
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
            'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". ',
        )
    ),
    Case("a failed pod without a word", (pending(0, phase="Failed"),), C.CRASH, "did not say why"),
    Case(
        "exit code 0 with a last word that says otherwise",
        (pod_view(0, exit=exited(0, word=word(C.STORAGE, "could not export"))), pod_view(1)),
        C.STORAGE,
        "could not export",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cause_is_found(case: Case) -> None:
    failure = judge(job_view(), case.pods, at(120))
    assert isinstance(failure, Failure)
    assert failure.class_ is case.kind
    assert case.text in failure.message


def test_nothing_failed() -> None:
    assert judge(job_view(), (pod_view(0), pod_view(1)), at(60)) is None
    assert judge(job_view(), (pod_view(0, exit=exited(0)), pod_view(1)), at(60)) is None
    assert judge(job_view(), (pending(0), pending(1)), at(60)) is None


@pytest.mark.parametrize(
    "facts",
    [{"disrupted": said("EvictionByEvictionAPI", when=60)}, {"deleted": at(60)}],
    ids=("evicted", "deleted"),
)
def test_a_pod_that_was_done_before_it_was_taken_away_has_not_failed(facts: dict[str, Any]) -> None:
    done = pod_view(1, exit=exited(0, 59), **facts)
    assert judge(job_view(), (pod_view(0), done), at(120)) is None
    stopped = pod_view(1, exit=exited(0, 61), **facts)
    failure = judge(job_view(), (pod_view(0), stopped), at(120))
    assert isinstance(failure, Failure)
    assert failure.class_ is FailureClass.PREEMPTED


@pytest.mark.parametrize("code", [14, 143])
def test_an_effect_waits_for_its_cause_while_others_live(code: int) -> None:
    pods = (pod_view(0, exit=exited(code, 60)), pod_view(1))
    assert judge(job_view(), pods, at(62)) == Settling(at(65))
    assert isinstance(judge(job_view(), pods, at(65)), Failure)


def test_an_effect_is_the_verdict_at_once_when_nobody_is_left_to_say_more() -> None:
    pods = (pod_view(0, exit=exited(14, 60)), pod_view(1, exit=exited(14, 61)))
    failure = judge(job_view(), pods, at(62))
    assert isinstance(failure, Failure)
    assert failure.class_ is FailureClass.COMMUNICATION


def test_a_cause_does_not_wait() -> None:
    assert isinstance(
        judge(job_view(), (pod_view(0, exit=exited(1)), pod_view(1)), at(60)), Failure
    )


def test_a_failure_that_no_pod_shows_waits_for_late_news() -> None:
    failed = job_view(failed=said("BackoffLimitExceeded", when=60))
    assert judge(failed, (pod_view(0), pod_view(1)), at(61)) == Settling(at(65))


def test_pods_that_are_gone_without_a_trace_count_as_preempted() -> None:
    failed = job_view(failed=said("BackoffLimitExceeded", when=60))
    failure = judge(failed, (pod_view(0),), at(65))
    assert isinstance(failure, Failure)
    assert failure.class_ is FailureClass.PREEMPTED
    assert failure.message.endswith("indices: 1")


def test_a_job_that_somebody_else_ended_costs_a_retry() -> None:
    failed = job_view(failed=said("DeadlineExceeded", "too long", when=60))
    failure = judge(failed, (pod_view(0), pod_view(1)), at(65))
    assert isinstance(failure, Failure)
    assert failure.class_ is FailureClass.CRASH
    assert "DeadlineExceeded: too long" in failure.message


def test_a_deletion_that_may_be_the_job_controllers_waits_for_the_cause() -> None:
    failed = job_view(failed=said("BackoffLimitExceeded", when=60))
    deleted = pod_view(1, deleted=at(60), gone_by=at(180))
    assert judge(failed, (pod_view(0), deleted), at(61)) == Settling(at(65))
    crashed = pod_view(0, exit=exited(1, 59))
    failure = judge(failed, (crashed, deleted), at(62))
    assert isinstance(failure, Failure)
    assert failure.class_ is FailureClass.CRASH


def test_every_failure_that_a_user_can_mend_says_how() -> None:
    for kind in set(FailureClass) - {FailureClass.PREEMPTED, FailureClass.NODE_LOST}:
        said_so = word(kind, "x")
        failure = judge(job_view(), (pod_view(0, exit=exited(1, word=said_so)),), at(120))
        assert isinstance(failure, Failure)
        assert failure.remedy


def test_the_trainers_advice_beats_ours() -> None:
    advised = LastWord(outcome="Failed", failure=C.CRASH, message="x", remedy="do that")
    failure = judge(job_view(), (pod_view(0, exit=exited(1, word=advised)),), at(120))
    assert isinstance(failure, Failure)
    assert failure.remedy == "do that"
