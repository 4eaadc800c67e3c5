"""What to change after a failure of each class, where the trainer did not say it better."""

from troika_api.contract import FailureClass

_REMEDIES: dict[FailureClass, str | None] = {
    FailureClass.BAD_CONFIG: "correct the spec and create the job anew",
    FailureClass.BAD_DATA: "correct the data files or data.columns and create the job anew",
    FailureClass.NON_FINITE: (
        "lower training.optimizer.learningRate, lengthen schedule.warmupRatio, "
        "or use precision FP32"
    ),
    FailureClass.OUT_OF_MEMORY: (
        "raise compute.resources.limits.memory or lower training.microBatchSize"
    ),
    FailureClass.COMMUNICATION: (
        "look for network policies and lost nodes between the pods; the log names the peer"
    ),
    FailureClass.STORAGE: "see that checkpoint.uri and output.uri can be written and have space",
    FailureClass.CRASH: "read the pod's log",
    FailureClass.HANG: "read the pods' logs; raise policy.hang.after if a long pause is normal",
    FailureClass.PREEMPTED: None,
    FailureClass.NODE_LOST: None,
    FailureClass.STARTUP: "mend what held the pods up, or raise policy.startupDeadline",
    FailureClass.DEADLINE: "raise policy.deadline in a new job with the same checkpoint.uri",
}


def remedy_for(kind: FailureClass) -> str | None:
    """Advice for the class; None where there is nothing for the user to do."""
    return _REMEDIES[kind]
