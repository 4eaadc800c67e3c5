"""Sound: reading, resampling, padding, characters and CTC."""

import io
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
from transformers import (
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)
from typing_extensions import override

from support.senses import RATE, extractor, run_of, sound_model, training
from troika_api.v1alpha1.run import RUN
from troika_trainer.batch import IGNORED, Batch
from troika_trainer.errors import DataError
from troika_trainer.model import build_model
from troika_trainer.rows import Row
from troika_trainer.shards import Store, Writer
from troika_trainer.sounds import at_rate, extract, file_name, read_sound
from troika_trainer.speech import TranscriptReport, character_tokenizer, transcript_of
from troika_trainer.tasks.audio_classification import AudioClassification
from troika_trainer.tasks.base import FinetuneTask
from troika_trainer.tasks.speech_recognition import SpeechRecognition


def tone(hertz: float, rate: int, seconds: float = 0.5) -> Any:
    time = np.arange(int(rate * seconds)) / rate
    return (np.sin(2 * np.pi * hertz * time) * 20_000).astype(np.int16)


def wav(samples: Any, rate: int, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, dtype="<i2").tobytes())
    return buffer.getvalue()


def strongest(samples: Any, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


def speech_task() -> SpeechRecognition:
    run = RUN.validate_python(
        run_of(
            Path("speech"),
            kind="FinetuneJob",
            task="SpeechRecognition",
            model={"path": "/m"},
            data={"train": {"uri": "/x.jsonl"}},
            training=training(steps=1),
        )
    )
    build: Any = Wav2Vec2Processor
    extractor = wav2vec2_extractor()
    return SpeechRecognition(run, build(extractor, character_tokenizer(iter(["yes no", "on"]))))


def test_mono_at_the_models_rate_is_kept_to_the_bit() -> None:
    samples = tone(440, RATE)
    row = Row({"audio": wav(samples, RATE)}, "rows.jsonl", 1)
    assert np.array_equal(read_sound(row, "audio", RATE), samples)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_another_rate_keeps_pitch_and_duration(rate: int) -> None:
    changed = at_rate(tone(440, rate)[:, None], rate, RATE)
    assert len(changed) == pytest.approx(RATE * 0.5, abs=2)
    assert strongest(changed, RATE) == pytest.approx(440, abs=3)


def test_tones_that_the_new_rate_cannot_hold_do_not_come_back_as_others() -> None:
    changed = at_rate(tone(15_000, 48_000)[:, None], 48_000, RATE)
    assert np.abs(changed[200:-200]).max() < 200


def test_channels_are_mixed() -> None:
    both = np.stack([tone(440, RATE), np.zeros(RATE // 2, np.int16)], axis=1)
    row = Row({"audio": wav(both, RATE, channels=2)}, "rows.jsonl", 1)
    assert np.abs(read_sound(row, "audio", RATE) - tone(440, RATE) / 2).max() <= 1


@pytest.mark.parametrize(
    ("content", "said"), [(b"no sound", "is not a sound"), (wav([], RATE), "holds no samples")]
)
def test_what_is_no_sound_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_sound(Row({"audio": content}, "rows.parquet", 7), "audio", RATE)
    assert "rows.parquet, line 7, column 'audio'" in str(caught.value)


def on_clips(folder: Path, task: str, **changes: Any) -> FinetuneTask:
    """A task on a fresh model of frames of 20 ms, of which one takes 420 samples."""
    start = sound_model(folder / "start", **changes)
    fields = run_of(
        folder,
        kind="FinetuneJob",
        task=task,
        model={"path": str(start)},
        data={"train": {"uri": "/x.jsonl"}},
        training=training(steps=1),
    )
    run = RUN.validate_python(fields)
    if task == "SpeechRecognition":
        build: Any = Wav2Vec2Processor
        return SpeechRecognition(run, build(extractor(), character_tokenizer(iter(["no"]))))
    made = AudioClassification(run, extractor())
    made.adopt({"labels": ["no", "yes"], "counts": [1, 1]})
    return made


def clip(number_of_samples: int, line: int) -> Row:
    sound = wav(tone(440, RATE)[:number_of_samples], RATE)
    values = {"audio": {"bytes": sound, "path": f"{line}.wav"}, "label": "no", "transcript": "n"}
    return Row(values, "rows.parquet", line)


on_sound = pytest.mark.parametrize("kind", ["AudioClassification", "SpeechRecognition"])


@on_sound
def test_a_clip_that_is_shorter_than_a_frame_is_refused_by_row(tmp_path: Path, kind: str) -> None:
    task = on_clips(tmp_path, kind)
    made = list(task.encode([clip(420, 1)]))
    assert [len(example["samples"]) for example in made] == [420]
    with pytest.raises(DataError) as caught:
        list(task.encode([clip(420, 1), clip(192, 2)]))
    assert str(caught.value) == (
        "rows.parquet, line 2, the clip lasts 0.012 s; the model needs at least 0.02625 s"
    )


@on_sound
def test_the_shortest_clips_can_be_learnt_from(tmp_path: Path, kind: str) -> None:
    """SpecAugment as transformers has it: spans of ten frames, which are longer than these."""
    task = on_clips(tmp_path, kind, **SPECAUGMENT)
    assert finite_loss(task, tmp_path, [420, 420])
    assert finite_loss(task, tmp_path, [420, 3000])


def finite_loss(task: FinetuneTask, folder: Path, samples: list[int]) -> bool:
    model, batch = learning(task, folder, samples)
    loss, _ = task.forward(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return bool(loss.isfinite()) and loss.item() > 0


@on_sound
def test_clips_that_are_long_enough_are_masked_as_before(tmp_path: Path, kind: str) -> None:
    task = on_clips(tmp_path, kind, **SPECAUGMENT)
    for samples, changes in (([3300, 3300], False), ([6500, 6500], True)):  # 10 and 20 frames
        model, batch = learning(task, tmp_path, samples)
        losses = set()
        for seed in range(8):
            np.random.seed(seed)  # noqa: NPY002 - transformers draws with it
            losses.add(task.forward(model, batch)[0].item())
        assert (len(losses) > 1) is changes
        assert model.config.apply_spec_augment, "for the next batch, and for who takes the model on"


SPECAUGMENT = {
    name: getattr(Wav2Vec2Config(), name) for name in ("mask_time_prob", "mask_time_length")
}


def learning(task: FinetuneTask, folder: Path, samples: list[int]) -> tuple[PreTrainedModel, Batch]:
    writer = Writer(folder / "-".join(map(str, samples)), task.columns)
    writer.add(task.encode([clip(number, line) for line, number in enumerate(samples, start=1)]))
    writer.close({"split": "train"})
    examples = task.examples(Store(folder / "-".join(map(str, samples))))
    model = build_model(task.run, task)
    task.attach(model)
    indices = np.arange(len(samples))
    return model.train(), examples.batch(indices, np.zeros_like(indices))


def test_a_report_names_the_file_of_a_clip() -> None:
    rows: list[dict[str, Any]] = [
        {"audio": "clips/a.wav"},
        {"audio": {"bytes": b"x", "path": "b.wav"}},
        {"audio": {"bytes": b"x", "path": None}},
        {"audio": b"x"},
    ]
    found = [file_name(Row(row, "d/rows.parquet", 7), "audio") for row in rows]
    assert found == ["clips/a.wav", "b.wav", "d/rows.parquet, line 7", "d/rows.parquet, line 7"]


def test_clips_of_a_batch_are_padded_and_masked() -> None:
    extractor = wav2vec2_extractor()
    made = extract(extractor, [tone(440, RATE, 0.1), tone(440, RATE, 0.2)])
    assert made["input_values"].shape == (2, 3200)
    assert made["attention_mask"].sum(-1).tolist() == [1600, 3200]


def test_a_vocabulary_is_learnt_from_the_transcripts_and_reads_them_back(tmp_path: Path) -> None:
    tokenizer: Any = character_tokenizer(iter(["yes no", "go on"]))
    assert set(tokenizer.get_vocab()) == {"<pad>", "<unk>", "|", *"yesnogon"}
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again.decode(again("go yes").input_ids, group_tokens=False) == "go yes"
    with pytest.raises(DataError, match="stands between words"):
        character_tokenizer(iter(["a|b"]))


def test_ctc_decoding_joins_repeats_unless_a_blank_is_between() -> None:
    task = speech_task()
    tokenizer: Any = task.preprocessor.tokenizer
    ids = tokenizer.get_vocab()
    frames = [ids[name] for name in ("y", "y", "<pad>", "e", "s", "<pad>", "s", "|", "|", "n")]
    measured: Any = SimpleNamespace(predictions=np.array([[*frames, IGNORED, IGNORED]]))
    assert tokenizer.batch_decode(np.where(measured.predictions < 0, 0, measured.predictions)) == [
        "yess n"
    ]


def wav2vec2_extractor() -> Any:
    build: Any = Wav2Vec2FeatureExtractor
    return build(sampling_rate=RATE, return_attention_mask=True)


class Clips(torch.nn.Module):
    """A model that is as sure as it can be of one token a frame."""

    def __init__(self, frames: list[list[int]], size: int) -> None:
        super().__init__()
        self.logits = torch.nn.functional.one_hot(torch.tensor(frames), size).float() * 50

    @override
    def forward(self, **_inputs: Any) -> Any:
        return SimpleNamespace(logits=self.logits)


def test_the_loss_is_none_for_the_right_characters_and_padding_is_not_decoded() -> None:
    task = speech_task()
    ids = task.preprocessor.tokenizer.get_vocab()
    n, o, blank = ids["n"], ids["o"], ids["<pad>"]
    model: Any = Clips([[n, n, blank, o], [o, n, o, o]], len(ids)).eval()
    model._get_feat_extract_output_lengths = lambda samples: samples
    labels = torch.tensor([[n, o], [o, n]])
    batch = Batch({"samples": torch.tensor([4, 2])}, labels, weight=4, tokens=6, pairs=20)
    loss, frames = task.forward(model, batch)
    assert float(loss) == pytest.approx(0, abs=1e-3)
    assert task.preprocessor.tokenizer.batch_decode(frames) == ["no", "on"]


def test_transcripts_have_single_spaces_and_something_to_say() -> None:
    assert transcript_of(Row({"t": " a \n b "}, "r", 1), "t") == "a b"
    with pytest.raises(DataError, match="expected a transcript"):
        transcript_of(Row({"t": "  "}, "r", 1), "t")


def test_a_vocabulary_of_the_wrong_case_is_noticed() -> None:
    rows = (Row({"transcript": text}, "r", 1) for text in ("YES", "NO ON"))
    with pytest.raises(DataError, match="vocabulary lacks 88% of the characters"):
        speech_task().survey(rows)
    assert speech_task().survey(iter([Row({"transcript": "no"}, "r", 1)])) == {}


def test_the_report_counts_words_and_shows_the_worst_clips_first() -> None:
    said, heard = ["go on", "stop", "yes no"], ["go on", "top", "yes"]
    report = TranscriptReport.of(said, heard, "abc".__getitem__)
    assert report.words == {"hits": 3, "substitutions": 1, "deletions": 1, "insertions": 0}
    assert [(clip["row"], clip["file"]) for clip in report.worst] == [(2, "b"), (3, "c")]
    assert "file   b" in report.as_text()
    assert "heard  top" in report.as_text()
    assert jiwer.wer(said, heard) == pytest.approx(2 / 5)
