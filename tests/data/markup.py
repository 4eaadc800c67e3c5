"""Markup to plain text: HTML paragraphs."""

from html.parser import HTMLParser

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

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.flush()
        if tag == "div" and self._divs:
            self._divs.pop()
        if tag == self._skipping:
            self._skipping = ""
        if tag == "a":
            self._in_link = False

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
