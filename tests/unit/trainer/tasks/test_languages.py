"""Which language a multilingual model reads and writes, and how BLEU splits it."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerFast,
)

from support.trainer_runs import finetune_run, merged, train_here
from troika_trainer.errors import ConfigError
from troika_trainer.tasks.languages import bleu, set_languages
from troika_trainer.tokenizer import load_tokenizer

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
KINDS = {"mbart": MBartTokenizer, "mbart50": MBart50Tokenizer, "nllb": NllbTokenizer}
CODES = {
    "mbart": ("ro_RO", "de_DE"),
    "mbart50": ("ro_RO", "de_DE"),
    "nllb": ("ron_Latn", "deu_Latn"),
}


def tokenizer_of(kind: str) -> Any:
    """A tokenizer of letters that knows all languages of its kind."""
    scored = [(piece, -1.0) for piece in PIECES]
    numbered = {piece: number for number, piece in enumerate(PIECES)}
    return KINDS[kind](vocab=numbered if kind == "nllb" else scored)


def saved_model(folder: Path, kind: str) -> Path:
    """An untrained model of one layer on either side; it says of no language that it writes it."""
    tokenizer = tokenizer_of(kind)
    torch.manual_seed(0)
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"layers": 1, "attention_heads": 2, "ffn_dim": 32}.items()
    }
    config = AutoConfig.for_model(
        "m2m_100" if kind == "nllb" else "mbart",
        vocab_size=len(tokenizer),
        d_model=16,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        **sizes,
    )
    auto: Any = AutoModelForSeq2SeqLM
    auto.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_of(folder: Path, model: Path, **data: Any) -> dict[str, Any]:
    for split in ("train", "validation"):
        rows = [{"source": f"a {letter}", "target": f"b {letter}"} for letter in "cdefghij"]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base: dict[str, Any] = {
        "kind": "FinetuneJob",
        "name": "translate",
        "task": "Seq2Seq",
        "model": {"path": str(model)},
        "data": {
            **{split: {"uri": str(folder / f"{split}.jsonl")} for split in ("train", "validation")},
            "maxLength": 16,
        },
        "training": {"steps": 2, "globalBatchSize": 8, "precision": "FP32"},
        "evaluation": {"maxNewTokens": 4},
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "1h"},
        "output": {"uri": str(folder / "model")},
    }
    return merged(base, {"data": data})


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_writes_the_language_of_the_run(tmp_path: Path, kind: str) -> None:
    source, target = CODES[kind]
    model = saved_model(tmp_path / "start", kind)
    train_here(run_of(tmp_path, model, sourceLanguage=source, targetLanguage=target))
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == (source, target)
    asked = tokenizer("a c", return_tensors="pt")
    assert source in asked.tokens()
    auto: Any = AutoModelForSeq2SeqLM
    written = auto.from_pretrained(tmp_path / "model").generate(**asked, max_new_tokens=4)[0]
    begin = ["</s>", target] if kind != "mbart" else [target]
    assert tokenizer.convert_ids_to_tokens(written)[: len(begin)] == begin
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert "tok:13a" in report["report"]["signatures"]["bleu"]
    assert "nc:6" in report["report"]["signatures"]["chrf"]


@pytest.mark.parametrize("kind", KINDS)
def test_sources_and_targets_are_marked_with_their_languages(kind: str) -> None:
    source, target = CODES[kind]
    tokenizer = tokenizer_of(kind)
    set_languages(tokenizer, source, target)
    read = tokenizer("a").tokens()
    wanted = tokenizer.convert_ids_to_tokens(tokenizer(text_target="a")["input_ids"])
    assert source in read
    assert target not in read
    assert target in wanted
    assert source not in wanted


def test_a_language_that_the_tokenizer_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.targetLanguage de_DE: .* not know") as failure:
        set_languages(tokenizer_of("nllb"), "eng_Latn", "de_DE")
    assert "one of ace_Arab, ace_Latn, " in str(failure.value.remedy)


def test_a_model_of_many_languages_is_told_which_to_write() -> None:
    tokenizer = tokenizer_of("mbart")
    with pytest.raises(ConfigError, match="nothing says which") as failure:
        set_languages(tokenizer, None, None)
    assert "data.targetLanguage" in str(failure.value.remedy)
    tokenizer.tgt_lang = "de_DE"
    set_languages(tokenizer, None, None)
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == ("en_XX", "de_DE")


def test_a_model_that_knows_no_languages_needs_none() -> None:
    letters: Any = tokenizer_of("mbart").backend_tokenizer
    plain = PreTrainedTokenizerFast(tokenizer_object=letters)  # type: ignore[no-untyped-call]
    set_languages(plain, None, "zh")
    with pytest.raises(ConfigError, match=r"data.sourceLanguage en: .* knows no languages"):
        set_languages(plain, "en", "zh")


@pytest.mark.parametrize(
    ("language", "splits"),
    [
        (None, "13a"),
        ("deu_Latn", "13a"),
        ("zh", "zh"),
        ("zh_CN", "zh"),
        ("zho_Hans", "zh"),
        ("ja_XX", "ja-mecab" if find_spec("MeCab") and find_spec("ipadic") else "char"),
        ("tha_Thai", "char"),
    ],
)
def test_bleu_splits_as_the_language_needs_it(language: str | None, splits: str) -> None:
    metric = bleu(language)
    metric.corpus_score([""], [[""]])
    assert f"tok:{splits}" in str(metric.get_signature())


def test_chinese_is_not_one_word() -> None:
    written, wanted = ["我今天去学校看书。"], [["我今天去学校读书。"]]
    assert bleu(None).corpus_score(written, wanted).score == 0
    assert bleu("zh").corpus_score(written, wanted).score > 50


@pytest.mark.parametrize("kind", ["Marian", "M2M100"])
def test_a_tokenizer_that_needs_a_package_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    named = {"Marian": "marian", "M2M100": "m2m_100"}[kind]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": named}))
    settings = {"tokenizer_class": f"{kind}Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=f"{kind}Tokenizer requires the SentencePiece") as failure:
        load_tokenizer(str(tmp_path), trust_remote_code=False)
    assert "T5, BART, mBART or NLLB" in str(failure.value.remedy)


def test_a_package_that_any_preprocessor_needs_is_named_before_training(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for name, settings in {
        "config.json": {"model_type": "wav2vec2"},
        "preprocessor_config.json": {"feature_extractor_type": "Wav2Vec2FeatureExtractor"},
        "tokenizer_config.json": {"tokenizer_class": "MarianTokenizer"},
    }.items():
        (start / name).write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="MarianTokenizer requires the SentencePiece") as failure:
        train_here(finetune_run(tmp_path, model=start, task="SpeechRecognition"))
    assert "an image that has the package" in str(failure.value.remedy)
