"""The sets by name. Each builder writes into the folder it is given, and returns its sources."""

from collections.abc import Callable
from pathlib import Path

from . import images, labelled, pairs, reading, speech, text

SETS: dict[str, Callable[[Path], list[str]]] = {
    "prose": text.prose,
    "wikipedia": text.wikipedia,
    "reviews": labelled.reviews,
    "fortunes": labelled.fortunes,
    "wordnet": labelled.wordnet,
    "ner": labelled.ner,
    "translation": pairs.translation,
    "instructions": pairs.instructions,
    "preference": pairs.preference,
    "questions": reading.questions,
    "ranking": reading.ranking,
    "digits": images.digits,
    "boxes": images.boxes,
    "speech": speech.speech,
}
