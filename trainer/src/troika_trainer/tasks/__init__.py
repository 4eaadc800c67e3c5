"""One file for each kind of work: `MaskedLM` is in `masked_lm.py`. Another touches no other here.

The API lists it in its `tasks.py`, with the columns and the scores that it has.
"""

import importlib
import re

from troika_api.v1alpha1.run import FinetuneRun, PretrainRun

from .base import Task

__all__ = ["Task", "task_class"]


def task_class(run: PretrainRun | FinetuneRun) -> type[Task]:
    """The class named like the run's objective or task, from the module named after it."""
    name = (run.objective if isinstance(run, PretrainRun) else run.task).value
    module = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    found: type[Task] = getattr(importlib.import_module(f".{module}", __package__), name)
    return found
