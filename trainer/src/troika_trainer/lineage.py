"""Whether a checkpoint is of this run: what has to be equal, so that to resume is to go on.

Rows and their order are functions of the data, the seed and the batch. With others in their place
a resumed run would see some rows twice and others never, or learn tokens of another tokenizer, and
nobody would notice. How long the run is, on what it runs and how often it saves may change.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from troika_api.v1alpha1.run import PretrainRun

from .errors import ConfigError, DataError
from .integrity import SUMS
from .runfile import Run

Lineage = dict[str, str]
"""Values by the fields of the run that decide them, as a checkpoint keeps them."""

TRAIN, VALIDATION, PREPROCESSOR = "data.train", "data.validation", "the preprocessor"
DATA = {TRAIN, VALIDATION, PREPROCESSOR}
MODEL = "the frozen part of model"
"""A checkpoint does not hold it; with another one what was learnt would mean nothing."""
DIGESTS = DATA | {MODEL}
"""Fields of which there is a digest, for their content counts, not their name."""

_OWN = "give this run a checkpoint.uri of its own"


def lineage(run: Run, content: Mapping[str, str]) -> Lineage:
    """What has to be equal.

    A field that is added after a release needs a value for checkpoints that lack it: a newer
    trainer goes on with what an older one has begun.

    Args:
        run: The run file.
        content: Digests of what is read, by field.
    """
    found: dict[str, object] = {
        "kind": run.kind,
        "training.seed": run.training.seed,
        "training.globalBatchSize": run.training.global_batch_size,
        "data.packing": run.data.packing,
    }
    if isinstance(run, PretrainRun):
        found |= {
            "objective": run.objective.value,
            "data.sequenceLength": run.data.sequence_length,
            "data.streaming": run.data.streaming,
        }
        if run.data.streaming:
            found["data.shuffleWindow"] = run.data.shuffle_window
    else:
        found["task"] = run.task.value
    return {name: str(value) for name, value in found.items()} | dict(content)


def check(found: Lineage, ours: Lineage, *, checkpoint: Path) -> None:
    """Make sure that a checkpoint is of this run.

    Args:
        found: As it is in the checkpoint.
        ours: That of this run.
        checkpoint: Its directory.

    Raises:
        DataError: other data was read then.
        ConfigError: something else of the run was different.
    """
    differing = [name for name in found if name in ours and found[name] != ours[name]]
    if differing:
        told = "; ".join(_told(name, found[name], ours[name]) for name in differing)
        kind = DataError if DATA & set(differing) else ConfigError
        raise kind(
            f"{checkpoint} is of another run: {told}",
            f"put {' and '.join(differing)} back to go on, or {_OWN}",
        )
    # Runs that are alike in these have the same fields: what one of both lacks cannot be compared.
    if found.keys() != ours.keys():
        lacking = ", ".join(sorted(found.keys() ^ ours.keys()))
        raise ConfigError(
            f"{checkpoint} may be of another run: only one of both has {lacking}", _OWN
        )


def _told(name: str, was: str, is_now: str) -> str:
    if name in DIGESTS:
        what = ", or what turns it into numbers," if name in (TRAIN, VALIDATION) else ""
        return f"{name}{what} has changed (digest {was[:12]} then, {is_now[:12]} now)"
    return f"{name} was {was} and is {is_now}"


def digest_of(directory: Path, split: str) -> str:
    """Of all that a split consists of, in a directory that `integrity.seal` has closed.

    The times of files and the names of their directories are no part of it.
    """
    sums = json.loads((directory / SUMS).read_text())
    own = {name: entry for name, entry in sums.items() if name.startswith(f"{split}/")}
    return sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
