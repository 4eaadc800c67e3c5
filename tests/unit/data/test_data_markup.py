"""HTML to paragraphs."""

from data.markup import paragraphs

PAGE = """<html><head><title>A page | A site</title></head><body><div class="content">
<h1>A page</h1><p>One  &amp; the <i>same</i>
paragraph, with a <a href="x.html">link</a>.</p>
<blockquote><p>A quotation.</p></blockquote>
<ul><li><a href="a.html">A.1 Contents</a></li><li>An item</li></ul>
<p><a name="target">Text in an anchor that is no link<p>Next
<div class="book-navigation"><div><a href="y.html">up</a> and away</div> more</div>
After it.</div></body></html>"""


def test_paragraphs() -> None:
    assert paragraphs(PAGE) == [
        "One & the same paragraph, with a link.",
        "A quotation.",
        "An item",
        "Text in an anchor that is no link",
        "Next",
        "After it.",
    ]


def test_a_page_without_markup_is_one_paragraph() -> None:
    assert paragraphs("just\n text") == ["just text"]
