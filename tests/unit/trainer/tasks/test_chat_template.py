"""The chat template that a job brings: it is used, exported, and refused where it is wrong."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from support.tiny_tasks import finetune_run
from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import RUN
from troika_trainer.errors import ConfigError
from troika_trainer.rows import Row
from troika_trainer.tasks.chat import Chat
from troika_trainer.tasks.conversation import use_template
from troika_trainer.tasks.preference import Preference
from troika_trainer.tokenizer import train_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('who am I?') }}{% endif %}" + CHATML
)
ROW = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is ice?"},
        {"role": "assistant", "content": "Frozen water."},
    ],
    "prompt": "What is ice?",
    "chosen": "Frozen water.",
    "rejected": "A kind of fire.",
}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(
        lambda: ["Be brief. What is ice? Frozen water."],
        TokenizerTraining(vocab_size=400),
        algorithm="ByteLevelBPE",
        bidirectional=False,
    )


def task_of(folder: Path, kind: Any, tokenizer: PreTrainedTokenizerFast, template: str) -> Any:
    made = finetune_run(
        folder,
        task=kind.__name__,
        model=folder,
        splits={"train": folder / "rows.jsonl"},
        data={"chatTemplate": template},
    )
    return kind(RUN.validate_python(made), tokenizer)


@pytest.mark.parametrize("template", [CHATML, STRICT])
def test_conversations_are_written_by_the_template_of_the_job(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    tokenizer.chat_template = "{{ messages[0].content }}"
    task = task_of(tmp_path, Chat, tokenizer, template)
    (example,) = task.encode([Row(ROW, "rows.jsonl", 1)])
    assert tokenizer.decode(example["input_ids"]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is ice?<|im_end|>\n"
        "<|im_start|>assistant\nFrozen water.<|im_end|>\n"
    )
    assert tokenizer.decode(example["input_ids"][example["answer"]]) == "Frozen water.<|im_end|>\n"


def test_preferences_are_written_by_it_too(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = task_of(tmp_path, Preference, tokenizer, CHATML)
    (example,) = task.encode([Row(ROW, "rows.jsonl", 1)])
    written = str(tokenizer.decode(example["rejected_ids"]))
    assert written.endswith("<|im_start|>assistant\nA kind of fire.<|im_end|>\n")


def test_the_template_goes_with_the_tokenizer(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = task_of(tmp_path, Chat, tokenizer, CHATML)
    assert pickle.loads(pickle.dumps(task)).tokenizer.chat_template == CHATML
    task.preprocessor.save_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == CHATML


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for message in messages %}\n{{ message.content", "data.chatTemplate, line 2: "),
        ("{{ messages | no_such_filter }}", "No filter named 'no_such_filter'"),
        ("Hello!", "data.chatTemplate writes nothing of what the user says"),
        (
            (
                "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}"
                "{% else %}{{ message.text }}{% endif %}{% endfor %}"
            ),
            "data.chatTemplate writes nothing of what the assistant says",
        ),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused_at_start(
    tokenizer: PreTrainedTokenizerFast, template: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        use_template(tokenizer, template)
    assert problem in str(refused.value)
    assert refused.value.remedy


def test_a_template_that_does_not_take_the_rows_is_refused_with_their_roles(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = task_of(tmp_path, Chat, tokenizer, STRICT)
    talk = {"messages": list(ROW["messages"])[1:]}
    with pytest.raises(ConfigError, match="a conversation of user, assistant: who am I") as refused:
        list(task.encode([Row(talk, "rows.jsonl", 1)]))
    assert "data.chatTemplate" in str(refused.value.remedy)
