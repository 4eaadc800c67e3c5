"""PretrainJob: learn from raw data, from scratch or from earlier weights."""

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from .base import CamelModel, ModelURI, cel, validations
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
                    "description": "Architecture, for example bert, gpt2, llama or vit_mae.",
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

    uri: ModelURI
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
                "has(self.tokenizer) || has(self.model.from) || self.objective == 'MaskedImage'",
                "a model from scratch needs a tokenizer: set tokenizer.train or tokenizer.from",
                field=".tokenizer",
            ),
            cel(
                "!self.masking.wholeWord || self.objective == 'MaskedLM'",
                "wholeWord is read by MaskedLM only",
                field=".masking.wholeWord",
            ),
            cel(
                "!has(self.tokenizer) || self.objective != 'MaskedImage'",
                "MaskedImage has no text: leave tokenizer out",
                field=".tokenizer",
            ),
            cel(
                "!has(self.data.imageSize) || "
                "(self.objective == 'MaskedImage' && has(self.model.config))",
                "data.imageSize is read by MaskedImage only, for a model from a config",
                field=".data.imageSize",
            ),
            cel(
                "!self.data.streaming || self.objective != 'MaskedImage'",
                "streaming reads text: set objective to MaskedLM, CausalLM or Denoising",
                field=".data.streaming",
            ),
            cel(
                "!self.data.packing || self.objective in ['MaskedLM', 'CausalLM']",
                "data.packing is read by MaskedLM and CausalLM only",
                field=".data.packing",
            ),
            cel(
                "!self.data.streaming || !has(self.training.epochs)",
                "a stream has no epochs: set training.steps or training.tokens",
                field=".training.epochs",
            ),
            cel(
                "!has(self.data.shuffleWindow) || "
                "self.data.shuffleWindow >= self.training.globalBatchSize",
                "shuffleWindow must be at least globalBatchSize",
                field=".data.shuffleWindow",
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
    """Tokenizer; may be left out when the model comes with one, or has no text."""
    objective: Objective
    """What is predicted."""
    masking: Masking = Masking()
    """What is hidden (MaskedLM, Denoising, MaskedImage)."""
    data: PretrainData
    """Text or images to learn from."""
    evaluation: PretrainEvaluation = PretrainEvaluation()
    """When the validation loss is measured."""


class PretrainJob(Resource):
    """Pretrains a model on the cluster's nodes."""

    plural: ClassVar[str] = "pretrainjobs"
    short_name: ClassVar[str] = "ptj"

    kind: str = "PretrainJob"
    spec: PretrainSpec
