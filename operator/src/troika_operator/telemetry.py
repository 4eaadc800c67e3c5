"""Metrics: jobs as they are in the store at the moment of the scrape, and counters of our work.

Series of jobs are made when they are asked for, so that those of a deleted job are gone at once.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib.metadata import version
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from troika_api import metrics
from troika_api.v1alpha1.status import ConditionType

from .store import Store

FAMILIES = (
    metrics.JOB_INFO,
    metrics.JOB_PHASE,
    metrics.JOB_CONDITION,
    metrics.JOB_CREATED,
    metrics.JOB_STARTED,
    metrics.JOB_FINISHED,
    metrics.JOB_PROGRESS,
    metrics.JOB_RESTARTS,
    metrics.JOB_FAILURES,
    metrics.JOB_GPUS,
)
Sample = tuple[metrics.Metric, tuple[str, ...], float]


class Jobs(Collector):
    """All series of all jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @override
    def collect(self) -> Iterable[Metric]:
        """Make the families anew."""
        families = {m.name: GaugeMetricFamily(m.name, m.help, labels=m.labels) for m in FAMILIES}
        # A copy: the scrape runs in a thread of its own while events change the store.
        for key, raw in list(self._store.jobs.items()):
            for metric, labels, value in samples(raw):
                family = families[metric.name]
                family.add_metric((key.namespace, key.kind, key.name, *labels), value)
        return families.values()


def samples(raw: dict[str, Any]) -> Iterator[Sample]:
    """Series of one job: the family, its labels after namespace, kind and name, and the value."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    queue = (spec.get("compute") or {}).get("queue") or ""
    objective = spec.get("objective") or spec.get("task") or ""
    yield metrics.JOB_INFO, (meta["uid"], queue, objective), 1.0
    yield metrics.JOB_PHASE, (status.get("phase") or "Pending",), 1.0
    known = {c["type"]: c["status"] for c in status.get("conditions") or []}
    for kind in ConditionType:
        yield metrics.JOB_CONDITION, (str(kind), str(known.get(kind, "Unknown")).lower()), 1.0
    for metric, stamp in (
        (metrics.JOB_CREATED, meta.get("creationTimestamp")),
        (metrics.JOB_STARTED, status.get("started")),
        (metrics.JOB_FINISHED, status.get("finished")),
    ):
        if stamp:
            yield metric, (), datetime.fromisoformat(stamp).timestamp()
    ratio = (status.get("progress") or {}).get("ratio")
    if ratio is not None:
        yield metrics.JOB_PROGRESS, (), float(ratio)
    yield metrics.JOB_RESTARTS, (), float(status.get("restarts") or 0)
    for kind, count in (status.get("failures") or {}).items():
        yield metrics.JOB_FAILURES, (kind,), float(count)
    yield metrics.JOB_GPUS, (), float(status.get("gpus") or 0)


class Telemetry:
    """The operator's own numbers."""

    def __init__(self, store: Store) -> None:
        # A second series for each counter that says when it began, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(Jobs(store))
        self._seconds = Histogram(
            metrics.RECONCILE_SECONDS.name,
            metrics.RECONCILE_SECONDS.help,
            metrics.RECONCILE_SECONDS.labels,
            buckets=metrics.RECONCILE_SECONDS.buckets,
            registry=self.registry,
        )
        self._errors = self._counter(metrics.RECONCILE_ERRORS)
        self._writes = self._counter(metrics.API_WRITES)
        self.queue_depth = self._gauge(metrics.QUEUE_DEPTH)
        self.leader = self._gauge(metrics.OPERATOR_LEADER)
        self._gauge(metrics.BUILD_INFO).labels(version("troika-operator")).set(1)

    def looked(self, kind: str, seconds: float, error: str | None) -> None:
        """Count one look at a job."""
        self._seconds.labels(kind).observe(seconds)
        if error is not None:
            self._errors.labels(kind, error).inc()

    def wrote(self, resource: str, verb: str) -> None:
        """Count one write to the API server."""
        self._writes.labels(resource, verb).inc()

    def _counter(self, metric: metrics.Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, metric: metrics.Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
