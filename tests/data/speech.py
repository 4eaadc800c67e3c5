"""Spoken words, made by a speech synthesizer: 16 kHz WAV files, 16-bit mono."""

import math
import subprocess
import sys
import tempfile
import wave
from array import array
from collections.abc import Iterator
from functools import cache
from operator import mul
from pathlib import Path
from typing import NamedTuple, TypeAlias

from . import packages
from .errors import DataError, expect
from .files import write_jsonl
from .splits import choose, shuffled

Samples: TypeAlias = "array[int]"  # in quotes, as it cannot be evaluated before Python 3.12

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
)
# (what is said, words a minute): the word alone, slowly and fast, and in a phrase
TAKES = (("{word}", 135), ("{word}", 180), ("please say {word} again", 160))
# Accent + variant. "en" is British; "en-gb" would lose the variant without a word. A speaker is
# in one split, so the held-out splits ask about new voices.
SPEAKERS = {
    "train": (
        *("en-us+m1", "en-us+f2", "en-us+m7", "en+m3", "en+f4"),
        *("en-gb-x-rp+m2", "en-gb-x-rp+f1", "en-gb-x-gbclan+m5", "en-gb-scotland+f3", "en-029+m4"),
    ),
    "validation": ("en-gb-scotland+m6", "en-us+f5"),
    "test": ("en-029+f3", "en+m8"),
}
PITCHES = (35, 45, 55, 65)
RATE, SOURCE_RATE = 16_000, 22_050
# 22,050 to 16,000 samples is 441 to 320: an output sample lies at one of 320 places between two
UP, DOWN = 320, 441
TAPS = 24


class Clip(NamedTuple):
    """One thing that one speaker says."""

    name: str
    speaker: str
    label: str
    transcript: str
    speed: int


def speech(out: Path) -> list[str]:
    """Twenty spoken words, alone and in a phrase. Made by Debian's `espeak-ng`, 840 clips.

    Rule: each of 14 voices says each word three times: slowly, fast, and in "please say ...
    again"; the pitch is picked by hash. Ten voices are in train, two in validation, two in
    test. SPLIT/NAME.wav, and SPLIT/metadata.jsonl with file_name, label (the word), transcript
    (all that is said), speaker.
    """
    packages.program("espeak-ng", "espeak-ng")
    voice = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True)
    heard: set[bytes] = set()
    for name, speakers in SPEAKERS.items():
        rows = []
        for clip in shuffled(clips(speakers), lambda clip: clip.name):
            samples = resample(say(clip))
            expect("Debian package espeak-ng", f"samples in {clip.name}", len(samples), RATE // 8)
            if samples.tobytes() in heard:  # a voice that it does not know, it replaces silently
                raise DataError(f"Debian package espeak-ng: {clip.name} sounds as another clip")
            heard.add(samples.tobytes())
            write_wav(out / name / f"{clip.name}.wav", samples)
            row = {"file_name": f"{clip.name}.wav", "label": clip.label}
            rows.append({**row, "transcript": clip.transcript, "speaker": clip.speaker})
        write_jsonl(out / name / "metadata.jsonl", rows)
    return [" ".join(voice.stdout.split()[:4])]


def clips(speakers: tuple[str, ...]) -> Iterator[Clip]:
    """All that these speakers say."""
    for speaker in speakers:
        for word in WORDS:
            for number, (phrase, speed) in enumerate(TAKES):
                name = f"{speaker.replace('+', '-')}-{word}-{number}"
                yield Clip(name, speaker, word, phrase.format(word=word), speed)


def say(clip: Clip) -> Samples:
    """The synthesizer's samples for a clip."""
    pitch = choose(PITCHES, clip.name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"  # on standard output the header's length would be wrong
        command = ["espeak-ng", "-v", clip.speaker, "-s", str(clip.speed), "-p", str(pitch)]
        done = subprocess.run(
            [*command, "-w", str(path), clip.transcript],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or done.stderr.strip() or not path.is_file():
            said = done.stderr.strip() or "it wrote no file"
            raise DataError(f"Debian package espeak-ng: cannot speak as {clip.speaker}: {said}")
        with wave.open(str(path)) as opened:
            shape = (opened.getnchannels(), opened.getsampwidth(), opened.getframerate())
            samples = array("h", opened.readframes(opened.getnframes()))
    if shape != (1, 2, SOURCE_RATE):
        raise DataError(f"Debian package espeak-ng: expected 16-bit mono at 22,050 Hz, got {shape}")
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def resample(samples: Samples) -> Samples:
    """22,050 Hz to 16,000 Hz through a low-pass filter, in whole numbers.

    Python's own `audioop` is gone from 3.13 on, and its method let high tones come back as low
    ones. Whole numbers give the same samples on every machine.
    """
    padded = array("h", bytes(TAPS)) + samples + array("h", bytes(TAPS))
    out = array("h")
    for index in range(len(samples) * UP // DOWN):
        at, place = divmod(index * DOWN, UP)
        # `padded` starts TAPS / 2 samples early, so the filter's middle is at `at`
        value = sum(map(mul, _filters()[place], padded[at + 1 : at + 1 + TAPS])) >> 15
        out.append(max(-32768, min(32767, value)))
    return out


@cache
def _filters() -> list[list[int]]:
    """For each place between two samples, the weights of the 24 samples around it, of 2**15.

    A sinc that passes what lies under 7.6 kHz, in a Hann window.
    """
    cut = 0.95 * RATE / SOURCE_RATE
    filters = []
    for place in range(UP):
        distances = [tap - TAPS / 2 + 1 - place / UP for tap in range(TAPS)]
        weights = [
            (math.sin(math.pi * cut * d) / (math.pi * d) if d else cut)
            * (0.5 + 0.5 * math.cos(2 * math.pi * d / (TAPS + 1)))
            for d in distances
        ]
        filters.append([round(2**15 * weight / sum(weights)) for weight in weights])
    return filters


def write_wav(path: Path, samples: Samples) -> None:
    """Write 16-bit mono samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    little = array("h", samples)
    if sys.byteorder == "big":
        little.byteswap()
    with wave.open(str(path), "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(RATE)
        opened.writeframes(little.tobytes())
