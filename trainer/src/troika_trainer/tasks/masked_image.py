"""MaskedImage: reconstruct the patches that were hidden (MAE; SimMIM for ViT, Swin, FocalNet)."""

from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedImageModeling,
    AutoModelForPreTraining,
    PretrainedConfig,
    PreTrainedModel,
    ViTMAEConfig,
)
from typing_extensions import override

from troika_api.v1alpha1.run import PretrainRun
from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.errors import ConfigError
from troika_trainer.flops import FlopCounter
from troika_trainer.images import (
    IMAGE_COLUMNS,
    Images,
    ImageStore,
    Pixels,
    Size,
    normalised,
    patches,
    read_image,
    require_one_size,
    sized,
    stored,
)
from troika_trainer.randomness import uniform
from troika_trainer.rows import Row, text_column
from troika_trainer.shards import ColumnType, Example, Store

from .base import Measured, Task, no_predictions

MAE = "vit_mae"
DEFAULT_SHARE = 0.75
"""Of the patches that are hidden, as MAE does."""


class AutoModel:
    """The class that reconstructs images, by architecture."""

    _model_mapping: ChainMap[type[PretrainedConfig], Any] = ChainMap(
        {ViTMAEConfig: AutoModelForPreTraining},
        AutoModelForMaskedImageModeling._model_mapping,  # noqa: SLF001 - as the model is built
    )
    """Which architectures there are, where transformers' own classes say it."""

    @staticmethod
    def from_config(config: PretrainedConfig, **options: Any) -> PreTrainedModel:
        """A fresh model; its decoder makes patches of the size that its encoder leaves."""
        if config.model_type != MAE:
            config.encoder_stride = _stride(config)
        model: PreTrainedModel = _class_for(config).from_config(config, **options)
        return model

    @staticmethod
    def from_pretrained(path: str, **options: Any) -> PreTrainedModel:
        """Weights to go on from."""
        trusted = options.get("trust_remote_code", False)
        config = AutoConfig.from_pretrained(path, trust_remote_code=trusted)
        model: PreTrainedModel = _class_for(config).from_pretrained(path, **options)
        return model


def _class_for(config: PretrainedConfig) -> Any:
    return AutoModelForPreTraining if config.model_type == MAE else AutoModelForMaskedImageModeling


class MaskedImages:
    """Images, with other patches hidden in each epoch."""

    def __init__(self, store: Store, task: "MaskedImage") -> None:
        self._images = ImageStore(store)
        self._task = task

    def __len__(self) -> int:
        return len(self._images)

    def lengths(self, indices: Integers) -> Integers:
        """Patches of each image. Shape [samples]."""
        return patches(self._task.config, self._images.sizes[indices])

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        """These images and a rank for each patch: those of the highest ranks are hidden."""
        count = int(self.lengths(indices)[0])
        seed = self._task.run.training.seed
        noise = uniform(seed, epochs[:, None], indices[:, None], np.arange(count)[None, :])
        hidden = hidden_patches(count, self._task.share)
        pixels, _ = self._images.batch(indices)
        return Batch(
            inputs={"pixels": pixels},
            labels=torch.from_numpy(noise.argsort(axis=1).argsort(axis=1)),
            weight=len(indices) * hidden,
            tokens=len(indices) * count,
            pairs=len(indices) * count**2,
        )


def hidden_patches(count: int, share: float) -> int:
    """How many of the patches are hidden: at least one, and not all. MAE rounds in this way."""
    return min(count - 1, max(1, count - int(count * (1 - share))))


class MaskedImage(Task):
    """The loss is the mean over hidden patches of the error of their pixels.

    MAE: squared, on pixels normalised as the model's `norm_pix_loss` says. SimMIM: absolute. Every
    image has as many hidden patches as any other.
    """

    auto_model = AutoModel
    pipeline_tag = "image-feature-extraction"
    preprocessing = Images()
    config: PretrainedConfig
    size: Size
    """Of all images after the processor."""

    @property
    def spec(self) -> PretrainRun:
        """The run, which must be one that pretrains."""
        assert isinstance(self.run, PretrainRun)
        return self.run

    @property
    def share(self) -> float:
        """Of the patches that are hidden."""
        return self.spec.masking.probability or DEFAULT_SHARE

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return IMAGE_COLUMNS

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        """The size of the first image, as that of all."""
        first = next(rows, None)
        return {} if first is None else {"size": self._pixels(first).shape[1:]}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        height, width = facts.get("size", (0, 0))  # no rows, no images
        self.size = (height, width)

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        for row in rows:
            pixels = self._pixels(row)
            require_one_size(pixels, self.size, row)
            yield stored(pixels)

    def _pixels(self, row: Row) -> Pixels:
        image = read_image(row, text_column(row, self.spec.data.train.column))
        return sized(self.preprocessor, image)

    @override
    def examples(self, store: Store) -> MaskedImages:
        return MaskedImages(store, self)

    @override
    def attach(self, model: PreTrainedModel) -> None:
        config = model.config
        self.config = config
        side = getattr(config, "patch_size", None)
        if not isinstance(side, int) or config.image_size % side:
            raise ConfigError(
                f"model.config.patch_size {side}: it must divide the image size "
                f"{config.image_size}",
                "change patch_size or data.imageSize",
            )
        if self.size != (config.image_size, config.image_size):
            height, width = self.size
            raise ConfigError(
                f"the model takes images of {config.image_size} x {config.image_size} pixels, and "
                f"its image processor makes them {height} x {width}",
                "give the processor a size with the height and the width of the model's image_size",
            )
        if config.model_type == MAE:
            config.mask_ratio = self.share
        elif config.encoder_stride != _stride(config):
            raise ConfigError(
                f"model.config.encoder_stride {config.encoder_stride}: the decoder makes patches "
                f"of {_stride(config)} pixels",
                f"set encoder_stride to {_stride(config)}",
            )

    @override
    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        return None  # Encoder and decoder of MAE see different numbers of patches.

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        values = normalised(self.preprocessor, batch.inputs["pixels"])
        ranks = batch.labels
        if model.config.model_type == MAE:
            outputs = model(pixel_values=values, noise=ranks.float())
        else:
            hidden = ranks >= ranks.shape[1] - hidden_patches(ranks.shape[1], self.share)
            outputs = model(pixel_values=values, bool_masked_pos=hidden)
        loss: torch.Tensor = outputs.loss.float() * batch.weight
        return loss, no_predictions(batch)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        return {"loss": measured.loss}


def _stride(config: PretrainedConfig) -> int:
    """Pixels between two positions of the encoder's output: stages of Swin halve the grid."""
    stages = getattr(config, "depths", None)
    patch: int = config.patch_size
    return patch * 2 ** (len(stages) - 1) if stages else patch
