"""Extractive answers: how SQuAD compares texts, and what is reported. Pure functions."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from troika_api.contract import Score

WORST_SHOWN = 20

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answer:
    """A question with its answer."""

    question: str
    predicted: str
    """Empty where the model says that there is none."""
    expected: list[str]
    """Any of these is right; empty where there is no answer."""
    exact_match: float
    f1: float


@dataclass(frozen=True)
class AnswerReport:
    """How well questions were answered."""

    exact_match: float
    f1: float
    num_questions: int
    worst: list[Answer]
    classes: list[Score] = field(default_factory=list)
    """None: answers are of no class."""

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "exactMatch": self.exact_match,
            "f1": self.f1,
            "questions": self.num_questions,
            "worst": [asdict(answer) for answer in self.worst],
        }

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"{self.num_questions} questions",
            f"exact match {self.exact_match:.3f}",
            f"f1          {self.f1:.3f}",
            "",
            "the worst answers",
        ]
        for answer in self.worst:
            lines += [
                "",
                f"question  {answer.question}",
                f"expected  {' | '.join(answer.expected) or '(none)'}",
                f"predicted {answer.predicted or '(none)'}",
            ]
        return "\n".join(lines) + "\n"


def answer_report(answers: Sequence[Answer]) -> AnswerReport:
    """Means over all questions, and those that went worst."""
    number = max(len(answers), 1)
    worst = sorted((answer for answer in answers if answer.f1 < 1.0), key=lambda item: item.f1)
    return AnswerReport(
        exact_match=sum(answer.exact_match for answer in answers) / number,
        f1=sum(answer.f1 for answer in answers) / number,
        num_questions=len(answers),
        worst=worst[:WORST_SHOWN],
    )


def scored(question: str, predicted: str, expected: Sequence[str]) -> Answer:
    """Compare with each right answer; the best comparison counts."""
    pairs = [(normalized(predicted), normalized(text)) for text in expected or [""]]
    return Answer(
        question=question,
        predicted=predicted,
        expected=list(expected),
        exact_match=float(any(mine == right for mine, right in pairs)),
        f1=max(word_f1(mine, right) for mine, right in pairs),
    )


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks: SQuAD's rule."""
    text = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def word_f1(predicted: str, expected: str) -> float:
    """Harmonic mean of the shares of words that two texts have in common."""
    mine, right = predicted.split(), expected.split()
    if not mine or not right:
        return float(mine == right)
    common = sum((Counter(mine) & Counter(right)).values())
    return 2.0 * common / (len(mine) + len(right))
