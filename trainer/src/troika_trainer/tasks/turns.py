"""Where the answers of a conversation stand in its rendering, if the template does not mark them.

An answer is all that the assistant is to write: from the end of the invitation to answer to the
end of the turn. A thought that the template writes before the words is part of it, for the model
has to write that, too.
"""

from itertools import takewhile
from typing import Any, Protocol

from transformers import PreTrainedTokenizerFast

from troika_trainer.errors import ConfigError

Message = dict[str, Any]
Span = tuple[int, int]
"""First character, and the one after the last."""

ASSISTANT = "assistant"


class Render(Protocol):
    """Writes a conversation by the chat template."""

    def __call__(self, messages: list[Message], *, invite: bool = False) -> str:
        """The text; `invite` adds what invites the assistant to answer."""


def answer_spans(
    tokenizer: PreTrainedTokenizerFast, render: Render, messages: list[Message]
) -> tuple[str, list[Span]]:
    """A conversation as text, and where in it each answer is.

    Raises:
        ConfigError: the template hides where an answer is.
    """
    text = render(messages)
    turns = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
    spans = _by_prefixes(render, messages, text, turns)
    if spans is None:
        spans = _by_frames(tokenizer, render, messages, text, turns)
    return text, spans


def _by_prefixes(
    render: Render, messages: list[Message], text: str, turns: list[int]
) -> list[Span] | None:
    """An answer is what the text gains by it; None where what follows changes what was before.

    Nor where the assistant speaks first: transformers does not render what comes before that.
    """
    if 0 in turns:
        return None
    spans = []
    for index in turns:
        before = render(messages[:index], invite=True)
        after = render(messages[: index + 1])
        if not (text.startswith(after) and after.startswith(before)):
            return None
        spans.append((len(before), len(after)))
    return spans


def _by_frames(
    tokenizer: PreTrainedTokenizerFast,
    render: Render,
    messages: list[Message],
    text: str,
    turns: list[int],
) -> list[Span]:
    """The answers are what stands between all that stays when they are others.

    Some templates write the last answer unlike those before it (Qwen3: with a thought), so that
    the beginning of a conversation alone looks unlike the beginning of the whole.
    """
    others = [
        {**message, "content": _mark(index)} if index in turns else message
        for index, message in enumerate(messages)
    ]
    frames, rest = [], render(others)
    for index in turns:
        if rest.count(_mark(index)) != 1:
            raise _hidden(messages, index)
        frame, _, rest = rest.partition(_mark(index))
        frames.append(frame[: _begin(render, others[:index], frame)])
    frames.append(rest)
    gaps = _gaps(text, frames)
    spans = []
    for index, gap, frame in zip(turns, gaps or [], frames[1:], strict=False):
        alone = render(others[: index + 1]).partition(_mark(index))[2]
        end = _end(tokenizer, alone, frame)
        if alone and not end:
            break
        spans.append((gap[0], gap[1] + end))
    if len(spans) < len(turns):
        raise _hidden(messages, turns[len(spans)])
    return spans


def _mark(index: int) -> str:
    """What stands for an answer: of the private use area, so that no text has it by chance."""
    return f"\ue000{index}\ue001"


def _begin(render: Render, before: list[Message], frame: str) -> int:
    """Where in the text before an answer's words the answer begins: after the invitation."""
    if before:
        plain, inviting = render(before), render(before, invite=True)
        invitation = inviting[_shared(plain, inviting) :]
        if invitation and invitation in frame:
            return frame.rindex(invitation) + len(invitation)
    return len(frame.rstrip(" "))  # a blank belongs to the token after it


def _end(tokenizer: PreTrainedTokenizerFast, alone: str, frame: str) -> int:
    """Characters after an answer's words that end it, where the conversation goes on.

    Args:
        tokenizer: Says where tokens end.
        alone: What follows the words where the conversation ends with them.
        frame: What follows them here.
    """
    shared = _shared(alone, frame)
    if shared == len(alone):
        return shared
    # More ends a conversation than a turn (Phi-3: the end of the text): what both begin with.
    encoded = tokenizer(alone, add_special_tokens=False, return_offsets_mapping=True)
    return max((end for _, end in encoded["offset_mapping"] if end <= shared), default=0)


def _shared(one: str, other: str) -> int:
    """With how many characters both begin."""
    if other.startswith(one):
        return len(one)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _gaps(text: str, frames: list[str]) -> list[Span] | None:
    """What is between frames that stand in a text, from its begin to its end, in this order.

    Returns:
        One fewer than frames; None unless there is exactly one way to see it.
    """
    first, *middle, last = frames
    low, high = len(first), len(text) - len(last)
    if low > high or not (text.startswith(first) and text.endswith(last)):
        return None
    begin, forwards = low, []
    for frame in middle:
        if (at := text.find(frame, begin, high)) < 0:
            return None
        forwards.append((begin, at))
        begin = at + len(frame)
    forwards.append((begin, high))
    end, backwards = high, []
    for frame in reversed(middle):
        if (at := text.rfind(frame, low, end)) < 0:
            return None
        backwards.append((at + len(frame), end))
        end = at
    backwards.append((low, end))
    return forwards if forwards == backwards[::-1] else None


def _hidden(messages: list[Message], index: int) -> ConfigError:
    return ConfigError(
        "the chat template writes earlier turns anew when others follow, so where an "
        f"answer is cannot be seen: message {index + 1} of {len(messages)}",
        "mark what the assistant says by {% generation %} and {% endgeneration %} in a copy of the "
        "chat template, and set data.chatTemplate to it",
    )
