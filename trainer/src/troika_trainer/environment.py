"""What a run was trained with, for whoever wants to know later why it came out so."""

import platform
from importlib.metadata import version

import torch
from transformers import PreTrainedModel

from .distributed import Group
from .runfile import Run

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy")


def environment(run: Run, group: Group, model: PreTrainedModel) -> dict[str, str]:
    """Device, ranks, precision and versions by name, for people."""
    place, on_gpu = group.place, group.device.type == "cuda"
    nodes = place.world_size // place.local_world_size
    found = {
        "Device": torch.cuda.get_device_name(group.device) if on_gpu else _processor(),
        "Ranks": f"{place.world_size} on {nodes} node{'s' if nodes > 1 else ''}",
        "Precision": run.training.precision.value,
        "Parameters": f"{model.num_parameters():,}",
        "Architecture": type(model).__name__,
        "Attempt": str(place.attempt),
        "Troika": version("troika-trainer"),
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }
    if on_gpu:
        found["CUDA"] = str(torch.version.cuda)
    return found


def _processor() -> str:
    """`CPU (x86_64, 8 threads)`."""
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
