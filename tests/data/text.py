"""Unlabelled text for pretraining."""

import bz2
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from . import packages
from .errors import expect
from .files import write_jsonl
from .markup import paragraphs, wiki_paragraphs
from .splits import NAMES, TRAIN, by_weight, normal, unique

# The FAQ's own pages: its sections, its appendices and its introductions. The other pages of
# the package are lists of links, of books and of translations.
PROSE_PAGES = ("sec", "append", "vol", "intro", "10years")
FEWEST_WORDS = 12  # below: "And:", table cells, names
SHORTEST_ARTICLE = 500  # characters
RUN = 13  # words; two texts that share a run this long share a passage, not a phrase


def prose(out: Path) -> list[str]:
    """English prose, a paragraph a row: {"text"}. Source: Debian's `anarchism`, 131 HTML pages.

    Rule: the paragraphs of the FAQ's pages with at least 12 words, each text once. Whole pages
    go to one split, 6 % of the characters to validation and to test each; paragraphs keep
    their order. The FAQ quotes itself, so validation and test then lose each paragraph that
    shares a run of 13 words with a split before them.
    """
    root = packages.debian("anarchism")
    pages = sorted((root / "usr/share/doc/anarchism/html").glob("*.html"))
    found = [
        (page.stem, text)
        for page in pages
        if page.stem.startswith(PROSE_PAGES)
        for text in paragraphs(page.read_text(encoding="utf-8"))
        if len(text.split()) >= FEWEST_WORDS
    ]
    kept = unique(found, lambda item: normal(item[1]))
    characters = sum(len(text) for _, text in kept)
    expect("Debian package anarchism", "characters of prose", characters, 5_000_000)
    for name, texts in split_documents(kept, held_out=0.06).items():
        write_jsonl(out / f"{name}.jsonl", ({"text": text} for text in texts))
    return [packages.version(root)]


def wikipedia(out: Path) -> list[str]:
    """Encyclopaedia articles, one a row: {"title", "text"}. Source: PyPI's `gensim`.

    Rule: pages of the article namespace that are no redirects; their markup cleaned by
    `markup.wiki_paragraphs`; paragraphs of at least 12 words, joined by empty lines; articles of
    at least 500 characters (most others only list what a name may mean). Whole articles go to
    one split, 6 % of the characters to validation and to test each.
    """
    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    path = packages.wheel("gensim", f"gensim/test/test_data/{name}")
    articles: dict[str, str] = {}
    with bz2.open(path) as dump:
        for _, page in ET.iterparse(dump):
            if not page.tag.endswith("}page"):
                continue
            if page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None:
                found = wiki_paragraphs(page.findtext("{*}revision/{*}text") or "")
                kept = [text for text in found if len(text.split()) >= FEWEST_WORDS]
                articles[page.findtext("{*}title") or ""] = "\n\n".join(kept)
            page.clear()
    articles = {t: text for t, text in articles.items() if len(text) >= SHORTEST_ARTICLE}
    expect("PyPI package gensim", "articles", len(articles), 90)
    sizes = {title: len(text) for title, text in articles.items()}
    expect("PyPI package gensim", "characters of text", sum(sizes.values()), 2_000_000)
    place = by_weight(sizes, 0.06, 0.06)
    for split in NAMES:
        rows = ({"title": t, "text": text} for t, text in articles.items() if place[t] == split)
        write_jsonl(out / f"{split}.jsonl", rows)
    return [packages.version(path)]


def split_documents(items: Iterable[tuple[str, str]], held_out: float) -> dict[str, list[str]]:
    """Split (document, text) pairs by document; no held-out text repeats an earlier split's."""
    items = list(items)
    weights: dict[str, int] = defaultdict(int)
    for document, text in items:
        weights[document] += len(text)
    place = by_weight(weights, held_out, held_out)
    split: dict[str, list[str]] = {}
    seen: set[int] = set()
    for name in NAMES:
        texts = [text for document, text in items if place[document] == name]
        split[name] = [text for text in texts if name == TRAIN or not seen & runs(text)]
        for text in split[name]:
            seen |= runs(text)
    return split


def runs(text: str) -> set[int]:
    """Hashes of every run of 13 words; of the whole text if it is shorter.

    Python's own hash differs from run to run, which is no matter: only equality counts.
    """
    words = normal(text).split()
    starts = range(max(1, len(words) - RUN + 1))
    return {hash(tuple(words[start : start + RUN])) for start in starts}
