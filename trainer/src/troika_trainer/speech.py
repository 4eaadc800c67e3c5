"""Speech: a feature extractor for the sound and a tokenizer of characters for what is said."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jiwer
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2Processor
from typing_extensions import override

from troika_api.contract import Score
from troika_api.v1alpha1.run import FinetuneRun

from .errors import ConfigError, DataError
from .preprocessor import Preprocessing, Preprocessor, Rows
from .rows import Row
from .runfile import Run, local_or_hub
from .sounds import extractor_fingerprint, load_extractor

BLANK, UNKNOWN, SPACE = "<pad>", "<unk>", "|"
WORST = 20


class Speech(Preprocessing):
    """What comes with the model; its characters are learnt where it brings no tokenizer."""

    name = "speech-processor"

    @override
    def load(self, path: str, *, trust_remote_code: bool) -> Wav2Vec2Processor:
        extractor = load_extractor(path, trust_remote_code=trust_remote_code)
        tokenizer = _tokenizer(path, trust_remote_code=trust_remote_code)
        if tokenizer is None:
            raise ConfigError(
                f"there is no tokenizer in {path}", "name a directory with vocab.json"
            )
        return _processor(extractor, tokenizer)

    @override
    def recipe(self, run: Run) -> Any | None:
        assert isinstance(run, FinetuneRun)
        path = local_or_hub(run.model.path or "")
        trusted = run.model.trust_remote_code
        if _tokenizer(path, trust_remote_code=trusted) is not None:
            return None
        extractor = load_extractor(path, trust_remote_code=trusted)
        return [run.data.columns.transcript, extractor_fingerprint(extractor)]

    @override
    def make(self, run: Run, rows: Rows) -> Preprocessor:
        assert isinstance(run, FinetuneRun)
        column = run.data.columns.transcript
        extractor = load_extractor(
            local_or_hub(run.model.path or ""), trust_remote_code=run.model.trust_remote_code
        )
        tokenizer = character_tokenizer(transcript_of(row, column) for row in rows())
        return _processor(extractor, tokenizer)

    @override
    def fingerprint(self, preprocessor: Wav2Vec2Processor) -> str:
        tokenizer: Any = preprocessor.tokenizer
        parts = [
            extractor_fingerprint(preprocessor.feature_extractor),
            json.dumps(tokenizer.get_vocab(), sort_keys=True),
            json.dumps(tokenizer.init_kwargs, sort_keys=True, default=str),
        ]
        return sha256("\n".join(parts).encode()).hexdigest()


def _processor(extractor: Any, tokenizer: Any) -> Wav2Vec2Processor:
    build: Any = Wav2Vec2Processor
    made: Wav2Vec2Processor = build(extractor, tokenizer)
    return made


def _tokenizer(path: str, *, trust_remote_code: bool) -> Any:
    """The tokenizer in a directory or on the hub, or None where there is none."""
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def transcript_of(row: Row, column: str) -> str:
    """What is said, with single spaces.

    Raises:
        DataError: the column holds no text, or nothing is said.
    """
    text = " ".join(row.text(column).split())
    if not text:
        raise row.error(f"column {column!r}: expected a transcript, got nothing")
    return text


def character_tokenizer(transcripts: Iterator[str]) -> Wav2Vec2CTCTokenizer:
    """One token for each character that occurs; the bar stands between words.

    Raises:
        DataError: a transcript has a bar of its own.
    """
    characters = set().union(*transcripts) - {" "}
    if SPACE in characters:
        raise DataError(
            f"a transcript has the character {SPACE}, which stands between words",
            "take it out of the transcripts",
        )
    entries = [BLANK, UNKNOWN, SPACE, *sorted(characters)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
        build: Any = Wav2Vec2CTCTokenizer
        made: Wav2Vec2CTCTokenizer = build(
            str(path),
            pad_token=BLANK,
            unk_token=UNKNOWN,
            word_delimiter_token=SPACE,
            bos_token=None,
            eos_token=None,
        )
        return made


@dataclass(frozen=True)
class TranscriptReport:
    """What was said and what was heard."""

    words: dict[str, int]
    """Hits, substitutions, deletions and insertions."""
    worst: list[dict[str, Any]]
    """Clips with the most wrong words: number in the split from 1, file, wer, what was said and
    what was heard."""

    @classmethod
    def of(
        cls, said: Sequence[str], heard: Sequence[str], file: Callable[[int], str]
    ) -> "TranscriptReport":
        """Compare word by word.

        Args:
            said: Transcript of each clip.
            heard: What the model made of it.
            file: Where a clip is from, by its number from 0.
        """
        counts = jiwer.process_words(list(said), list(heard))
        rates = [jiwer.wer(a, b) for a, b in zip(said, heard, strict=True)]
        worst = sorted(range(len(rates)), key=lambda index: -rates[index])[:WORST]
        return cls(
            words={
                "hits": counts.hits,
                "substitutions": counts.substitutions,
                "deletions": counts.deletions,
                "insertions": counts.insertions,
            },
            worst=[
                {
                    "row": index + 1,
                    "file": file(index),
                    "wer": rates[index],
                    "said": said[index],
                    "heard": heard[index],
                }
                for index in worst
                if rates[index] > 0
            ],
        )

    @property
    def classes(self) -> list[Score]:
        """None: words are no classes."""
        return []

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {"words": self.words, "worst": self.worst}

    def as_text(self) -> str:
        """For people."""
        lines = [f"{count:7} {name}" for name, count in self.words.items()]
        lines += ["", "worst clips"]
        for clip in self.worst:
            lines += [
                f"{clip['wer']:5.2f}  file   {clip['file']}",
                f"       said   {clip['said']}",
                f"       heard  {clip['heard']}",
            ]
        return "\n".join(lines) + "\n"
