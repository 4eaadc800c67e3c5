"""Their side: transformers' Trainer with its own collators and samplers, on the same token ids."""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from typing_extensions import override

from troika_api.v1alpha1.run import RUN, PretrainRun
from troika_api.v1alpha1.training import Precision
from troika_trainer import runfile
from troika_trainer.batch import Batch
from troika_trainer.batches import Order
from troika_trainer.distributed import process_group
from troika_trainer.evaluate import Evaluator
from troika_trainer.method import apply_method
from troika_trainer.model import build
from troika_trainer.place import Place
from troika_trainer.tasks import Task
from troika_trainer.tasks.base import Objective

from .sides import Gate
from .work import Work
from .works import prepare

Item = dict[str, Any]


class Turns(TrainerCallback):
    """Waits at the gate, and counts what went through the model."""

    def __init__(self, gate: Gate, validate: Callable[[], float] | None, every: int) -> None:
        self._gate, self._validate, self._every = gate, validate, every
        self.tokens = 0
        self.loss = float("nan")

    @override
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._gate.open()

    @override
    def on_log(self, *_: Any, **told: Any) -> None:
        self.loss = told["logs"].get("loss", float("nan"))
        self._pass()

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
        if self._validate and state.global_step % self._every == 0:
            self._gate.outside(self._validate)
        if not control.should_log:  # where it is to log, the loss comes after this
            self._pass()

    def _pass(self) -> None:
        tokens, self.tokens = self.tokens, 0
        self._gate.passed(tokens=tokens, loss=self.loss)


class Counted:
    """A collator that counts the real tokens of what it makes."""

    def __init__(self, collate: Callable[[list[Item]], Any], turns: Turns) -> None:
        self._collate, self._turns = collate, turns

    def __call__(self, items: list[Item]) -> Any:
        self._turns.tokens += sum(len(item["input_ids"]) for item in items)
        return self._collate(items)


def train(gate: Gate, work: Work, given: int = 0, every: int = 0) -> None:
    """Train until there is enough.

    Args:
        gate: Where to wait.
        work: What to do.
        given: Train on the first so many batches of ours, in our order, and tell every loss.
        every: Steps between two validations; 0 for none.
    """
    run = RUN.validate_python(work.run)
    runfile.set_environment(run)
    with process_group(Place()) as group:
        task, stores = prepare(work)
        built = build(run, task)
        adapter = apply_method(run, built, pipeline_tag=task.pipeline_tag)
        validate = None
        if every:
            examples = task.examples(stores["validation"])
            objective = Objective(built.model, task)
            task.attach(built.model)
            arithmetic = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
            evaluator = Evaluator(objective, group, 16, 256, arithmetic, lambda: True)
            limit = run.evaluation.max_sequences if isinstance(run, PretrainRun) else None

            def validate() -> float:
                measured = evaluator.measure(examples, limit=limit)
                assert measured is not None
                return measured.loss

        turns = Turns(gate, validate, every)
        items: list[Any] = [_item(task, stores["train"], n) for n in range(_number(task, stores))]
        collate: Any = Counted(_collator(task), turns)
        if given:
            items, collate = _ours(run, task, stores, given), lambda items: items[0]
        arguments = _arguments(work, run.training.precision, step_by_step=bool(given))
        model: PreTrainedModel | PeftModel = adapter.peft if adapter else built.model
        Trainer(
            model=model,
            args=arguments,
            train_dataset=items,
            data_collator=collate,
            processing_class=task.tokenizer,
            callbacks=[turns],
        ).train()


def _arguments(work: Work, precision: Precision, *, step_by_step: bool) -> TrainingArguments:
    spec = work.run["training"]
    return TrainingArguments(
        output_dir=work.run["output"]["uri"],
        max_steps=spec["steps"],
        per_device_train_batch_size=1 if step_by_step else work.samples,
        learning_rate=spec["optimizer"]["learningRate"],
        lr_scheduler_type="constant",
        weight_decay=0.01,
        adam_beta1=0.9,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=precision is Precision.BF16,
        use_cpu=not torch.cuda.is_available(),
        torch_compile=spec.get("compile") == "Always",
        train_sampling_strategy=(
            "sequential" if step_by_step else "group_by_length" if work.grouped else "random"
        ),
        logging_steps=1 if step_by_step else 500,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=17,
    )


def _number(task: Task, stores: Any) -> int:
    return len(task.examples(stores["train"]))


def _item(task: Task, store: Any, number: int) -> Item:
    """An example as the scripts of transformers have it, in memory."""
    if isinstance(task.run, PretrainRun):
        length = task.run.data.sequence_length
        piece = store["input_ids"].slice(number * length, (number + 1) * length)
        return {"input_ids": piece.tolist()}
    names = [name for name in task.tokenizer.model_input_names if name in store.columns]
    item = {name: store[name][number].tolist() for name in names}
    return {**item, "labels": int(store["label"][number])}


def _collator(task: Task) -> Any:
    if not isinstance(task.run, PretrainRun):
        return DataCollatorWithPadding(task.tokenizer)
    masked = task.run.objective == "MaskedLM"
    return DataCollatorForLanguageModeling(task.tokenizer, mlm=masked, mlm_probability=0.15)


def _ours(run: Any, task: Task, stores: Any, number: int) -> list[Item]:
    """The batches of our first steps, whole, as the model takes them."""
    examples = task.examples(stores["train"])
    order = Order.of(run.training, examples, grouped=task.one_prediction_each)
    batches: list[Batch] = [examples.batch(*order.step(step)) for step in range(1, number + 1)]
    causal = isinstance(run, PretrainRun) and run.objective == "CausalLM"
    return [
        {**batch.inputs, "labels": batch.inputs["input_ids"] if causal else batch.labels.long()}
        for batch in batches
    ]
