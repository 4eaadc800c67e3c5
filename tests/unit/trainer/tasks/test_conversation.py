"""Which tokens of a conversation the loss is on."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from troika_api.v1alpha1.data import TokenizerTraining
from troika_trainer.errors import ConfigError, DataError
from troika_trainer.rows import Row
from troika_trainer.tasks.conversation import (
    check_read,
    ensure_template,
    messages_in,
    tokenize,
)
from troika_trainer.tasks.turns import Message
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

THINKING = (
    "{% set last = namespace(user=-1) %}{% for message in messages %}"
    "{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role != 'assistant' %}{{ message.content }}"
    "{% else %}{% set parts = message.content.split('</think>') %}"
    "{% if loop.index0 > last.user %}<think>\n"
    "{{ parts[0].removeprefix('<think>').strip() if parts | length > 1 else '' }}"
    "\n</think>\n\n{% endif %}{{ parts[-1].strip() }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen3's: only answers after the last question have a thought, be it an empty one."""
THOUGHTFUL = THINKING.replace(
    "{% if add_generation_prompt %}<|im_start|>assistant\n",
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n",
)
"""As those of models that always think: the invitation begins a thought."""
ENDING = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
"""As Phi-3's: the end of the text ends a conversation, but no turn."""
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    " {{ message.content }}{{ '' if loop.last else ' ' }}</s>{% else %}"
    "[INST] {{ message.content }} [/INST]{% endif %}{% endfor %}"
)
"""As Mistral's: it invites by the end of a question; what is more, a blank comes and goes."""


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


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_an_assistant_may_speak_first(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    tokenizer.chat_template = template
    said = answers(tokenizer, [{"role": "assistant", "content": "Ask me."}, *TALK[1:3]])
    thought = "<think>\n\n</think>\n\n" if template == THINKING else ""
    assert said == f"Ask me.<|im_end|>\n{thought}Frozen water.<|im_end|>\n"


HELLO: list[Message] = [
    *TALK,
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "user"},
]
"""The last words are those of the marks around them."""


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (1, "<think>\n\n</think>\n\nFrozen water.<|im_end|>\n"),
        (2, "Frozen water.<|im_end|>\n<think>\n\n</think>\n\nSweet apples.<|im_end|>\n"),
        (
            3,
            (
                "Frozen water.<|im_end|>\nSweet apples.<|im_end|>\n"
                "<think>\n\n</think>\n\nuser<|im_end|>\n"
            ),
        ),
    ],
)
def test_a_template_that_lets_only_the_last_answer_think_shows_all_of_them(
    tokenizer: PreTrainedTokenizerFast, turns: int, said: str
) -> None:
    tokenizer.chat_template = THINKING
    assert answers(tokenizer, HELLO[: 1 + 2 * turns]) == said


def test_a_thought_of_the_row_is_part_of_the_answer_that_may_have_one(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = THINKING
    thought = "<think>\nSo be it.\n</think>\n\n"
    talk = [
        {**message, "content": thought + message["content"]}
        if message["role"] == "assistant"
        else message
        for message in TALK
    ]
    assert answers(tokenizer, talk) == (
        f"Frozen water.<|im_end|>\n{thought}Sweet apples.<|im_end|>\n"
    )


def test_what_the_invitation_says_is_not_predicted(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = THOUGHTFUL
    assert answers(tokenizer, TALK) == (
        "Frozen water.<|im_end|>\n\n</think>\n\nSweet apples.<|im_end|>\n"
    )


def test_a_turn_ends_where_the_end_of_the_whole_begins_alike(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    special = train_tokenizer(
        lambda: ["Some text"],
        TokenizerTraining(vocab_size=300),
        algorithm="ByteLevelBPE",
        bidirectional=False,
        extra=["<|im_end|>", "<|user|>", "<|assistant|>"],
    )
    special.chat_template = ENDING
    assert answers(special, TALK) == (
        f"Frozen water.<|im_end|>\nSweet apples.<|im_end|>\n{special.eos_token}"
    )


def test_a_blank_before_an_answer_is_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = BRACKETS.replace("{{ '' if loop.last else ' ' }}", "")
    assert answers(tokenizer, TALK[1:]) == " Frozen water.</s> Sweet apples.</s>"


def test_a_turn_whose_end_cannot_be_seen_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = BRACKETS
    with pytest.raises(ConfigError, match="message 2 of 4"):
        answers(tokenizer, TALK[1:])


def test_an_answer_that_could_be_in_two_places_is_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = THINKING
    frame = "<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\n"
    more = {"role": "user", "content": "More?"}
    talk = [
        TALK[1],
        {"role": "assistant", "content": f"One.{frame}Two."},
        more,
        {"role": "assistant", "content": "Three."},
    ]
    with pytest.raises(ConfigError, match="where an answer is cannot be seen: message 2 of 4"):
        answers(tokenizer, talk)


def test_marks_are_found_however_they_are_spaced(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'assistant' %}"
        "{%- generation -%}{{ message.content }}{%- endgeneration -%}"
        "{% else %}{{ message.content }}{% endif %}|{% endfor %}"
    )
    assert answers(tokenizer, TALK) == "Frozen water.Sweet apples."


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


CALL: list[Message] = [
    {"role": "user", "content": "Is it cold?", "name": None},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "thermometer"}]},
]


def test_what_a_message_says_beside_its_content_reaches_the_template(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}"
        "{% for call in message.tool_calls %}<{{ call.name }}>{% endfor %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    row = Row({"messages": CALL}, "a.jsonl", 7)
    messages = messages_in(row, "messages", role="user")
    assert "name" not in messages[0], "an empty cell of a table says nothing"
    check_read(tokenizer, messages, row)
    assert answers(tokenizer, messages) == "<thermometer>"


def test_what_no_template_reads_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = CHATML
    row = Row({"messages": CALL}, "a.jsonl", 7)
    with pytest.raises(DataError, match="line 7, message 2 has 'tool_calls'"):
        check_read(tokenizer, messages_in(row, "messages", role="user"), row)
