"""The comparisons: each makes its work, lets the sides take turns, and gives the rows."""

import socket
import statistics
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch

from bench.table import Row

from . import ours, theirs, works
from .sides import Side, Stretch, in_turn
from .work import Work

ROUNDS = 5
CHECKED_STEPS = 5
CLOSE = 1e-3
"""Nats by which the losses of the same batches may differ."""

TARGET_LOSS = 6.6
"""Validation loss that both sides of `loss` train to, in nats; it begins at 9."""
STEPS_BETWEEN_LOOKS = 20
MOST_LOOKS = 12

EXPORTER_TURNS, EXPORTER_STEPS = 60, 1
TURNS_BETWEEN_SCRAPES = 15
"""About the usual 15 seconds."""

GPU_ROUNDS = 2

NANOGPT = {"GPT-2 124M": {"H100": 380_000.0, "A100": 91_000.0}}
"""nanoGPT's tokens/s with torch.compile on one device. A100: 12 x 1024 tokens in 135 ms, by its
README. H100: derived from the "104 %" of 312 TFLOP/s of its pull request 464."""


class Bench:
    """Every comparison by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def base(self) -> Path:
        """A BERT 4x256 that knows nothing yet, with its tokenizer."""
        return works.base(self.folder / "base", works.BERT)

    def mlm(self) -> Iterator[Row]:
        """MaskedLM on prose."""
        work = works.masked_lm(self.folder)
        return self.speeds("MLM, BERT 4x256, T=256", work, {"": ">= 1.5"}, steps=6)

    def clm(self) -> Iterator[Row]:
        """CausalLM on prose."""
        work = works.causal_lm(self.folder)
        return self.speeds("CLM, Llama 4x256, T=512", work, {"": ">= 1.15"}, steps=6)

    def reviews(self) -> Iterator[Row]:
        """Two classes of short texts."""
        work = works.classification("reviews", self.folder, self.base)
        goals = {"dynamic padding": ">= 1.6", "group_by_length": ">= 1.0"}
        return self.speeds("reviews", work, goals, steps=50)

    def fortunes(self) -> Iterator[Row]:
        """40 classes of texts of very different lengths."""
        work = works.classification("fortunes", self.folder, self.base)
        goals = {"dynamic padding": ">= 3.0", "group_by_length": ">= 1.0"}
        return self.speeds("fortunes", work, goals, steps=50)

    def lora(self) -> Iterator[Row]:
        """An adapter of a wider model, on reviews."""
        base = works.base(self.folder / "wide", works.WIDE_BERT)
        method = {"method": {"type": "LoRA", "rank": 16}}
        work = works.classification("reviews", self.folder / "lora", base, **method)
        goals = {"dynamic padding": ">= 1.3", "group_by_length": ""}
        # Whole stretches of what `group_by_length` sorts, the longest first: 50 steps.
        return self.speeds("LoRA, BERT 4x512", work, goals, steps=50, peak="<= 0.9")

    def exporter(self) -> Iterator[Row]:
        """What telemetry, /metrics and a scrape now and then cost: on and off in turn."""
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        side = Side(ours.train_observed, works.masked_lm(self.folder), port)
        side.steps(3, option=True)
        taken: dict[bool, list[Stretch]] = {True: [], False: []}
        for turn in range(EXPORTER_TURNS):
            for on in (True, False) if turn % 2 else (False, True):  # what drifts favours neither
                scrape = threading.Thread(target=_scrape, args=(port,))
                if on and turn % TURNS_BETWEEN_SCRAPES == 0:
                    scrape.start()
                taken[on].append(side.steps(EXPORTER_STEPS, option=on))
                if scrape.is_alive():
                    scrape.join()
        side.close()
        for what, goal in (("cpu", "<= 1.005"), ("seconds", "")):  # time alone varies by more
            seen, unseen = (
                [getattr(stretch, what) / EXPORTER_STEPS for stretch in taken[way]]
                for way in (True, False)
            )
            rounds = [on / off for on, off in zip(seen, unseen, strict=True)]
            metric = "CPU s/step" if what == "cpu" else "s/step"
            means = statistics.mean(seen), statistics.mean(unseen)
            yield Row("exporter on against off", metric, *means, goal, rounds)

    def loss(self) -> Iterator[Row]:
        """Seconds of training until a validation loss, MaskedLM with the same hyper-parameters."""
        work = works.masked_lm(self.folder)
        work = work.but(evaluation={"everySteps": STEPS_BETWEEN_LOOKS})
        works.prepare(work)
        sides = {
            "ours": Side(ours.train, work),
            "theirs": Side(theirs.train, work, 0, STEPS_BETWEEN_LOOKS),
        }
        seconds = dict.fromkeys(sides, 0.0)
        going = dict(sides)
        for _ in range(MOST_LOOKS):
            for name, side in list(going.items()):
                # One step more: what is measured after a step is told with the next.
                stretch = side.steps(STEPS_BETWEEN_LOOKS + (seconds[name] == 0.0))
                seconds[name] += stretch.seconds
                assert stretch.validation is not None
                if stretch.validation <= TARGET_LOSS:
                    del going[name]
        for side in sides.values():
            side.close()
        if going:
            raise SystemExit(f"{', '.join(going)}: no validation loss of {TARGET_LOSS}")
        name = f"MLM to a validation loss of {TARGET_LOSS:g}"
        yield Row(name, "seconds", seconds["ours"], seconds["theirs"], "<= 1.0")

    def compiled(self) -> Iterator[Row]:
        """Ours with torch.compile against ours without, once it has compiled."""
        for name, work in works.architectures(self.folder).items():
            works.prepare(work)
            sides: dict[bool, Side] = {}
            for on in (True, False):
                sides[on] = Side(
                    ours.train, work.but(training={"compile": "Always" if on else "Never"})
                )
                sides[on].steps(1)  # one after the other: their runs have one folder
            found = in_turn(sides, rounds=ROUNDS, steps=6)
            for side in sides.values():
                side.close()
            yield _row(f"{name}, compiled against not", found[True], found[False])

    def gpu(self) -> Iterator[Row]:
        """Models of the usual sizes, where there is a GPU."""
        if not torch.cuda.is_available():
            print("GPT-2 124M, BERT-base, Llama 1B: no GPU")
            return
        device = torch.cuda.get_device_name()
        for name, work in works.on_gpu(self.folder).items():
            works.prepare(work)
            yield self.same_loss(name, work)
            mine, their = list[Stretch](), list[Stretch]()
            for _ in range(GPU_ROUNDS):
                for train, stretches in ((ours.train, mine), (theirs.train, their)):
                    side = Side(train, work)
                    side.steps(10)  # compiles
                    stretches.append(side.steps(30))
                    side.close()  # before the other: two of them may not fit
            yield _row(f"{name}, {device}", mine, their, ">= 1.0")
            for on, published in NANOGPT.get(name, {}).items():
                if on in device:
                    against = f"{name}, {device}, nanoGPT's figure"
                    fastest = statistics.median(map(_rate, mine))
                    yield Row(against, "tokens/s", fastest, published, ">= 1.0")

    def speeds(
        self,
        name: str,
        work: Work,
        goals: dict[str, str],
        *,
        steps: int,
        peak: str | None = None,
    ) -> Iterator[Row]:
        """Tokens per second of ours against Trainer, after a look at the losses.

        Args:
            name: Of the work.
            work: What both sides do.
            goals: By how Trainer makes its batches.
            steps: In a turn.
            peak: The goal of the memory, where it is compared.
        """
        works.prepare(work)
        yield self.same_loss(name, work)
        sides = {"ours": Side(ours.train, work)}
        for way in goals:
            grouped = way == "group_by_length"
            sides[way] = Side(theirs.train, works.grouped(work) if grouped else work)
        found = in_turn(sides, rounds=ROUNDS, steps=steps)
        for side in sides.values():
            side.close()
        mine = found.pop("ours")
        for way, their in found.items():
            against = f"{name}, against {way}" if way else name
            yield _row(against, mine, their, goals[way])
            yield _row(against, mine, their, metric="tokens/CPU s")
            if peak is not None:
                goal = peak if goals[way] else ""
                yield Row(against, "peak MiB", mine[-1].peak, their[-1].peak, goal)

    def same_loss(self, name: str, work: Work) -> Row:
        """The same batches in float32 give the same losses on both sides, step after step."""
        exact = work.but(training={"precision": "FP32"})
        runs = [Side(ours.train, exact), Side(theirs.train, exact, CHECKED_STEPS)]
        mine, their = (side.steps(CHECKED_STEPS).losses for side in runs)
        for side in runs:
            side.close()
        apart = max(abs(a - b) for a, b in zip(mine, their, strict=True))
        if not apart <= CLOSE:
            raise SystemExit(f"{name}: the losses are not the same: {mine} and {their}")
        return Row(f"{name}, same batches", "nats apart", apart, None, "")


def _scrape(port: int) -> None:
    with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
        answer.read()


def _row(
    work: str,
    ours: Sequence[Stretch],
    theirs: Sequence[Stretch],
    goal: str = "",
    *,
    metric: str = "tokens/s",
) -> Row:
    """Two sides that took turns: medians, and the ratio of each round."""
    mine, their = ([_rate(stretch, metric) for stretch in side] for side in (ours, theirs))
    rounds = [one / other for one, other in zip(mine, their, strict=True)]
    return Row(work, metric, statistics.median(mine), statistics.median(their), goal, rounds)


def _rate(stretch: Stretch, metric: str = "tokens/s") -> float:
    return stretch.tokens / (stretch.cpu if metric == "tokens/CPU s" else stretch.seconds)
