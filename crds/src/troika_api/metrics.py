"""Every metric as data: name, type, labels, unit and help. Exporters and docs are made from it."""

from dataclasses import dataclass
from typing import Literal

MetricType = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """One family. Counters carry their `_total` in the name; units are in the name too."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


TRAINER_LABELS = ("kind", "name")
"""Labels of every trainer series: kind and name of the job; the scrape adds namespace and pod."""

STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

# Series that describe the whole job are exported by rank 0 only: sums over pods stay true.
TRAIN_TOKENS = Metric(
    "troika_train_tokens_total",
    "counter",
    "Training tokens processed by this attempt over all ranks, padding not counted.",
    TRAINER_LABELS,
)
TRAIN_SAMPLES = Metric(
    "troika_train_samples_total",
    "counter",
    "Training sequences processed by this attempt over all ranks.",
    TRAINER_LABELS,
)
TRAIN_STEPS = Metric(
    "troika_train_steps_total", "counter", "Optimizer steps made by this attempt.", TRAINER_LABELS
)
TRAIN_FLOPS = Metric(
    "troika_train_model_flops_total",
    "counter",
    "Model FLOPs of this attempt over all ranks; recomputation is not counted.",
    TRAINER_LABELS,
)
TRAIN_PEAK_FLOPS = Metric(
    "troika_train_peak_flops",
    "gauge",
    "Dense peak FLOP/s of all ranks' devices; absent where the device is not known.",
    TRAINER_LABELS,
)
TRAIN_STEP_SECONDS = Metric(
    "troika_train_step_duration_seconds",
    "histogram",
    "Duration of an optimizer step.",
    TRAINER_LABELS,
    STEP_BUCKETS,
)
TRAIN_PHASE_SECONDS = Metric(
    "troika_train_phase_seconds_total",
    "counter",
    "Time of rank 0 by phase: loading, data, step, evaluation, checkpoint, export.",
    (*TRAINER_LABELS, "phase"),
)
TRAIN_LOSS = Metric("troika_train_loss", "gauge", "Training loss of the last step.", TRAINER_LABELS)
TRAIN_VALIDATION_LOSS = Metric(
    "troika_train_validation_loss", "gauge", "Newest validation loss.", TRAINER_LABELS
)
TRAIN_GRAD_NORM = Metric(
    "troika_train_gradient_norm",
    "gauge",
    "Global L2 norm of the last gradient, before clipping.",
    TRAINER_LABELS,
)
TRAIN_LEARNING_RATE = Metric(
    "troika_train_learning_rate", "gauge", "Learning rate of the last step.", TRAINER_LABELS
)
TRAIN_STEP = Metric(
    "troika_train_step",
    "gauge",
    "Step that the run has reached, over all attempts.",
    TRAINER_LABELS,
)
TRAIN_TARGET_STEPS = Metric(
    "troika_train_target_steps", "gauge", "Steps of the whole run.", TRAINER_LABELS
)
TRAIN_LAST_PROGRESS = Metric(
    "troika_train_last_progress_timestamp_seconds",
    "gauge",
    "Unix time of the last sign of progress.",
    TRAINER_LABELS,
)
CHECKPOINT_SECONDS = Metric(
    "troika_checkpoint_duration_seconds",
    "histogram",
    "Time for which a checkpoint held up the training loop.",
    TRAINER_LABELS,
    STEP_BUCKETS,
)
CHECKPOINT_LAST_SUCCESS = Metric(
    "troika_checkpoint_last_success_timestamp_seconds",
    "gauge",
    "Unix time of the newest complete checkpoint.",
    TRAINER_LABELS,
)
TRAINER_METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))

JOB_LABELS = ("namespace", "kind", "name")
JOB_INFO = Metric(
    "troika_job_info",
    "gauge",
    "1 for every job; carries what changes seldom.",
    (*JOB_LABELS, "uid", "queue", "objective"),
)
JOB_PHASE = Metric(
    "troika_job_phase", "gauge", "1 for the phase that the job is in.", (*JOB_LABELS, "phase")
)
JOB_CONDITION = Metric(
    "troika_job_status_condition",
    "gauge",
    "1 for the status that the condition has.",
    (*JOB_LABELS, "condition", "status"),
)
JOB_CREATED = Metric(
    "troika_job_created_timestamp_seconds", "gauge", "Unix time of creation.", JOB_LABELS
)
JOB_STARTED = Metric(
    "troika_job_started_timestamp_seconds", "gauge", "Unix time of the first attempt.", JOB_LABELS
)
JOB_FINISHED = Metric(
    "troika_job_finished_timestamp_seconds", "gauge", "Unix time of the end.", JOB_LABELS
)
JOB_PROGRESS = Metric(
    "troika_job_progress_ratio", "gauge", "Steps done over all steps.", JOB_LABELS
)
JOB_RESTARTS = Metric(
    "troika_job_restarts", "gauge", "Attempts of the job that failures made necessary.", JOB_LABELS
)
JOB_FAILURES = Metric(
    "troika_job_failures", "gauge", "Failed attempts of the job by class.", (*JOB_LABELS, "class")
)
JOB_GPUS = Metric("troika_job_gpus", "gauge", "GPUs held.", JOB_LABELS)
RECONCILE_SECONDS = Metric(
    "troika_reconcile_duration_seconds",
    "histogram",
    "Duration of one look at one job.",
    ("kind",),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
RECONCILE_ERRORS = Metric(
    "troika_reconcile_errors_total",
    "counter",
    "Looks at a job that failed, by error.",
    ("kind", "error"),
)
API_WRITES = Metric(
    "troika_api_writes_total",
    "counter",
    "Writes to the API server by resource and verb.",
    ("resource", "verb"),
)
QUEUE_DEPTH = Metric("troika_work_queue_depth", "gauge", "Jobs waiting to be looked at.")
OPERATOR_LEADER = Metric("troika_operator_leader", "gauge", "1 on the replica that acts.")
BUILD_INFO = Metric("troika_build_info", "gauge", "1; carries the version.", ("version",))
OPERATOR_METRICS = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, Metric) and value not in TRAINER_METRICS
)
