"""ImageClassification: one class for an image (ViT, Swin, ConvNeXt, ResNet, ...)."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ViTConfig,
)
from typing_extensions import override

from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.flops import FlopCounter
from troika_trainer.images import (
    IMAGE_COLUMNS,
    Images,
    ImageStore,
    Pixels,
    Size,
    check_size,
    normalised,
    patch_flops,
    patches,
    read_image,
    require_one_size,
    sized,
    stored,
)
from troika_trainer.report import Mistake
from troika_trainer.rows import Row
from troika_trainer.shards import ColumnType, Example, Store

from .base import Measured
from .classes import LABEL_COLUMN, ClassTask, labels_of, worst_classes


class LabelledImages:
    """Images of one size, each with its class."""

    def __init__(self, store: Store, task: "ImageClassification") -> None:
        self.images = ImageStore(store)
        self._task = task
        self.labels = labels_of(store)
        """Class of every image, shape [examples]."""

    def __len__(self) -> int:
        return len(self.images)

    def lengths(self, indices: Integers) -> Integers:
        """Patches of each image. Shape [samples]."""
        return patches(self._task.config, self.images.sizes[indices])

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These images, as bytes."""
        lengths = self.lengths(indices)
        pixels, _ = self.images.batch(indices)
        return Batch(
            inputs={"pixels": pixels},
            labels=torch.from_numpy(self.labels[indices]),
            weight=len(indices),
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )


class AutoModel:
    """transformers' own, and what MAE has pretrained as the ViT that it is."""

    @staticmethod
    def from_pretrained(path: str, *, config: PretrainedConfig, **options: Any) -> Any:
        """Weights with a classification head."""
        if config.model_type == "vit_mae":
            fields = {name: getattr(config, name) for name in _VIT_FIELDS}
            config = ViTConfig(**fields)
        return AutoModelForImageClassification.from_pretrained(path, config=config, **options)


_VIT_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "layer_norm_eps", "image_size", "patch_size", "num_channels", "qkv_bias"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("id2label", "label2id", "problem_type"),
)


class ImageClassification(ClassTask):
    """Fine-tunes an image model with a classification head."""

    auto_model = AutoModel
    pipeline_tag = "image-classification"
    one_prediction_each = True
    preprocessing = Images()
    size: Size
    """Of all images after the processor."""

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {**IMAGE_COLUMNS, **LABEL_COLUMN}

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        first = list(itertools.islice(rows, 1))
        facts = super().survey(itertools.chain(first, rows))
        return {**facts, "size": self._pixels(first[0]).shape[1:]}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        super().adopt(facts)
        height, width = facts["size"]
        self.size = (height, width)

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        for row in rows:
            pixels = self._pixels(row)
            require_one_size(pixels, self.size, row)
            yield {**stored(pixels), "label": self.class_of(row)}

    def _pixels(self, row: Row) -> Pixels:
        return sized(self.preprocessor, read_image(row, self.spec.data.columns.image))

    @override
    def attach(self, model: PreTrainedModel) -> None:
        self.config = model.config
        check_size(model, self.size)

    @override
    def examples(self, store: Store) -> LabelledImages:
        return LabelledImages(store, self)

    @override
    def truth(self, examples: Examples) -> Integers:
        assert isinstance(examples, LabelledImages)
        return examples.labels

    @override
    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"pixel_values": normalised(self.preprocessor, batch.inputs["pixels"])}

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, LabelledImages)
        return worst_classes(
            measured, examples.labels, self.names, picture=examples.images.thumbnail
        )

    @override
    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        return patch_flops(model)
