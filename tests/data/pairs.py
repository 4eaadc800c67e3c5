"""Pairs of texts: translations, instructions with their answers, and preferences."""

import struct
from collections.abc import Iterator
from pathlib import Path

from . import lexicon, packages
from .errors import DataError, expect
from .files import write_jsonl
from .lexicon import Entry
from .splits import NAMES, by_hash, choose, normal, shuffled

LANGUAGES = ("de", "fr")
# Most used names first: of two translations of one name, the first is kept.
CATALOGUES = ("3166-1", "639-2", "4217", "3166-3", "639-5", "15924", "639-3", "3166-2")
ASK = (
    'Define the {pos} "{word}".',
    'What does the {pos} "{word}" mean?',
    'Give the meaning of the {pos} "{word}".',
    'Explain the {pos} "{word}" in a few words.',
)


def translation(out: Path) -> list[str]:
    """Names in English, German and French: {"source", "target"}. Source: Debian's `iso-codes`.

    Rule: the gettext catalogues of countries, regions, languages, currencies and scripts; each
    English name once; names that are written the same in both languages (but for capitals)
    dropped, as nothing there is translated. 80/10/10 by hash of the English name, so a name is
    in the same split for every language. Folders: `de`, `fr`.
    """
    root = packages.debian("iso-codes")
    for language in LANGUAGES:
        target: dict[str, str] = {}
        for standard in CATALOGUES:
            path = root / f"usr/share/locale/{language}/LC_MESSAGES/iso_{standard}.mo"
            for english, translated in catalogue(path.read_bytes()):
                if english and normal(english) != normal(translated):
                    target.setdefault(english, translated)
        expect("Debian package iso-codes", f"names in {language}", len(target), 4_000)
        pairs = shuffled(target.items(), lambda pair: pair[0])
        for name in NAMES:
            part = (pair for pair in pairs if by_hash(normal(pair[0])) == name)
            rows = ({"source": english, "target": translated} for english, translated in part)
            write_jsonl(out / language / f"{name}.jsonl", rows)
    return [packages.version(root)]


def catalogue(data: bytes) -> Iterator[tuple[str, str]]:
    """The (original, translation) pairs of a compiled gettext catalogue (.mo)."""
    if len(data) < 20 or struct.unpack_from("<I", data)[0] != 0x950412DE:
        raise DataError("expected a little-endian gettext catalogue, found something else")
    count, originals, translations = struct.unpack_from("<3I", data, 8)
    for index in range(count):
        pair = []
        for table in (originals, translations):
            length, start = struct.unpack_from("<2I", data, table + 8 * index)
            pair.append(data[start : start + length].decode("utf-8"))
        yield pair[0], pair[1]


def instructions(out: Path) -> list[str]:
    """Instructions with answers, made from definitions. Source: Debian's `wordnet-base`.

    Rule: the words of `lexicon.entries`; the instruction is one of four ways to ask for the
    word's meaning, picked by hash; the answer is WordNet's definition. Folders:
    `prompt_completion` ({"prompt", "completion"}) and `messages` ({"messages"}: a user's and an
    assistant's), the same rows in two shapes. 80/10/10 by hash of the definition.
    """
    root, parts = split_entries()
    for name, part in parts.items():
        asked = [(ask(entry), entry.definition) for entry in part]
        pairs = ({"prompt": prompt, "completion": answer} for prompt, answer in asked)
        write_jsonl(out / "prompt_completion" / f"{name}.jsonl", pairs)
        chats = ({"messages": chat(prompt, answer)} for prompt, answer in asked)
        write_jsonl(out / "messages" / f"{name}.jsonl", chats)
    return [packages.version(root)]


def preference(out: Path) -> list[str]:
    """Sentences against jumbles: {"prompt", "chosen", "rejected"}. Debian's `wordnet-base`.

    Rule: chosen is the definition of the word that the prompt asks for; rejected has the words of
    the same definition in another order. So whoever only knows which words are frequent, or how
    long a good answer is, is right half of the time. Definitions of three words or fewer, and
    those whose jumble is the sentence, are left out.
    """
    root, parts = split_entries()
    for name, part in parts.items():
        rows = [
            {"prompt": ask(entry), "chosen": entry.definition, "rejected": jumbled}
            for entry in part
            if (jumbled := jumble(entry.definition)) != entry.definition and jumbled.count(" ") > 2
        ]
        write_jsonl(out / f"{name}.jsonl", rows)
    return [packages.version(root)]


def jumble(sentence: str) -> str:
    """The words of a sentence in an order that looks random and depends on the sentence alone."""
    words = enumerate(sentence.split())
    return " ".join(word for _, word in shuffled(words, lambda item: f"{sentence} {item[0]}"))


def split_entries() -> tuple[Path, dict[str, list[Entry]]]:
    """WordNet's words to define, in splits, shuffled by hash."""
    root, entries = lexicon.entries()
    parts: dict[str, list[Entry]] = {name: [] for name in NAMES}
    for entry in shuffled(entries, lambda entry: entry.definition):
        parts[by_hash(normal(entry.definition))].append(entry)
    return root, parts


def ask(entry: Entry) -> str:
    """A question for the meaning of the word."""
    return choose(ASK, f"{entry.pos} {entry.word}").format(pos=entry.pos, word=entry.word)


def chat(prompt: str, answer: str) -> list[dict[str, str]]:
    """One turn of a conversation in the shape that chat templates take."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
