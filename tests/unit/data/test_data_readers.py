"""The readers of the packages' formats, on tiny inputs in those formats."""

import struct

import pytest

from data.errors import DataError
from data.labelled import bio
from data.lexicon import LABELS, definition, synset
from data.markup import typed, wiki_paragraphs
from data.pairs import catalogue

ARTICLE = """{{Infobox|a={{nested|x}}|b=1}}<!-- a note -->
[[File:a.jpg|thumb|A caption with a [[link]].]]
'''Ants''' ({{IPA|x}}; ''Formicidae'') are [[eusocial]] [[insect|insects]]<ref name="a"/>,
they say.<ref>{{cite|url=http://x}}</ref> See [http://example.org the site] &amp; x<sub>2</sub>.
== Heading ==
* an item
{| class="wikitable"
| a cell
|}
Left [[open.
[[Category:Insects]]"""


def test_wiki_paragraphs() -> None:
    assert wiki_paragraphs(ARTICLE) == [
        "Ants (Formicidae) are eusocial insects,",
        "they say. See the site & x2.",
    ]


def test_typed_undoes_overstrike_bells_and_double_encoding() -> None:
    assert typed("__\b\bno\a way") == "no way"
    assert typed("it\u00e2\u0080\u0099s") == "it\u2019s"
    assert typed("caf\u00e9") == "caf\u00e9"


def test_bio_sentences() -> None:
    text = "In\tO\nNew\tB-geo-loc\nYork\tI-geo-loc\n\t\n&lt;\tO\n\n"
    assert bio(text) == [
        (["In", "New", "York"], ["O", "B-geo-loc", "I-geo-loc"]),
        (["<"], ["O"]),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "York\tI-geo-loc",
        "a\tO\nb\tI-person",
        "a\tB-person\nb\tI-company",
        "a\tB-x\n\nb\tI-x",
        "a\tperson",
        "no tab",
    ],
)
def test_bio_refuses_tags_that_continue_nothing(text: str) -> None:
    with pytest.raises(DataError, match=r"line \d: expected"):
        bio(text)


def test_synset_of_a_noun_and_of_an_adjective() -> None:
    line = (
        "00001930 03 n 02 physical_entity 0 thing 1 002 @ 00001740 n 0000 ~ 00002452 n 0000 "
        '| an entity that exists; "a | b"  '
    )
    noun = synset("noun", line)
    assert noun.key == "noun 00001930"
    assert noun.label == "noun.Tops"
    assert noun.words == ("physical entity", "thing")
    assert noun.hypernym == "noun 00001740"
    assert noun.gloss == 'an entity that exists; "a | b"'
    adjective = synset("adj", "00013662 00 s 01 galore(ip) 0 000 | in great numbers")
    assert (adjective.words, adjective.hypernym, adjective.label) == (("galore",), "", "adj.all")


def test_labels_are_in_the_order_of_their_numbers() -> None:
    assert len(LABELS) == len(set(LABELS)) == 45
    assert [LABELS[n] for n in (5, 28, 29, 43, 44)] == [
        "noun.animal",
        "noun.time",
        "verb.body",
        "verb.weather",
        "adj.ppl",
    ]


@pytest.mark.parametrize(
    ("gloss", "meant"),
    [
        ('a thing; of use; "it is useful"; "so it is"', "a thing; of use"),
        ("a thing", "a thing"),
        ('a thing; "left open', ""),
        ('"only an example"', ""),
        ("one", ""),
    ],
)
def test_definition(gloss: str, meant: str) -> None:
    assert definition(gloss) == meant


def test_catalogue() -> None:
    texts = [b"", b"header", b"Spain", b"Spanien", b"Zulu", "Zoulou \u00e9".encode()]
    data, at = struct.pack("<5I", 0x950412DE, 0, 3, 20, 44), 68
    tables: list[list[int]] = [[], []]
    for index, text in enumerate(texts):
        tables[index % 2] += [len(text), at]
        at += len(text)
    data += struct.pack("<12I", *tables[0], *tables[1]) + b"".join(texts)
    found = list(catalogue(data))
    assert found == [("", "header"), ("Spain", "Spanien"), ("Zulu", "Zoulou \u00e9")]
    with pytest.raises(DataError, match="catalogue"):
        list(catalogue(b"not one, though long enough"))
