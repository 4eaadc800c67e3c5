"""Sound: read with libsndfile, mixed to mono at the rate of the model, kept as int16 on disk.

The model's feature extractor runs when a batch is made: it pads, normalises and, for models on
spectrograms, transforms.
"""

import io
import json
import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from scipy.signal import resample_poly
from transformers import AutoFeatureExtractor
from typing_extensions import override

from .batch import Integers
from .errors import ConfigError
from .loading import cannot_load
from .preprocessor import Preprocessing
from .rows import Row
from .shards import ColumnType, Example, Store

Samples = npt.NDArray[np.int16]

SOUND_COLUMNS = {"samples": ColumnType("int16")}
"""How a clip is stored: mono, at the rate of the feature extractor."""

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


def stored(samples: Samples) -> Example:
    """One clip as `SOUND_COLUMNS`."""
    return {"samples": samples}


class SoundStore:
    """The clips of a split."""

    def __init__(self, store: Store, extractor: Any) -> None:
        self._samples = store["samples"]
        self._extractor = extractor
        self.samples: Integers = self._samples.lengths
        """Samples of each clip, shape [examples]."""

    def __len__(self) -> int:
        return len(self.samples)

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
