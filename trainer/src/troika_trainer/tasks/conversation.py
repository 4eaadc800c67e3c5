"""Conversations: from rows to messages, from messages to tokens, and which of them are answers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from troika_api.v1alpha1.data import Columns
from troika_trainer.errors import ConfigError
from troika_trainer.rows import Row

from .turns import ASSISTANT, Message, answer_spans

Ids = npt.NDArray[np.integer]

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""As transformers looks for it."""

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""For tokenizers without one: plain text marks the roles, so that no token need be learnt anew,
and the end-of-sequence token ends an answer, so that generation stops there."""


@dataclass(frozen=True)
class Tokens:
    """A conversation as the model reads it."""

    ids: Ids
    """Shape [tokens]."""
    answer: npt.NDArray[np.bool_]
    """True where the token is one that the assistant says. Shape [tokens]."""

    def parted(self, place: int = 0) -> tuple[Ids, Ids]:
        """What was said before an answer; and that answer, with all up to the end of the last.

        Args:
            place: A token of the answer that parts them, or one before it: then it is the first.
        """
        begins = np.flatnonzero(np.diff(self.answer.astype(np.int8), prepend=0) == 1)
        begin = int(begins[max(0, int(np.searchsorted(begins, place, side="right")) - 1)])
        return self.ids[:begin], self.ids[begin : np.flatnonzero(self.answer)[-1] + 1]


def ensure_template(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a tokenizer the default template, where it has none; it is exported with it.

    Raises:
        ConfigError: nothing could mark the end of an answer.
    """
    if tokenizer.chat_template:
        return
    if not tokenizer.eos_token:
        raise ConfigError(
            "the tokenizer has neither a chat template nor an end-of-sequence token",
            "set data.chatTemplate, or eos_token in the tokenizer_config.json of the model",
        )
    tokenizer.chat_template = DEFAULT_TEMPLATE


def use_template(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    """Give a tokenizer the template of the run in place of its own; it is exported with it.

    Raises:
        ConfigError: it is no template, or one that leaves out what is said.
    """
    tokenizer.chat_template = template
    probe = [{"role": role, "content": f"What the {role} says"} for role in ("user", ASSISTANT)]
    try:
        text = str(tokenizer.apply_chat_template(probe, tokenize=False))
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"data.chatTemplate, line {error.lineno}: {error.message}",
            "write a Jinja template, such as the chat_template of a model of the same kind",
        ) from error
    except Exception:  # noqa: BLE001 - a template may refuse what is not of the form of its rows
        return
    for message in probe:
        if message["content"] not in text:
            raise ConfigError(
                f"data.chatTemplate writes nothing of what the {message['role']} says: expected "
                f"{message['content']!r} in {text!r}",
                "write message['role'] and message['content'] for each message of messages",
            )


def messages_in(row: Row, column: str, *, role: str) -> list[Message]:
    """A column that holds a text, said by `role`, or a list of messages.

    A message has all the keys that it has in the row; where tables are written, an empty cell of
    a key is one that is not there.

    Raises:
        DataError: it holds something else.
    """
    value = row.value(column) if column in row.values else None
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        row.text(column)  # says what was expected and what is there
    assert isinstance(value, list)
    for number, message in enumerate(value, start=1):
        told = message if isinstance(message, dict) else {}
        if not all(isinstance(told.get(key), str) for key in ("role", "content")):
            raise row.error(
                f"column {column!r}, message {number}: expected {{role, content}}, both text"
            )
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def pair_in(row: Row, columns: Columns) -> list[list[Message]]:
    """The chosen and the rejected conversation, each with the prompt, once.

    Many sets have the prompt in a column and in both answers, or in the answers alone.

    Raises:
        DataError: a column holds something else, or the answers are not to the same prompt.
    """
    names = (columns.chosen, columns.rejected)
    answers = [messages_in(row, name, role=ASSISTANT) for name in names]
    written = [value for name in names if isinstance(value := row.values[name], str)]
    if row.values.get(columns.prompt) is None and not written:
        return _with_prompt(row, answers, names)
    prompt = messages_in(row, columns.prompt, role="user")
    asked = row.values[columns.prompt]
    if len(written) == len(names) and isinstance(asked, str):
        if all(text.startswith(asked) for text in written):
            answers = [_said(text.removeprefix(asked).lstrip()) for text in written]
    elif _holds(_shared(*answers), prompt):
        return answers
    elif any(_holds(answer, prompt) for answer in answers):
        raise row.error(
            f"columns {names[0]!r} and {names[1]!r}: expected both or none to repeat the messages "
            f"of column {columns.prompt!r}"
        )
    return [prompt + answer for answer in answers]


def _with_prompt(
    row: Row, conversations: list[list[Message]], names: tuple[str, str]
) -> list[list[Message]]:
    """Whole conversations: what both begin with is the prompt."""
    prompt = len(_shared(*conversations))
    for name, messages in zip(names, conversations, strict=True):
        if not prompt or any(message["role"] != ASSISTANT for message in messages[prompt:][:1]):
            raise row.error(
                f"column {name!r}, message {prompt + 1}: without a prompt, expected two "
                "conversations that begin with the same messages and then differ in what the "
                "assistant says"
            )
    return conversations


def _said(text: str) -> list[Message]:
    return [{"role": ASSISTANT, "content": text}]


def _shared(one: list[Message], other: list[Message]) -> list[Message]:
    """The messages that both begin with."""
    pairs = zip(one, other, strict=False)
    return [message for message, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _holds(messages: list[Message], part: list[Message]) -> bool:
    """Whether messages, one after another, are among others; a system message may come before."""
    places = range(len(messages) - len(part) + 1)
    return any(messages[place : place + len(part)] == part for place in places)


def check_read(tokenizer: PreTrainedTokenizerFast, messages: list[Message], row: Row) -> None:
    """What a message says beside its content is not to be lost: the template must name it.

    Raises:
        DataError: the chat template does not read a key that a message has.
    """
    template = str(tokenizer.chat_template)
    for number, message in enumerate(messages, start=1):
        for key in message:
            if key not in ("role", "content") and not re.search(rf"\b{re.escape(key)}\b", template):
                raise row.error(
                    f"message {number} has {key!r}, which the chat template does not read: "
                    "take it out of the messages, or start from a model whose template reads it"
                )


def tokenize(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[list[Message]], *, limit: int
) -> list[Tokens]:
    """Render conversations by the chat template and cut them to `limit` tokens.

    Raises:
        ConfigError: the template does not render them, or hides where an answer is.
    """
    make = _by_marks if _MARKED.search(str(tokenizer.chat_template)) else _by_spans
    return [make(tokenizer, messages, limit) for messages in conversations]


def _by_marks(tokenizer: PreTrainedTokenizerFast, messages: list[Message], limit: int) -> Tokens:
    """The template itself says what the assistant generates."""
    encoded = _rendered(
        tokenizer,
        messages,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        truncation=True,
        max_length=limit,
    )
    return Tokens(
        ids=np.asarray(encoded["input_ids"]),
        answer=np.asarray(encoded["assistant_masks"], dtype=bool),
    )


def _by_spans(tokenizer: PreTrainedTokenizerFast, messages: list[Message], limit: int) -> Tokens:
    """Where the answers are is seen from the text."""

    def render(messages: list[Message], *, invite: bool = False) -> str:
        return str(_rendered(tokenizer, messages, add_generation_prompt=invite))

    text, spans = answer_spans(tokenizer, render, messages)
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        truncation=True,
        max_length=limit,
        return_offsets_mapping=True,
    )
    starts = np.asarray(encoded["offset_mapping"]).reshape(-1, 2)[:, 0]
    answer = np.zeros(len(starts), dtype=bool)
    for first, last in spans:
        answer |= (starts >= first) & (starts < last)
    return Tokens(ids=np.asarray(encoded["input_ids"]), answer=answer)


def _rendered(tokenizer: PreTrainedTokenizerFast, messages: list[Message], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, **{"tokenize": False, **options})
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigError(
            f"the chat template does not render a conversation of {roles}: {error}",
            "bring the rows into the form that the template expects, or set data.chatTemplate",
        ) from error
