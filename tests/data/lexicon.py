"""WordNet's database files (see wndb(5WN)), read from Debian's `wordnet-base`."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from . import packages
from .errors import expect

POS = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
# Numbers of the lexicographer files, from lexnames(5WN); the package ships no file with them.
_NOUNS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group "
    "location motive object person phenomenon plant possession process quantity relation shape "
    "state substance time"
)
_VERBS = (
    "body change cognition communication competition consumption contact creation emotion motion "
    "perception possession social stative weather"
)
LABELS = [
    *("adj.all", "adj.pert", "adv.all"),
    *(f"noun.{kind}" for kind in _NOUNS.split()),
    *(f"verb.{kind}" for kind in _VERBS.split()),
    "adj.ppl",
]


class Synset(NamedTuple):
    """A meaning, and the words that have it."""

    key: str  # part of speech and offset in its file, such as "noun 00001740"
    label: str
    words: tuple[str, ...]
    hypernym: str  # the key of the more general meaning, or nothing
    gloss: str


class Entry(NamedTuple):
    """A word in its most usual meaning."""

    word: str
    pos: str  # "noun", "verb", "adjective" or "adverb"
    definition: str
    label: str
    hypernym: str


@cache
def synsets() -> tuple[Path, list[Synset]]:
    """Every meaning in the database, and the folder of the package."""
    root = packages.debian("wordnet-base")
    found = []
    for pos in POS:
        data = (root / f"usr/share/wordnet/data.{pos}").read_text(encoding="utf-8")
        # lines that start with blanks are the licence
        found += [synset(pos, line) for line in data.splitlines() if line[:1].isdigit()]
    expect("Debian package wordnet-base", "synsets", len(found), 117_000)
    return root, found


def synset(pos: str, line: str) -> Synset:
    """One line of a data file: offset, class, kind, words, pointers, and after a bar the gloss."""
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    end = 4 + 2 * int(fields[3], 16)
    # adjectives carry their position in brackets, as in "galore(ip)"
    words = tuple(re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in fields[4:end:2])
    pointers = fields[end + 1 : end + 1 + 4 * int(fields[end])]
    above = (
        target for kind, target in zip(pointers[::4], pointers[1::4], strict=True) if kind == "@"
    )
    hypernym = next((f"{pos} {target}" for target in above), "")
    label = LABELS[int(fields[1])]
    return Synset(f"{pos} {fields[0]}", label, words, hypernym, " ".join(gloss.split()))


@cache
def entries() -> tuple[Path, list[Entry]]:
    """Words to define: one a meaning, each word and each definition once.

    A meaning is taken if the first of its words has no more usual meaning (the index lists
    meanings by how often texts use them), so that a question about the word has one answer.
    """
    root, meanings = synsets()
    usual = {}
    for pos in POS:
        index = (root / f"usr/share/wordnet/index.{pos}").read_text(encoding="utf-8")
        for line in index.splitlines():
            fields = line.split()
            if not line.startswith(" "):  # word, ..., the number of meanings, ..., the meanings
                first = fields[-int(fields[2])]
                usual[fields[0].replace("_", " "), pos] = f"{pos} {first}"
    found: dict[str, Entry] = {}
    for meaning in meanings:
        pos, word = meaning.key.split()[0], meaning.words[0]
        meant = definition(meaning.gloss)
        if meant and usual.get((word.lower(), pos)) == meaning.key:
            entry = Entry(word, POS[pos], meant, meaning.label, meaning.hypernym)
            found.setdefault(meant.casefold(), entry)
    words = {(entry.word.casefold(), entry.pos): entry for entry in found.values()}
    expect("Debian package wordnet-base", "words to define", len(words), 60_000)
    return root, list(words.values())


def definition(gloss: str) -> str:
    """The gloss without its examples; nothing if it has quotation marks even so."""
    meant = re.split(r'[;:,]?\s*"', gloss)[0].strip(" ;")
    return meant if gloss.count('"') % 2 == 0 and len(meant.split()) >= 2 else ""
