"""Markup to plain text: HTML, wiki markup, and the typewriter tricks of old text files."""

import html
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from typing_extensions import override
else:  # typing has it from Python 3.12 on

    def override(method: T) -> T:
        return method


# A start or an end of one of these closes the paragraph that was being read.
HEADINGS = frozenset({"title", "h1", "h2", "h3", "h4", "h5", "h6"})
LISTS = frozenset({"ul", "ol", "li", "dl", "dt", "dd"})
TABLES = frozenset({"table", "tr", "td", "th"})
BLOCKS = HEADINGS | LISTS | TABLES | {"p", "div", "blockquote", "hr", "center"}
SKIPPED = HEADINGS | {"script", "style"}
NAVIGATION = "book-navigation"


class _Paragraphs(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._text: list[str] = []
        self._linked = 0  # characters of the paragraph that are the text of a link
        self._in_link = False
        self._skipping = ""
        self._divs: list[bool] = []  # for each open div, whether it is navigation

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS:
            self.flush()
        if tag == "div":
            self._divs.append(NAVIGATION in (dict(attrs).get("class") or ""))
        if tag in SKIPPED:
            self._skipping = self._skipping or tag
        elif tag == "a":
            # <a name=...> is only a target, and pages often leave it open
            self._in_link = any(name == "href" for name, _ in attrs)
        elif tag == "br":
            self._text.append(" ")

    @override
    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.flush()
        if tag == "div" and self._divs:
            self._divs.pop()
        if tag == self._skipping:
            self._skipping = ""
        if tag == "a":
            self._in_link = False

    @override
    def handle_data(self, data: str) -> None:
        if self._skipping or any(self._divs):
            return
        self._text.append(data)
        if self._in_link:
            self._linked += len(data)

    def flush(self) -> None:
        text = "".join(self._text)
        if self._linked * 2 <= len(text) and text.strip():
            self.found.append(" ".join(text.split()))
        self._text, self._linked, self._in_link = [], 0, False


def paragraphs(html: str) -> list[str]:
    """The paragraphs of a page, white space collapsed.

    Left out: titles and headings, navigation bars, and paragraphs of which more than half is
    the text of links (tables of contents).
    """
    parser = _Paragraphs()
    parser.feed(html)
    parser.close()
    parser.flush()
    return parser.found


# Elements that go with what is in them; an element that names nothing here loses its tags only.
_WHOLE = re.compile(
    r"<!--.*?-->|<(ref|math|gallery|table|source|timeline|syntaxhighlight|score|imagemap)\b"
    r"(?:[^<>]*/>|[^<>]*>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_URL = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]+\s*([^\]]*)\]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_UNCLEAN = ("[[", "]]", "{{", "}}", "|")  # marks that were opened and never closed
_NOT_PROSE = ("=", "*", "#", ":", ";", "|", "!", "{", "}")  # how such a line starts


def wiki_paragraphs(markup: str) -> list[str]:
    """The paragraphs of an article in wiki markup.

    Comments, references, formulas, galleries, templates and tables go with their contents (and
    so do the numbers that a template would have shown); links keep their text, files and
    categories go; headings and list items go; marks of bold and italics go; a paragraph with
    marks left in it goes.
    """
    text = _WHOLE.sub("", markup)
    for pattern, by in ((_TEMPLATE, ""), (_LINK, _link_text)):
        before = None
        while before != text:  # the innermost first, until none is left
            before, text = text, pattern.sub(by, text)
    text = _TAG.sub("", _URL.sub(r"\1", text))
    text = html.unescape(re.sub("'{2,}", "", text))
    # what a removed template left behind: "Paris (; )" was "Paris ({{IPA}}; {{audio}})"
    text = re.sub(r"\(\W*\)|(?<=\()[;,\s]+|[;,\s]+(?=\))", "", text)
    lines = (
        re.sub(r"\s+([,.;:]\s|$)", r"\1", " ".join(line.split())) for line in text.splitlines()
    )
    return [
        line
        for line in lines
        if line and not line.startswith(_NOT_PROSE) and not any(mark in line for mark in _UNCLEAN)
    ]


def _link_text(link: re.Match[str]) -> str:
    target, _, shown = link[1].rpartition("|")
    if (target or shown).lstrip(": ").lower().startswith(("file:", "image:", "category:")):
        return ""
    return shown


def typed(text: str) -> str:
    """Text as a terminal would show it: a backspace takes back the character before it.

    Old text files underline with it ("__\\b\\bno"). Bells go. Text that was encoded as UTF-8
    twice is read twice.
    """
    shown: list[str] = []
    for character in text:
        if character == "\b":
            shown[-1:] = []
        elif character >= " " or character in "\n\t":
            shown.append(character)
    text = "".join(shown)
    while any("\x80" <= character < "\xa0" for character in text):
        try:
            text = text.encode("latin-1").decode("utf-8")
        except UnicodeError:
            break
    return text
