"""Questions whose answers are where they say, rankings that give nothing away, and sound."""

import math
import wave
from array import array
from pathlib import Path

import pytest

from data.lexicon import Entry
from data.reading import Reader, query, question, used
from data.speech import RATE, SOURCE_RATE, SPEAKERS, clips, resample, write_wav


def entry(number: int, label: str = "noun.act", family: str = "f") -> Entry:
    # "word 1" is also a part of "word 10" and of every definition
    return Entry(f"word {number}", "noun", f"what word {number} means", label, family)


def test_a_question_points_at_its_answer() -> None:
    kinds = set()
    for first in range(50):
        row = question([entry(first + n) for n in range(5)])
        answers = row["answers"]
        assert isinstance(answers, dict)
        text, start = answers["text"][0], answers["answer_start"][0]
        context, asked = str(row["context"]), str(row["question"])
        assert context[start : start + len(text)] == text
        for_word = asked.startswith("Which noun")
        kinds.add(for_word)
        # the answer that is right where it stands, not the same characters somewhere else
        assert context[:start].endswith('The noun "' if for_word else '" means ')
    assert kinds == {True, False}


def test_a_reader_wants_words_of_the_definitions_and_of_no_others() -> None:
    nouns = ["boat", "river", "bridge", "stone", *(f"noun{chr(97 + n)}" for n in range(20))]
    catalogue = {word: Entry(word, "noun", f"a {word}", "noun.artifact", "") for word in nouns}
    meanings = ["small boat", "of the river", "a bridge of Stone"]
    history = [Entry(f"w{n}", "verb", text, "verb.act", "") for n, text in enumerate(meanings)]
    assert used(history[2], catalogue) == ["bridge", "stone"]
    rows = query(Reader.of(history, catalogue), list(catalogue.values()))
    assert {row["query_id"] for row in rows} == {"verb w2"}
    assert rows[0]["history"] == "w0: small boat\nw1: of the river\nw2: a bridge of Stone"
    grades = {str(row["candidate"]).split(":")[0]: row["relevance"] for row in rows}
    assert len(grades) == len(rows) == 8
    assert (grades.pop("boat"), grades.pop("river")) == (1, 1)
    assert sorted(grades.values(), key=str) == [0, 0, 0, 0, 0, 2]
    assert {word for word, grade in grades.items() if grade == 2} < {"bridge", "stone"}
    assert not {"bridge", "stone"} & {word for word, grade in grades.items() if grade == 0}


@pytest.mark.parametrize(("hertz", "kept"), [(200, 1.0), (3_000, 1.0), (9_500, 0.0)])
def test_resampling_keeps_what_fits_and_drops_what_would_come_back_lower(
    hertz: int, kept: float
) -> None:
    tone = [round(10_000 * math.sin(2 * math.pi * hertz * n / SOURCE_RATE)) for n in range(4_410)]
    out = resample(array("h", tone))
    assert len(out) == 3_200
    middle = out[500:-500]
    wanted = [10_000 * math.sin(2 * math.pi * hertz * n / RATE) for n in range(500, 2_700)]
    errors = [abs(a - kept * b) for a, b in zip(middle, wanted, strict=True)]
    assert max(errors) < 300


def test_speakers_are_in_one_split_and_every_clip_has_its_own_name(tmp_path: Path) -> None:
    everyone = [speaker for speakers in SPEAKERS.values() for speaker in speakers]
    assert len(everyone) == len(set(everyone))
    names = [clip.name for clip in clips(tuple(everyone))]
    assert len(names) == len(set(names)) == 840
    write_wav(tmp_path / "a" / "clip.wav", array("h", [1, -2, 3]))
    with wave.open(str(tmp_path / "a" / "clip.wav")) as opened:
        assert opened.getparams()[:4] == (1, 2, RATE, 3)
        assert array("h", opened.readframes(3)) == array("h", [1, -2, 3])
