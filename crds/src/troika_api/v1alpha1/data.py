"""Data and tokenizers: what a run reads."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import CamelModel, StorageURI, cel, validations

Column = Annotated[str, Field(min_length=1, max_length=128)]


class FileFormat(StrEnum):
    """How rows are stored. Auto goes by the file's ending."""

    AUTO = "Auto"
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "Parquet"
    TEXT = "Text"


class DataSource(CamelModel):
    """Files of one split."""

    uri: StorageURI
    """Where the files are; `*` and `**` match many files, which are read in sorted order."""
    column: Column = "text"
    """Column that holds the text (pretraining; ignored for plain text files)."""
    format: FileFormat = FileFormat.AUTO
    """File format. Auto goes by the ending: .jsonl .csv .tsv .parquet .txt, also with .gz."""


class ValidationSource(CamelModel):
    """Held-out data: files of their own, or a share of the training rows."""

    model_config = {
        "json_schema_extra": validations(
            cel("has(self.uri) != has(self.fraction)", "set exactly one of uri and fraction")
        )
    }
    uri: StorageURI | None = None
    """Files of the validation split."""
    column: Column = "text"
    """Column that holds the text."""
    format: FileFormat = FileFormat.AUTO
    """File format."""
    fraction: Annotated[float, Field(gt=0.0, le=0.5)] | None = None
    """Share of the training rows to hold out, chosen by a hash of the row: it never moves."""


class PretrainData(CamelModel):
    """Text to learn from."""

    train: DataSource
    """Training files."""
    validation: ValidationSource = ValidationSource(fraction=0.01)
    """Held-out text for the validation loss. Default: 1 % of the training rows."""
    sequence_length: Annotated[int, Field(ge=8, le=131072)] = 512
    """Tokens per sequence; documents are joined and cut to this length."""


class Columns(CamelModel):
    """Which column plays which part."""

    text: Column = "text"
    """Input text."""
    text_pair: Column | None = None
    """Second text for tasks on pairs."""
    label: Column = "label"
    """Target."""


class FinetuneData(CamelModel):
    """Labelled rows: train to learn from, validation to choose the checkpoint, test to report."""

    train: DataSource
    """Training files."""
    validation: ValidationSource = ValidationSource(fraction=0.1)
    """Rows that choose the best checkpoint. Default: 10 % of the training rows."""
    test: DataSource | None = None
    """Rows for the final report, read once at the end. Default: the report is on validation."""
    columns: Columns = Columns()
    """Names of the columns."""
    max_length: Annotated[int, Field(ge=8, le=131072)] = 512
    """Longest input in tokens; longer ones are cut at the end."""


class TokenizerTraining(CamelModel):
    """A tokenizer learnt from the training text."""

    vocab_size: Annotated[int, Field(ge=256, le=1048576)] = 8192
    """Entries of the vocabulary, special tokens included."""
    algorithm: Literal["WordPiece", "ByteLevelBPE"] | None = None
    """Default: WordPiece for MaskedLM, ByteLevelBPE for CausalLM."""
    lowercase: bool = False
    """Fold case before splitting."""
