"""Questions with the answer in the text, and candidates to rank."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from . import lexicon, packages
from .errors import expect
from .files import write_jsonl
from .lexicon import Entry
from .pairs import split_entries
from .splits import NAMES, by_hash, choose, rank, shuffled

IN_CONTEXT = 5  # entries of a question's context
HISTORY, SIBLINGS, COUSINS, STRANGERS = 3, 2, 2, 4
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
    """Candidates to rank after a history, relevance 0 to 2. Source: Debian's `wordnet-base`.

    Rule: a family is the words right under one more general meaning. A query's history is three
    words of a family, as `word: definition` lines; its candidates are two more of the family
    (relevance 2), two of the same class but another family (1) and four of other classes (0).
    Columns: query_id, history, candidate, relevance. 80/10/10 by hash of the family, with the
    candidates from the same split, so that no word is in two.
    """
    root, entries = lexicon.entries()
    parts: dict[str, list[Entry]] = {name: [] for name in NAMES}
    for entry in shuffled(entries, lambda entry: entry.definition):
        if entry.hypernym:
            parts[by_hash(entry.hypernym)].append(entry)
    for name, part in parts.items():
        families: dict[str, list[Entry]] = defaultdict(list)
        for entry in part:
            families[entry.hypernym].append(entry)
        large = [key for key in sorted(families) if len(families[key]) >= HISTORY + SIBLINGS]
        expect("Debian package wordnet-base", f"queries for {name}", len(large), 200)
        rows = (row for key in large for row in query(key, families[key], part))
        write_jsonl(out / f"{name}.jsonl", rows)
    return [packages.version(root)]


def query(key: str, family: Sequence[Entry], pool: Sequence[Entry]) -> list[Row]:
    """The rows of one query: its candidates, in an order that tells nothing."""
    label = family[0].label
    graded = [(entry, 2) for entry in family[HISTORY : HISTORY + SIBLINGS]]
    wanted = {1: COUSINS, 0: STRANGERS}
    start = rank(key) * len(pool) >> 64
    for entry in [*pool[start:], *pool[:start]]:
        relevance = 1 if entry.label == label else 0
        if entry.hypernym != key and wanted[relevance]:
            wanted[relevance] -= 1
            graded.append((entry, relevance))
        if not any(wanted.values()):
            break
    history = "\n".join(line(entry) for entry in family[:HISTORY])
    return [
        {"query_id": key, "history": history, "candidate": line(entry), "relevance": relevance}
        for entry, relevance in shuffled(graded, lambda pair: f"{key} {line(pair[0])}")
    ]


def line(entry: Entry) -> str:
    """A word as a line of a history."""
    return f"{entry.word}: {entry.definition}"
