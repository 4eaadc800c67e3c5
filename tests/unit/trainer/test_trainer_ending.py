"""However a run ends, the class, the exit code and the words are those of the contract."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from support.trainer_runs import finetune_run, pretrain_run, write_run
from troika_api.contract import (
    ENV_TERMINATION_LOG,
    MAX_TERMINATION_MESSAGE_BYTES,
    Evaluation,
    ExitCode,
    FailureClass,
    LastWord,
    Score,
    TrainerStatus,
)
from troika_trainer import errors, lastword
from troika_trainer.lastword import ProcessEnd, conclude, peers_lost
from troika_trainer.place import Place
from troika_trainer.runfile import find_run_file, read_run

CASES: list[tuple[BaseException, FailureClass | None, int]] = [
    (errors.ConfigError("x"), FailureClass.BAD_CONFIG, 10),
    (errors.DataError("x"), FailureClass.BAD_DATA, 11),
    (errors.NonFiniteError("x"), FailureClass.NON_FINITE, 12),
    (torch.OutOfMemoryError("CUDA out of memory. Tried"), FailureClass.OUT_OF_MEMORY, 13),
    (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        FailureClass.OUT_OF_MEMORY,
        13,
    ),
    (torch.AcceleratorError("CUDA error: out of memory"), FailureClass.OUT_OF_MEMORY, 13),
    (RuntimeError("CUDA driver error: out of memory"), FailureClass.OUT_OF_MEMORY, 13),
    (
        RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload"),
        FailureClass.OUT_OF_MEMORY,
        13,
    ),
    (torch.AcceleratorError("CUDA error: unspecified launch failure"), FailureClass.CRASH, 1),
    (MemoryError(), FailureClass.OUT_OF_MEMORY, 13),
    (
        RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:80"),
        FailureClass.COMMUNICATION,
        14,
    ),
    (torch.distributed.DistNetworkError("timed out"), FailureClass.COMMUNICATION, 14),
    (ConnectionRefusedError(111, "refused"), FailureClass.COMMUNICATION, 14),
    (OSError(28, "No space left on device"), FailureClass.STORAGE, 15),
    (errors.TerminatedError("stopped"), None, 143),
    (ValueError("x"), FailureClass.CRASH, 1),
]


@pytest.mark.parametrize(("error", "failure", "code"), CASES)
def test_every_error_has_its_class_and_code(
    error: BaseException, failure: FailureClass | None, code: int
) -> None:
    found = errors.verdict(error)
    assert (found.failure, found.exit_code) == (failure, code)


def test_a_crash_says_where() -> None:
    try:
        raise KeyError("nothing")  # noqa: TRY301
    except KeyError as error:
        found = errors.verdict(error)
    assert found.message.startswith("test_trainer_ending.py:")
    assert "KeyError: 'nothing'" in found.message


def ended(
    folder: Path, rank: int, code: int, error: errors.TrainerError | None = None, at: float = 0.0
) -> ProcessEnd:
    """A process that ended so, with its error file where it could write one."""
    file = folder / str(rank) / "error.json"
    file.parent.mkdir()
    if error is not None:
        place = Place(rank=rank, error_file=file)
        errors.Ending(place).record(errors.verdict(error))
        body = json.loads(file.read_text())
        word = json.loads(body["message"]["extraInfo"]["word"])
        body["message"]["extraInfo"]["word"] = json.dumps({**word, "time": at})
        file.write_text(json.dumps(body))
    return ProcessEnd(rank, code, file)


def test_the_cause_is_named_not_what_the_others_saw_of_it(tmp_path: Path) -> None:
    word, code = conclude(
        [
            ended(tmp_path, 0, 14, errors.CommunicationError("peer gone"), at=1.0),
            ended(tmp_path, 1, 11, errors.DataError("a.csv, line 3", "fix it"), at=2.0),
        ]
    )
    assert (word.failure, word.message, word.remedy) == ("BadData", "a.csv, line 3", "fix it")
    assert (word.rank, code) == (1, ExitCode.BAD_DATA)


def test_of_two_causes_the_first_is_named(tmp_path: Path) -> None:
    late = ended(tmp_path, 0, 15, errors.StorageError("disk"), at=9.0)
    early = ended(tmp_path, 1, 12, errors.NonFiniteError("nan"), at=8.0)
    word, code = conclude([late, early])
    assert (word.failure, code) == (FailureClass.NON_FINITE, ExitCode.NON_FINITE)


def test_a_killed_process_is_the_cause_even_without_words(tmp_path: Path) -> None:
    seen = ended(tmp_path, 0, 14, errors.CommunicationError("peer gone"), at=1.0)
    word, code = conclude([seen, ended(tmp_path, 1, -9)])
    assert (word.failure, word.message, code) == (
        FailureClass.CRASH,
        "rank 1 was killed by SIGKILL",
        137,
    )
    assert word.remedy is not None
    assert "memory" in word.remedy


def test_ranks_that_saved_and_left_are_terminated(tmp_path: Path) -> None:
    word, code = conclude(
        [ended(tmp_path, rank, 143, errors.TerminatedError("saved at 7")) for rank in range(2)]
    )
    assert (word.outcome, word.message, code) == ("Terminated", "saved at 7", 143)


def test_success_is_what_rank_0_left(tmp_path: Path) -> None:
    ends = [ended(tmp_path, rank, 0) for rank in range(2)]
    (tmp_path / "0" / "word.json").write_text(
        LastWord(outcome="Succeeded", model_path="/m").to_json()
    )
    word, code = conclude(ends)
    assert (word.outcome, word.model_path, code) == ("Succeeded", "/m", 0)
    assert conclude(ends[1:])[0].outcome == "Succeeded"


def test_a_node_that_lost_its_peers_says_so_unless_it_has_a_cause(tmp_path: Path) -> None:
    word, code = peers_lost("RendezvousClosedError", [])
    assert (word.failure, code) == (FailureClass.COMMUNICATION, ExitCode.COMMUNICATION)
    saved = [ended(tmp_path, 0, 143, errors.TerminatedError("saved"))]
    assert peers_lost("closed", saved)[0].outcome == "Terminated"
    assert peers_lost("closed", [ended(tmp_path, 1, -9)])[0].failure == "Communication"


def test_the_last_word_fits_whatever_it_has_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(path))
    classes = [
        Score(name=f"class {n}", precision=0.123456789, recall=0.1, f1=0.1, support=n)
        for n in range(90)
    ]
    evaluation = Evaluation(split="test", metrics={"f1": 0.5}, classes=classes)
    word = LastWord(outcome="Succeeded", message="ü" * 1500, evaluation=evaluation)
    lastword.write(word)
    text = path.read_bytes()
    assert len(text) < MAX_TERMINATION_MESSAGE_BYTES
    read = LastWord.model_validate_json(text)
    assert read.evaluation is not None
    assert read.evaluation.metrics == {"f1": 0.5}


def many_classes(number: int) -> Evaluation:
    """Scores of a classifier, as long as they come; the support goes up and down."""
    names = ("loss", "accuracy", "f1", "f1Micro", "f1Weighted", "precision", "recall")
    return Evaluation(
        split="test",
        metrics={name: 1 / (3 + at) for at, name in enumerate(names)},
        classes=[
            Score(name=f"noun.{n}", precision=1 / 3, recall=2 / 3, f1=4 / 9, support=7 * n % 1009)
            for n in range(number)
        ],
        best_step=1200,
    )


@pytest.mark.parametrize("number", [32, 45, 1000])
def test_the_largest_classes_arrive_in_their_order_as_many_as_fit(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(path))
    evaluation = many_classes(number)
    lastword.write(
        LastWord(
            outcome="Succeeded",
            time=1764018376.123,
            status=TrainerStatus(step=1500, total_steps=1500, loss=0.1234, validation_loss=0.2),
            evaluation=evaluation,
            model_path="/pvc/models/senses",
        )
    )
    text = path.read_bytes()
    assert len(text) < MAX_TERMINATION_MESSAGE_BYTES
    read = LastWord.model_validate_json(text).evaluation
    assert read is not None
    assert len(read.classes) >= min(number, 35)
    least = min(score.support for score in read.classes)
    given = [score.name for score in evaluation.classes if score.support >= least]
    assert [score.name for score in read.classes] == given
    assert (read.classes[0].precision, read.classes[0].f1) == (0.3333, 0.4444)
    if len(given) < number:
        one = len(read.classes[0].model_dump_json()) + 1
        assert len(text) + 2 * one > MAX_TERMINATION_MESSAGE_BYTES, "there is room for more"


def test_the_last_word_goes_nowhere_where_there_is_no_place_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENV_TERMINATION_LOG, "/nonexistent/folder/log")
    lastword.write(LastWord(outcome="Succeeded"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"stepz": 3}}, "training.stepz: Extra inputs are not permitted"),
        (
            {"objective": "Guessing"},
            "objective: Input should be 'MaskedLM', 'CausalLM', 'Denoising' or 'MaskedImage'",
        ),
        ({"training": {"steps": None}}, "training: set exactly one of steps, tokens and epochs"),
        ({"training": {"epochs": 2}}, "training: set exactly one of steps, tokens and epochs"),
        ({"model": {"path": "/m"}}, "model: set exactly one of config and path"),
        ({"data": {"validation": {"uri": "/v"}}}, "data.validation: set exactly one of uri and"),
        (
            {"training": {"microBatchSize": 9}},
            "training.microBatchSize 9 must not be larger than globalBatchSize 8",
        ),
        (
            {"training": {"microBatchSize": "Most"}},
            "training.microBatchSize: Input should be 'Auto'",
        ),
        ({"checkpoint": {"interval": "often"}}, "checkpoint.interval: String should match"),
        ({"output": None}, "output: Field required"),
    ],
)
def test_a_bad_run_file_is_explained_by_field(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = write_run(tmp_path / "run.json", pretrain_run(tmp_path, **changes))
    with pytest.raises(errors.ConfigError) as caught:
        read_run(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"sharding": "FSDP"}, "training.sharding: QLoRA cannot be sharded"),
        ({"precision": "FP8"}, "training.precision: QLoRA computes in BF16"),
    ],
)
def test_what_does_not_go_with_weights_in_4_bits(
    tmp_path: Path, training: dict[str, object], message: str
) -> None:
    run = finetune_run(tmp_path, model=tmp_path, method={"type": "QLoRA"}, training=training)
    with pytest.raises(errors.ConfigError) as caught:
        read_run(write_run(tmp_path / "run.json", run))
    assert message in str(caught.value)


def test_a_run_file_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"cannot read the run file .*: No such file"):
        read_run(tmp_path / "run.json")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(errors.ConfigError, match="is not a valid run: the file: Invalid JSON"):
        read_run(tmp_path / "run.json")


def test_the_run_file_is_the_argument_or_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_run_file([]) == Path("/etc/troika/run.json")
    monkeypatch.setenv("TROIKA_RUN_FILE", "/x.json")
    assert find_run_file([]) == Path("/x.json")
    assert find_run_file(["y.json"]) == Path("y.json")
    with pytest.raises(errors.ConfigError):
        find_run_file(["a", "b"])


STOP = """
    import hashlib, sys
    from pathlib import Path
    from troika_trainer.errors import Ending
    from troika_trainer.place import Place
    from troika_trainer.shutdown import StopSignal
    stop = StopSignal(Ending(Place(error_file=Path(sys.argv[1])))).install()
    if sys.argv[2] == "loading":
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)   # C code: no Python handler can run
    with stop.finishing_steps():
        print("ready", flush=True)
        while not stop.requested:
            pass
        print("saved", flush=True)
"""


@pytest.mark.parametrize(("when", "output"), [("loading", ""), ("training", "saved\n")])
def test_a_signal_ends_a_wait_at_once_and_a_step_when_it_is_done(
    tmp_path: Path, when: str, output: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(STOP), str(tmp_path / "error.json"), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == output
        assert process.wait(10) == ExitCode.TERMINATED
    word = ProcessEnd(0, 143, tmp_path / "error.json").word()
    assert word.outcome == "Terminated"
