"""What of a pod is the operator's, and what a user may say otherwise."""

from support.views import PLATFORM, pretrain
from troika_operator.resources import pod
from troika_operator.resources.attempt import Shape
from troika_operator.resources.job import template
from troika_operator.resources.labels import Job

SHAPE = Shape(number=0, nodes=2, processes_per_node=1)


def annotations(job: Job) -> dict[str, str]:
    made = template(job, SHAPE, PLATFORM, config_name="run-0123", base_model=None)
    assert made.metadata is not None
    return dict(made.metadata.annotations or {})


def test_a_user_may_have_the_pods_scraped_otherwise() -> None:
    job = pretrain(spec__compute__annotations={"prometheus.io/scrape": "false", "a.b/c": "d"})
    made = annotations(job)
    assert (made["prometheus.io/scrape"], made["a.b/c"]) == ("false", "d")
    assert made["prometheus.io/port"] == "9464"


def test_a_user_may_have_a_silent_node_waited_for() -> None:
    taint = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    job = pretrain(
        spec__compute__tolerations=[
            {**taint, "tolerationSeconds": 600},
            {"key": "nvidia.com/gpu", "operator": "Exists"},
        ]
    )
    seconds = [(t.key, t.toleration_seconds) for t in pod.tolerations(job.spec.compute)]
    assert seconds == [
        ("node.kubernetes.io/not-ready", 30),
        ("node.kubernetes.io/unreachable", 600),
        ("nvidia.com/gpu", None),
    ]
