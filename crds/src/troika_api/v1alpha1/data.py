"""Data and tokenizers: what a run reads."""

from collections import Counter
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from .base import CamelModel, StorageURI, VolumeURI, cel, validations
from .tasks import TASKS_OF_FIELD, Task

Column = Annotated[str, Field(min_length=1, max_length=128)]
ClassName = Annotated[str, Field(min_length=1, max_length=256)]
Language = Annotated[
    str, Field(min_length=2, max_length=32, pattern="^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$")
]


class FileFormat(StrEnum):
    """How rows are stored. Auto goes by the file's ending."""

    AUTO = "Auto"
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "Parquet"
    TEXT = "Text"


class Augmentation(StrEnum):
    """How training images are varied, anew in every epoch.

    None: not at all. Flip: half of them are mirrored left to right. CropAndFlip: besides, a random
    part of each (8 to 100 % of its area, 3:4 to 4:3 wide) fills what the model sees.
    """

    NONE = "None"
    FLIP = "Flip"
    CROP_AND_FLIP = "CropAndFlip"


class DataSource(CamelModel):
    """Files of one split."""

    uri: StorageURI
    """Where the files are; `*` and `**` match many files, which are read in sorted order."""
    column: Column = "text"
    """Column that holds the text, or the image as a path relative to the row's file or as bytes
    (pretraining; ignored for plain text files)."""
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
    """Share of the training rows to hold out, chosen by a hash of the row: it never moves. Ranking
    holds out whole queries and QuestionAnswering whole contexts, by a hash of theirs."""


class DataCache(CamelModel):
    """Where tokenized data is kept, so that it is made once."""

    uri: VolumeURI
    """Directory on storage that every node mounts. Jobs that name the same one share what the first
    of them made: tokens of the same files, columns and tokenizer, and tokenizers learnt from them.
    What nobody needs any more may be deleted; a job that misses it makes it again."""


class PretrainData(CamelModel):
    """Text or images to learn from."""

    model_config = {
        "json_schema_extra": validations(
            cel(
                "!has(self.shuffleWindow) || self.streaming",
                "shuffleWindow is read with streaming only: all sequences are shuffled without it",
                field=".shuffleWindow",
            ),
            cel(
                "!self.packing || !self.streaming",
                "packing needs the lengths of all texts: leave streaming or packing out",
                field=".packing",
            ),
        )
    }
    train: DataSource
    """Training files."""
    validation: ValidationSource = ValidationSource(fraction=0.01)
    """Held-out rows for the validation loss. Default: 1 % of the training rows."""
    sequence_length: Annotated[int, Field(ge=8, le=131072)] = 512
    """Tokens per sequence; documents are joined and cut to this length (objectives on text)."""
    packing: bool = False
    """Keep documents apart (MaskedLM, CausalLM): whole ones, and pieces of those that are longer
    than sequenceLength, are put into rows of at most so many tokens, each where it leaves the least
    room. No token sees another document, and positions begin anew with each. Pays where documents
    are short: what came before says nothing about them. Costs speed where rows are long, as
    attention needs a mask: nearly nothing at 512 tokens, more at 2048. A sequence is then a row.
    Not with streaming, nor for models that cannot keep documents apart. Default: no; documents are
    joined and cut, and a token sees what came before."""
    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Images become squares of this side in pixels (MaskedImage, model from a config). Default:
    224. A model that is loaded brings its own size."""
    cache: DataCache | None = None
    """Where tokenized data is kept. Default: below checkpoint.uri, for this job alone."""
    streaming: bool = False
    """Tokenize the rows as they are read and keep nothing on disk, for text that is larger than it.
    Every rank tokenizes all of it, 0.7 million tokens a second for each core that it has and 4
    million at most: where all ranks together take more, use the cache instead. The files are
    shuffled, and then the sequences in a window that moves on; validation is at most
    evaluation.maxSequences sequences from its beginning. Needs training.steps or tokens. A
    tokenizer is learnt from the first million rows."""
    shuffle_window: Annotated[int, Field(ge=1, le=16777216)] | None = None
    """Sequences that streaming shuffles at a time, at least globalBatchSize. Default: 8192, or
    globalBatchSize where that is more."""


class Columns(CamelModel):
    """Which column plays which part."""

    text: Column = "text"
    """Input text."""
    text_pair: Column | None = None
    """Second text for tasks on pairs."""
    label: Column = "label"
    """Target: a class, a list of classes, or a number (Regression)."""
    tokens: Column = "tokens"
    """Words of a sentence: a list, or text split at blanks (TokenClassification)."""
    tags: Column = "tags"
    """One BIO tag a word, such as O, B-person, I-person, or its number, which data.labels or the
    file names (TokenClassification)."""
    question: Column = "question"
    """Question (QuestionAnswering)."""
    context: Column = "context"
    """Text that holds the answer (QuestionAnswering)."""
    answers: Column = "answers"
    """As in SQuAD: {text: [...], answer_start: [...]}, starts in characters; empty lists where
    the context has no answer (QuestionAnswering)."""
    query: Column = "query_id"
    """What tells the candidates of one query from those of another (Ranking)."""
    history: Column = "history"
    """What is known of who asks, oldest first (Ranking)."""
    candidate: Column = "candidate"
    """What may be shown (Ranking)."""
    relevance: Column = "relevance"
    """How well the candidate fits, a number from 0 up (Ranking). In NDCG a grade gains
    2^relevance - 1; where any of a split is above 30 all are amounts, such as clicks, and gain the
    relevance itself."""
    source: Column = "source"
    """Text to start from (Seq2Seq)."""
    target: Column = "target"
    """Text to write (Seq2Seq)."""
    messages: Column = "messages"
    """Conversation: a list of {role, content} (Chat). A row without this column is read as a
    prompt and a completion."""
    prompt: Column = "prompt"
    """What the user says, as text or as a list of messages (Chat, Preference). Preference does
    without it where both answers are whole conversations: the prompt is what they begin with."""
    completion: Column = "completion"
    """What the assistant answers (Chat)."""
    chosen: Column = "chosen"
    """The better answer, as text or as a list of messages; a prompt that both answers repeat counts
    once (Preference)."""
    rejected: Column = "rejected"
    """The worse answer (Preference)."""
    image: Column = "image"
    """Image: a path relative to the row's file, or the file's bytes (Parquet)."""
    objects: Column = "objects"
    """What an image shows: {bbox: [[x, y, width, height], ...], category: [...]}, boxes in pixels
    from the top left (ObjectDetection)."""
    audio: Column = "audio"
    """Sound: a path relative to the row's file, or the file's bytes (Parquet)."""
    transcript: Column = "transcript"
    """What is said (SpeechRecognition)."""


DEFAULT_COLUMNS: dict[str, str | None] = Columns().model_dump(by_alias=True)
"""The name of every column, by its role, where a job says nothing."""


class FinetuneData(CamelModel):
    """Labelled rows: train to learn from, validation to choose the checkpoint, test to report."""

    model_config = {
        "json_schema_extra": validations(
            cel(
                "!has(self.stride) || self.stride * 2 <= self.maxLength",
                "stride must be at most half of maxLength",
                field=".stride",
            )
        )
    }
    train: DataSource
    """Training files."""
    validation: ValidationSource = ValidationSource(fraction=0.1)
    """Rows that choose the best checkpoint. Default: 10 % of the training rows."""
    test: DataSource | None = None
    """Rows for the final report, read once at the end. Default: the report is on validation."""
    cache: DataCache | None = None
    """Where tokenized data is kept. Default: below checkpoint.uri, for this job alone."""
    columns: Columns = Columns()
    """Names of the columns."""
    max_length: Annotated[int, Field(ge=8, le=131072)] = 512
    """Longest input in tokens; longer ones are cut at the end (Ranking: the oldest history goes;
    QuestionAnswering: nothing goes, the context is read in windows)."""
    stride: Annotated[int, Field(ge=0, le=65536)] | None = None
    """Tokens that two windows of a long context share. Default: a quarter of maxLength."""
    packing: bool | None = None
    """Put several conversations into one row of at most maxLength tokens, so that nearly nothing
    is padding; none sees another, and the loss is the same (Chat). Pays where a step has few
    conversations of one length. Costs speed where rows are long, as attention needs a mask of all
    pairs of tokens. Default: no; conversations of similar length share a batch."""
    chat_template: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """Jinja template that writes a conversation as text, in place of the tokenizer's own; it is
    exported with the model (Chat, Preference). It is given messages, add_generation_prompt and the
    special tokens, as transformers does. An answer should end with a token at which the model
    stops, such as {{ eos_token }}. Where the answers are is seen from the text, or marked by
    {% generation %} and {% endgeneration %}. Default: the tokenizer's; where it has none, lines
    such as <|user|> before each message, and eos_token after each answer."""
    label_separator: Annotated[str, Field(min_length=1, max_length=8)] | None = None
    """What separates the labels of a row that has many, such as | in a CSV file. Rows whose label
    is a list need none."""
    labels: Annotated[list[ClassName], Field(min_length=2, max_length=4096)] | None = None
    """Names of the classes (of the tags: TokenClassification), where rows have their numbers: the
    first is that of 0, as in [O, B-PER, I-PER]. No row may have another one. Default: the names
    that the datasets library writes into a Parquet file. Where there are none either, classes that
    are numbers are called by them, and tags that are numbers are refused."""
    max_target_length: Annotated[int, Field(ge=8, le=131072)] | None = None
    """Longest target in tokens (Seq2Seq). Default: maxLength."""
    prefix: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Text that is put before every source, such as "summarize: " (Seq2Seq)."""
    source_language: Language | None = None
    """Language of the sources, as a multilingual model calls it: eng_Latn (NLLB), en_XX (mBART)
    (Seq2Seq). Default: what its tokenizer says."""
    target_language: Language | None = None
    """Language of the targets, likewise; a multilingual model writes it (Seq2Seq). With every model
    it says how BLEU splits words: Chinese, Japanese and others need it, and there an ISO code such
    as zh will do. Default: what the tokenizer says, which for most says nothing; a multilingual
    model must be told."""
    augmentation: Augmentation | None = None
    """How training images are varied, anew in every epoch (ImageClassification). Flip: half of them
    are mirrored left to right; not for what then means something else, such as writing.
    CropAndFlip: besides, a random part of each (8 to 100 % of its area, 3:4 to 4:3 wide) fills what
    the model sees; the cache then also holds the images at up to twice the model's size. Validation
    and test images stay as they are. Default: None."""
    max_seconds: Annotated[float, Field(gt=0.0, le=3600.0)] | None = None
    """Longest clip in seconds: AudioClassification cuts longer ones at the end, SpeechRecognition
    refuses them. Default: 30."""

    def check(self, task: Task) -> None:
        """What only some tasks can use.

        Raises:
            ValueError: a field is set that the task does not read, or the fields do not fit.
        """
        if self.stride is not None and self.stride * 2 > self.max_length:
            raise ValueError(f"data.stride {self.stride} is more than half of data.maxLength")
        twice = [name for name, count in Counter(self.labels or ()).items() if count > 1]
        if twice:
            raise ValueError(f"data.labels has {', '.join(twice[:20])} more than once")
        for field, readers in TASKS_OF_FIELD.items():
            if getattr(self, field) is not None and task not in readers:
                raise ValueError(f"data.{to_camel(field)} is read by {', '.join(readers)} only")


class TokenizerTraining(CamelModel):
    """A tokenizer learnt from the training text."""

    vocab_size: Annotated[int, Field(ge=256, le=1048576)] = 8192
    """Entries of the vocabulary, special tokens included."""
    algorithm: Literal["WordPiece", "ByteLevelBPE"] | None = None
    """Default: WordPiece for MaskedLM, ByteLevelBPE for CausalLM and Denoising."""
    lowercase: bool = False
    """Fold case before splitting."""
