"""Sound: read with libsndfile, mixed to mono at the rate of the model, kept as int16 on disk.

The model's feature extractor runs when a batch is made: it pads, normalises and, for models on
spectrograms, transforms.
"""

import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from scipy.signal import resample_poly
from transformers import AutoConfig, AutoFeatureExtractor, PretrainedConfig, PreTrainedModel
from typing_extensions import override

from .batch import Integers
from .errors import ConfigError
from .loading import cannot_load
from .preprocessor import Preprocessing
from .rows import Row
from .runfile import Run, local_or_hub
from .shards import ColumnType, Example, Store

Samples = npt.NDArray[np.int16]

SOUND_COLUMNS = {"samples": ColumnType("int16"), "file": ColumnType("uint8")}
"""How a clip is stored: mono, at the rate of the feature extractor; and the name of its file."""

TOKENS_PER_SECOND = 50
"""A token of sound is 20 ms: the stride of wav2vec 2.0 and its kin."""

DEFAULT_MAX_SECONDS = 30.0
FULL_SCALE = 32768.0


class Sounds(Preprocessing):
    """The feature extractor that comes with the model."""

    name = "feature-extractor"

    @override
    def load(self, path: str, *, trust_remote_code: bool) -> Any:
        return load_extractor(path, trust_remote_code=trust_remote_code)

    @override
    def fingerprint(self, preprocessor: Any) -> str:
        return extractor_fingerprint(preprocessor)


def load_extractor(path: str, *, trust_remote_code: bool) -> Any:
    """A feature extractor for sound from a directory or the hub.

    Raises:
        ConfigError: there is none.
    """
    loader: Any = AutoFeatureExtractor
    try:
        extractor = loader.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(
            "a feature extractor",
            path,
            error,
            remedy="name a directory that holds preprocessor_config.json",
        ) from error
    if not getattr(extractor, "sampling_rate", None):
        raise ConfigError(
            f"the feature extractor in {path} is not one for sound: it has no sampling_rate",
            "name a model for sound",
        )
    return extractor


def extractor_fingerprint(extractor: Any) -> str:
    """A hash of everything that decides what it gives."""
    text = json.dumps(extractor.to_dict(), sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()


def read_sound(row: Row, column: str, rate: int) -> Samples:
    """The clip in a column, mono, at this many samples a second. Shape [samples].

    Raises:
        DataError: it is missing, empty, or no sound that libsndfile reads.
    """
    content = row.content(column)
    named = row.values[column]
    what = named if isinstance(named, str) else f"{len(content)} bytes"
    try:
        samples, found = soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise row.error(
            f"column {column!r}: {what} is not a sound: {error}; "
            "expected WAV, FLAC, OGG, MP3 or another format that libsndfile reads"
        ) from error
    if not len(samples):
        raise row.error(f"column {column!r}: {what} holds no samples")
    return at_rate(samples, found, rate)


def least_samples(run: Run) -> int:
    """What the model of a run needs for one frame: what its convolutions over samples see at once.

    1 where it has none.

    Raises:
        ConfigError: there is no model.
    """
    path = local_or_hub(run.model.path or "")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=run.model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(
            "the model", path, error, remedy="name a directory that holds config.json"
        ) from error
    least = 1
    for kernel, stride in reversed(_convolutions(config)):
        least = (least - 1) * stride + kernel
    return least


def _convolutions(config: PretrainedConfig) -> list[tuple[int, int]]:
    """Kernel and stride of each layer over the samples."""
    kernels, strides = (getattr(config, f"conv_{what}", ()) for what in ("kernel", "stride"))
    return list(zip(kernels, strides, strict=True))


def require_a_frame(samples: Samples, least: int, rate: int, row: Row) -> None:
    """A clip must be long enough to be heard at all.

    Args:
        samples: Shape [samples].
        least: As `least_samples`.
        rate: Samples a second.
        row: Where the clip is from.

    Raises:
        DataError: it is not.
    """
    if len(samples) < least:
        raise row.error(
            f"the clip lasts {len(samples) / rate:.4g} s; the model needs at least "
            f"{least / rate:.4g} s"
        )


@contextmanager
def spans_that_fit(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Iterator[None]:
    """Without SpecAugment for a batch that is no longer than one of the spans that it hides.

    transformers refuses one that is shorter, and to hide all of a clip teaches nothing.

    Args:
        model: wav2vec 2.0 or its kin; another is left as it is.
        inputs: What it is to be called with.
    """
    if not (model.training and getattr(model.config, "apply_spec_augment", False)):
        yield
        return
    config: Any = model.config
    frames = inputs[model.main_input_name].shape[1]
    for kernel, stride in _convolutions(config):
        frames = (frames - kernel) // stride + 1
    config.apply_spec_augment = frames > config.mask_time_length
    try:
        yield
    finally:
        config.apply_spec_augment = True


def at_rate(samples: Samples, found: int, wanted: int) -> Samples:
    """Channels mixed to one, and another number of samples a second.

    Args:
        samples: Shape [samples, channels].
        found: Their rate in Hz.
        wanted: The rate to come out, in Hz.

    Returns:
        Shape [samples x wanted / found].
    """
    if samples.shape[1] == 1 and found == wanted:
        return np.ascontiguousarray(samples[:, 0])
    mono: npt.NDArray[np.float64] = samples.astype(np.float64).mean(axis=1)
    if found != wanted:
        common = math.gcd(found, wanted)
        mono = resample_poly(mono, wanted // common, found // common)
    whole: Samples = np.clip(np.rint(mono), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return whole


def stored(samples: Samples, row: Row, column: str) -> Example:
    """One clip as `SOUND_COLUMNS`: what is in a column of a row, or a part of it."""
    name = file_name(row, column).encode()
    return {"samples": samples, "file": np.frombuffer(name, dtype=np.uint8)}


def file_name(row: Row, column: str) -> str:
    """The file of a clip as the row has it; the row itself where that holds the sound."""
    value = row.values[column]
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) and path else f"{row.path}, line {row.line}"


class SoundStore:
    """The clips of a split."""

    def __init__(self, store: Store, extractor: Any) -> None:
        self._samples = store["samples"]
        self._files = store["file"]
        self._extractor = extractor
        self.samples: Integers = self._samples.lengths
        """Samples of each clip, shape [examples]."""

    def __len__(self) -> int:
        return len(self.samples)

    def file(self, index: int) -> str:
        """Where a clip is from, for people."""
        return bytes(self._files[index]).decode()

    def tokens(self, indices: Integers) -> Integers:
        """Length of each clip in tokens of 20 ms. Shape [samples]."""
        rate = self._extractor.sampling_rate
        tokens: Integers = np.maximum(1, self.samples[indices] * TOKENS_PER_SECOND // rate)
        return tokens

    def features(self, indices: Integers) -> dict[str, torch.Tensor]:
        """What the model takes: input values or features, a mask where the extractor gives one."""
        return extract(self._extractor, [self._samples[int(index)] for index in indices])


def extract(extractor: Any, clips: Sequence[Samples]) -> dict[str, torch.Tensor]:
    """Clips of one rate and many lengths, as the extractor pads and transforms them."""
    made = extractor(
        [clip.astype(np.float32) / FULL_SCALE for clip in clips],
        sampling_rate=extractor.sampling_rate,
        padding=True,
        return_tensors="np",
    )
    return {name: torch.from_numpy(np.asarray(value)) for name, value in made.items()}
