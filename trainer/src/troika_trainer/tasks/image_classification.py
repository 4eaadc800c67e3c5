"""ImageClassification: one class for an image (ViT, Swin, ConvNeXt, ResNet, ...)."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ViTConfig,
)
from typing_extensions import override

from troika_api.v1alpha1.data import Augmentation
from troika_trainer.augmentation import WHOLE_COLUMNS, Crops, Views, whole
from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.flops import FlopCounter
from troika_trainer.images import (
    IMAGE_COLUMNS,
    Images,
    ImageStore,
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
        self._views = task.views(store)
        self.labels = labels_of(store)
        """Class of every image, shape [examples]."""

    def __len__(self) -> int:
        return len(self.images)

    def lengths(self, indices: Integers) -> Integers:
        """Patches of each image. Shape [samples]."""
        return patches(self._task.config, self.images.sizes[indices])

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        """These images, as bytes; in training as other views of them in each epoch."""
        lengths = self.lengths(indices)
        if self._views is None:
            pixels, _ = self.images.batch(indices)
        else:
            pixels = self._views.batch(indices, epochs)
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
        return {**IMAGE_COLUMNS, **LABEL_COLUMN, **(WHOLE_COLUMNS if self._crops else {})}

    @property
    def _crops(self) -> bool:
        return self.spec.data.augmentation is Augmentation.CROP_AND_FLIP

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        first = list(itertools.islice(rows, 1))
        facts = super().survey(itertools.chain(first, rows))
        return {**facts, "size": sized(self.preprocessor, self._image(first[0])).shape[1:]}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        super().adopt(facts)
        height, width = facts["size"]
        self.size = (height, width)

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        for row in rows:
            image = self._image(row)
            pixels = sized(self.preprocessor, image)
            require_one_size(pixels, self.size, row)
            more = whole(image, self.size) if self._crops else {}
            yield {**stored(pixels), **more, "label": self.class_of(row)}

    def _image(self, row: Row) -> Image.Image:
        return read_image(row, self.spec.data.columns.image)

    def views(self, store: Store) -> Views | None:
        """How the images of a split are varied; None where they are not, as where they measure."""
        seed, kind = self.spec.training.seed, self.spec.data.augmentation
        if kind in (None, Augmentation.NONE) or store.facts["split"] != "train":
            return None
        if not self._crops:
            return Views(ImageStore(store), seed)
        images = ImageStore(store, pixels="whole", size="whole_size")
        resample = getattr(self.preprocessor, "resample", None)
        return Crops(
            images,
            seed,
            size=self.size,
            resample=Image.Resampling.BILINEAR if resample is None else int(resample),
        )

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
