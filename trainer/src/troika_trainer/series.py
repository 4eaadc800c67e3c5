"""The Prometheus series of one job, made from the contract's list of metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from troika_api import metrics


class JobSeries:
    """Every trainer metric of the contract, registered; a series appears with its first value."""

    def __init__(self, registry: CollectorRegistry, *, kind: str, name: str) -> None:
        self._labels = {"kind": kind, "name": name}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for family in metrics.TRAINER_METRICS:
            about = (family.name, family.help, family.labels)
            match family.type:
                case "counter":
                    self._counters[family.name] = Counter(*about, registry=registry)
                case "gauge":
                    self._gauges[family.name] = Gauge(*about, registry=registry)
                case "histogram":
                    self._histograms[family.name] = Histogram(
                        *about, registry=registry, buckets=family.buckets
                    )

    def set(self, family: metrics.Metric, value: float) -> None:
        """Set a gauge."""
        self._gauges[family.name].labels(**self._labels).set(value)

    def add(self, family: metrics.Metric, amount: float) -> None:
        """Raise a counter."""
        self._counters[family.name].labels(**self._labels).inc(amount)

    def observe(self, family: metrics.Metric, value: float) -> None:
        """Count a value in a histogram."""
        self._histograms[family.name].labels(**self._labels).observe(value)

    def phase(self, phase: str, seconds: float) -> None:
        """Add to the time that a phase took."""
        counter = self._counters[metrics.TRAIN_PHASE_SECONDS.name]
        counter.labels(**self._labels, phase=phase).inc(max(0.0, seconds))
