"""PretrainJob: learn from raw data, from scratch or from earlier weights."""

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from .base import CamelModel, StorageURI, cel, validations
from .data import PretrainData, TokenizerTraining
from .resource import SPEC_RULES, JobSpec, ModelFrom, Resource, immutable
from .run import Masking, Objective
from .training import PretrainEvaluation

ModelConfig = Annotated[
    dict[str, Any],
    Field(
        json_schema_extra={
            "x-kubernetes-preserve-unknown-fields": True,
            "additionalProperties": None,
            "properties": {
                "model_type": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 64,
                    "description": "Architecture, for example bert, roberta, gpt2 or llama.",
                }
            },
            "required": ["model_type"],
        }
    ),
]


class PretrainModel(CamelModel):
    """What to train: an architecture from scratch, or weights to go on from."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("has(self.config) != has(self.from)", "set exactly one of config and from")
        )
    )
    config: ModelConfig | None = None
    """transformers configuration, for example {model_type: bert, hidden_size: 256}. The size of
    the vocabulary and the special tokens come from the tokenizer."""
    from_: Annotated[ModelFrom | None, Field(alias="from")] = None
    """Weights to continue from."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


class TokenizerFrom(CamelModel):
    """A tokenizer that exists."""

    uri: StorageURI
    """Directory with tokenizer.json, or hf://OWNER/NAME."""


class Tokenizer(CamelModel):
    """How text becomes tokens."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("has(self.train) != has(self.from)", "set exactly one of train and from")
        )
    )
    train: TokenizerTraining | None = None
    """Learn it from the training text."""
    from_: Annotated[TokenizerFrom | None, Field(alias="from")] = None
    """Load it."""


class PretrainSpec(JobSpec):
    """What to pretrain, on what, where and for how long."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.tokenizer) || has(self.model.from)",
                "a model from scratch needs a tokenizer: set tokenizer.train or tokenizer.from",
                field=".tokenizer",
            ),
            *SPEC_RULES,
            *immutable(
                "model",
                "tokenizer",
                "objective",
                "masking",
                "data",
                "training",
                "evaluation",
                "checkpoint",
                "output",
            ),
        )
    )
    model: PretrainModel
    """Architecture or weights."""
    tokenizer: Tokenizer | None = None
    """Tokenizer; may be left out when the model comes with one."""
    objective: Objective
    """What is predicted."""
    masking: Masking = Masking()
    """How MaskedLM hides tokens."""
    data: PretrainData
    """Text to learn from."""
    evaluation: PretrainEvaluation = PretrainEvaluation()
    """When the validation loss is measured."""


class PretrainJob(Resource):
    """Pretrains a language model on the cluster's nodes."""

    plural: ClassVar[str] = "pretrainjobs"
    short_name: ClassVar[str] = "ptj"

    kind: str = "PretrainJob"
    spec: PretrainSpec
