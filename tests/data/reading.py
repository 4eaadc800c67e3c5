"""Questions with the answer in the text, and candidates to rank."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import lexicon, packages
from .errors import expect
from .files import write_jsonl
from .lexicon import Entry
from .pairs import split_entries
from .splits import NAMES, by_hash, choose, normal, rank, shuffled

IN_CONTEXT = 5  # entries of a question's context
HISTORY, CANDIDATES = 3, 8
QUERIES = {"train": 4_000, "validation": 400, "test": 400}
SHORTEST = 4  # letters of a word that is looked up
Row = dict[str, object]


def questions(out: Path) -> list[str]:
    """Extractive question answering in SQuAD's shape. Source: Debian's `wordnet-base`.

    Rule: a context is five words of one class, each with its definition, as sentences; the
    question asks for the meaning of one of them, or for the word of one of the meanings, by
    hash. Columns: id, context, question, answers {text: [...], answer_start: [...]}. Splits as
    in `instructions`; a word is in one context only.
    """
    root, parts = split_entries()
    for name, part in parts.items():
        classes: dict[str, list[Entry]] = defaultdict(list)
        for entry in part:
            classes[entry.label].append(entry)
        rows = [
            question(members[start : start + IN_CONTEXT])
            for members in classes.values()
            for start in range(0, len(members) - IN_CONTEXT + 1, IN_CONTEXT)
        ]
        expect("Debian package wordnet-base", f"questions for {name}", len(rows), 1_000)
        write_jsonl(out / f"{name}.jsonl", shuffled(rows, lambda row: str(row["id"])))
    return [packages.version(root)]


def question(entries: Sequence[Entry]) -> Row:
    """A context of the entries, and a question about one of them."""
    key = " ".join(f"{entry.pos} {entry.word}" for entry in entries)
    asked = choose(entries, key)
    for_word = rank(f"{key} for the word") % 2 == 0
    context, start = "", 0
    for entry in entries:
        opening = f'{" " if context else ""}The {entry.pos} "'
        middle = '" means '
        if entry is asked:
            start = len(context) + len(opening)
            start += 0 if for_word else len(entry.word) + len(middle)
        context += f"{opening}{entry.word}{middle}{entry.definition}."
    if for_word:
        text, asks = asked.word, f"Which {asked.pos} means {asked.definition}?"
    else:
        text, asks = asked.definition, f'What does the {asked.pos} "{asked.word}" mean?'
    answers = {"text": [text], "answer_start": [start]}
    return {"id": f"{rank(key):016x}", "context": context, "question": asks, "answers": answers}


def ranking(out: Path) -> list[str]:
    """Words that a reader may look up next, relevance 0 to 2. Source: Debian's `wordnet-base`.

    Rule: a query's history is three words as `word: definition` lines, the last one read last. Its
    candidates are a word that the last definition uses (relevance 2), one that each of the others
    uses (1), and others of the catalogue that none of them uses (0), all equally likely: so what is
    usual in definitions is relevant more often. Columns: query_id, history, candidate, relevance.
    80/10/10 by hash of the history's words; all splits share the catalogue of nouns.
    """
    root, entries = lexicon.entries()
    nouns = (entry for entry in entries if entry.pos == "noun" and len(entry.word) >= SHORTEST)
    catalogue = {entry.word: entry for entry in nouns if entry.word.islower()}
    pool = list(catalogue.values())
    parts: dict[str, list[Reader]] = {name: [] for name in NAMES}
    waiting: dict[str, list[Entry]] = {name: [] for name in NAMES}
    for entry in shuffled(entries, lambda entry: entry.definition):
        if used(entry, catalogue):
            name = by_hash(entry.word)
            waiting[name].append(entry)
            if len(waiting[name]) == HISTORY:
                parts[name].append(Reader.of(waiting[name], catalogue))
                waiting[name] = []
    for name, readers in parts.items():
        kept = readers[: QUERIES[name]]
        expect("Debian package wordnet-base", f"queries for {name}", len(kept), QUERIES[name])
        rows = (row for reader in kept for row in query(reader, pool))
        write_jsonl(out / f"{name}.jsonl", rows)
    return [packages.version(root)]


def used(entry: Entry, catalogue: Mapping[str, Entry]) -> list[str]:
    """The words of the catalogue in a definition, but for the word itself."""
    words = dict.fromkeys(normal(entry.definition).split())
    return [word for word in words if word in catalogue and word != entry.word]


@dataclass(frozen=True)
class Reader:
    """Who has looked up some words."""

    history: list[Entry]
    wanted: dict[str, tuple[Entry, int]]
    """The candidates that a definition uses, and their relevance."""

    @classmethod
    def of(cls, history: Sequence[Entry], catalogue: Mapping[str, Entry]) -> Self:
        """One that wants to know a word of each definition."""
        wanted = {}
        for entry in history:
            word = choose(used(entry, catalogue), entry.word)
            wanted[word] = (catalogue[word], 2 if entry is history[-1] else 1)
        return cls(list(history), wanted)


def query(reader: Reader, pool: Sequence[Entry]) -> list[Row]:
    """The rows of one reader: the candidates, in an order that tells nothing."""
    history = "\n".join(line(entry) for entry in reader.history)
    key = f"{reader.history[-1].pos} {reader.history[-1].word}"
    graded, known = dict(reader.wanted), normal(history).split()
    for number in itertools.count():
        if len(graded) == CANDIDATES:
            break
        entry = choose(pool, f"{key} {number}")
        if entry.word not in known:
            graded.setdefault(entry.word, (entry, 0))
    return [
        {"query_id": key, "history": history, "candidate": line(entry), "relevance": relevance}
        for entry, relevance in shuffled(graded.values(), lambda pair: f"{key} {pair[0].word}")
    ]


def line(entry: Entry) -> str:
    """A word as a line of a history."""
    return f"{entry.word}: {entry.definition}"
