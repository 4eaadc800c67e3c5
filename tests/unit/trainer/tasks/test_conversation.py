"""Which tokens of a conversation the loss is on."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from troika_api.v1alpha1.data import TokenizerTraining
from troika_trainer.errors import ConfigError, DataError
from troika_trainer.rows import Row
from troika_trainer.tasks.conversation import Message, ensure_template, messages_in, tokenize
from troika_trainer.tokenizer import train_tokenizer

TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is ice?"},
    {"role": "assistant", "content": "Frozen water."},
    {"role": "user", "content": "And süße Äpfel?"},
    {"role": "assistant", "content": "Sweet apples."},
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for message in messages %}{% if loop.last or message.role == 'user' %}"
    "{{ message.content }}{% endif %}|{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    spec = TokenizerTraining(vocab_size=400)
    return train_tokenizer(
        lambda: [message["content"] for message in TALK],
        spec,
        algorithm="ByteLevelBPE",
        bidirectional=False,
    )


def answers(tokenizer: PreTrainedTokenizerFast, talk: list[Message], limit: int = 1000) -> str:
    (tokens,) = tokenize(tokenizer, [talk], limit=limit)
    assert tokens.ids.shape == tokens.answer.shape
    return str(tokenizer.decode(tokens.ids[tokens.answer]))


def test_the_default_template_marks_answers_and_their_end(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = None
    ensure_template(tokenizer)
    end = tokenizer.eos_token
    assert answers(tokenizer, TALK) == f"Frozen water.{end}Sweet apples.{end}"


def test_the_default_template_invites_an_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    ensure_template(tokenizer)
    prompt: Any = tokenizer.apply_chat_template(
        TALK[:2], tokenize=False, add_generation_prompt=True
    )
    whole: Any = tokenizer.apply_chat_template(TALK[:3], tokenize=False)
    assert whole.startswith(prompt)
    assert whole.removeprefix(prompt).startswith("Frozen water.")


def test_a_template_without_marks_is_read_by_what_each_answer_adds(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = CHATML
    assert answers(tokenizer, TALK) == "Frozen water.<|im_end|>\nSweet apples.<|im_end|>\n"


def test_a_template_that_is_there_stays(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = CHATML
    ensure_template(tokenizer)
    assert tokenizer.chat_template == CHATML


def test_a_template_that_forgets_turns_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(ConfigError, match="message 3 of 5"):
        answers(tokenizer, TALK)


def test_what_is_too_long_is_cut_at_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    ensure_template(tokenizer)
    (whole,) = tokenize(tokenizer, [TALK], limit=1000)
    (short,) = tokenize(tokenizer, [TALK], limit=20)
    assert short.ids.tolist() == whole.ids[:20].tolist()
    assert short.answer.tolist() == whole.answer[:20].tolist()


def test_a_template_that_raises_says_which_conversation(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(ConfigError, match="of system, user, assistant: no system messages"):
        answers(tokenizer, TALK[:3])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"role": "user"}], r"line 7, column 'messages', message 1: expected \{role, content\}"),
        (["hello"], r"message 1: expected \{role, content\}"),
        (12, r"column 'messages': expected text, got int 12"),
    ],
)
def test_a_bad_row_is_named(value: object, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        messages_in(Row({"messages": value}, "a.jsonl", 7), "messages", role="user")


def test_text_becomes_a_message() -> None:
    row = Row({"prompt": "Hi"}, "a.jsonl", 1)
    assert messages_in(row, "prompt", role="user") == [{"role": "user", "content": "Hi"}]
