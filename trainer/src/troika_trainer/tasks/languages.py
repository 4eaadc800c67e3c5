"""Languages: a multilingual model is told which to read and write, BLEU how to split them."""

from importlib.util import find_spec
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from troika_trainer.errors import ConfigError

SHOWN = 8
"""Languages that a message names."""

_WITHOUT_BLANKS = {
    **dict.fromkeys(("zh", "zho", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "my", "mya", "km", "khm", "bo", "bod"), "char"),
}
"""What splits languages that write no blanks between words, by their ISO codes."""


def set_languages(
    tokenizer: PreTrainedTokenizerFast, source: str | None, target: str | None
) -> None:
    """Tell a multilingual tokenizer what is read and what is written.

    Others know nothing of languages; there the target's only says how BLEU splits it.

    Args:
        tokenizer: Of any kind; it is changed.
        source: Language of the sources, as the tokenizer calls it; None: what it says itself.
        target: Language of the targets, likewise.

    Raises:
        ConfigError: it does not know one of them, or nobody says what is to be written.
    """
    if not is_multilingual(tokenizer):
        if source:
            raise ConfigError(
                f"data.sourceLanguage {source}: the tokenizer of this model knows no languages",
                "leave it out; models such as T5 are told by data.prefix, and targetLanguage "
                "chooses how BLEU splits words",
            )
        return
    languages: Any = tokenizer
    known = list(tokenizer.extra_special_tokens)
    some = f"one of {', '.join(known[:SHOWN])}, ... ({len(known)} in all)"
    if not (target or languages.tgt_lang):
        raise ConfigError(
            "the model writes many languages, and nothing says which",
            f"set data.sourceLanguage and data.targetLanguage, each to {some}",
        )
    for field, named in (("sourceLanguage", source), ("targetLanguage", target)):
        if named and named not in known:
            raise ConfigError(
                f"data.{field} {named}: the tokenizer does not know this language",
                f"set it to {some}",
            )
    languages.src_lang = source or languages.src_lang
    languages.tgt_lang = target or languages.tgt_lang


def is_multilingual(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether it marks texts with their language, as those of mBART and NLLB do."""
    return hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")


def write_target_language(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Have a model begin with the mark of the language that it is to write; exported so, too.

    Where targets begin with the mark (NLLB, mBART-50) it is the first token that is written; where
    they end with it (mBART) it is what writing starts from.
    """
    languages: Any = tokenizer
    mark = tokenizer.convert_tokens_to_ids(languages.tgt_lang)
    ids = tokenizer(text_target="")["input_ids"]
    settings: Any = model.generation_config
    if ids and ids[0] == mark:
        settings.forced_bos_token_id = mark
    else:
        settings.decoder_start_token_id = model.config.decoder_start_token_id = mark


def bleu(target: str | None) -> BLEU:
    """BLEU that splits as is usual for a language.

    Args:
        target: Its code, such as zh, zh_CN or zho_Hans; None: one with blanks between words.
    """
    code = (target or "").replace("_", "-").split("-")[0].lower()
    splits = _WITHOUT_BLANKS.get(code, BLEU.TOKENIZER_DEFAULT)
    if splits == "ja-mecab" and not (find_spec("MeCab") and find_spec("ipadic")):
        splits = "char"
    return BLEU(tokenize=splits)
