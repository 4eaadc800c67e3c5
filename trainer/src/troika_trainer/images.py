"""Images: read with Pillow, sized once by the model's image processor, kept as bytes on disk.

What the processor does to the size of an image is done when the data is prepared; what it does to
the values (rescale, normalise) is done on the device, so that a batch travels as bytes.
"""

import base64
import io
import json
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import nn
from transformers import AutoImageProcessor, PretrainedConfig, PreTrainedModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typing_extensions import override

from troika_api.v1alpha1.run import PretrainRun

from .batch import Integers
from .errors import ConfigError, is_out_of_memory
from .flops import FlopCounter, flop_counter
from .loading import cannot_load
from .preprocessor import Preprocessing, Rows
from .rows import Row
from .runfile import Run
from .shards import ColumnType, Example, Store

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""Height and width, in pixels."""

CHANNELS = 3
THUMBNAIL = 96
"""Longest side of an image in a report, in pixels."""

DEFAULT_SIZE = 224

IMAGE_COLUMNS = {"pixels": ColumnType("uint8"), "size": ColumnType("int32")}
"""How an image is stored: its values in the order channel, row, column; and [height, width]."""


class Images(Preprocessing):
    """The image processor that comes with the model, or a plain one for a model from scratch."""

    name = "image-processor"

    @override
    def load(self, path: str, *, trust_remote_code: bool) -> Any:
        try:
            loader: Any = AutoImageProcessor
            return loader.from_pretrained(path, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError) as error:
            raise cannot_load(
                "an image processor",
                path,
                error,
                remedy="name a directory that holds preprocessor_config.json",
            ) from error

    @override
    def recipe(self, run: Run) -> Any | None:
        return {"size": _size(run)} if run.model.path is None else None

    @override
    def make(self, run: Run, rows: Rows) -> ViTImageProcessorPil:
        """Squares of the size that the run names, values from -1 to 1."""
        side = _size(run)
        half = [0.5] * CHANNELS
        return ViTImageProcessorPil(
            size={"height": side, "width": side}, image_mean=half, image_std=half
        )

    @override
    def fingerprint(self, preprocessor: Any) -> str:
        text = json.dumps(preprocessor.to_dict(), sort_keys=True, default=str)
        return sha256(text.encode()).hexdigest()

    @override
    def model_settings(
        self, preprocessor: Any, fields: dict[str, Any], known: PretrainedConfig
    ) -> dict[str, Any]:
        side = preprocessor.size["height"]
        if fields.get("image_size", side) != side:
            raise ConfigError(
                f"model.config.image_size {fields['image_size']} is not data.imageSize {side}",
                "leave it out: it is taken from data.imageSize",
            )
        if fields.get("num_channels", CHANNELS) != CHANNELS:
            raise ConfigError(
                f"model.config.num_channels {fields['num_channels']}: images are read as RGB",
                "leave it out; grey images become RGB",
            )
        return {"image_size": side} if hasattr(known, "image_size") else {}

    @override
    def check(self, preprocessor: Any, model: PretrainedConfig, path: str) -> None:
        if getattr(model, "num_channels", CHANNELS) != CHANNELS:
            raise ConfigError(
                f"the model in {path} takes {model.num_channels} channels; images are read as RGB",
                "use a model for RGB images",
            )


def _size(run: Run) -> int:
    return (run.data.image_size if isinstance(run, PretrainRun) else None) or DEFAULT_SIZE


def read_image(row: Row, column: str) -> Image.Image:
    """The image in a column as RGB, turned as its camera says.

    Raises:
        DataError: it is missing, or no image that Pillow reads.
    """
    content = row.content(column)
    try:
        image = Image.open(io.BytesIO(content))
        return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        named = row.values[column]
        what = named if isinstance(named, str) else f"{len(content)} bytes"
        problem = "is not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise row.error(
            f"column {column!r}: {what}: {problem}; expected PNG, JPEG, WebP or another format "
            "that Pillow reads"
        ) from error


def sized(processor: Any, image: Image.Image) -> Pixels:
    """The image as the processor resizes and crops it. Shape [channels, height, width]."""
    made = processor([image], do_rescale=False, do_normalize=False, return_tensors="np")
    pixels: Pixels = np.asarray(made["pixel_values"][0])
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def require_one_size(pixels: Pixels, wanted: Size, row: Row) -> None:
    """What makes batches of one size must get images of one size.

    Args:
        pixels: The image after the processor, shape [channels, height, width].
        wanted: What the processor made of the first image. Only it knows: what it calls a size may
            be a side, or an area to crop from.
        row: Where the image is from.

    Raises:
        DataError: the processor left the image at a size of its own.
    """
    found = pixels.shape[1:]
    if found != wanted:
        raise row.error(
            f"the image is {found[0]} x {found[1]} pixels after the model's image processor, and "
            f"the first one of training is {wanted[0]} x {wanted[1]}: give the processor a size "
            "with height and width, or a crop_size"
        )


@torch.no_grad()
def check_size(model: PreTrainedModel, size: Size) -> None:
    """Whether a model takes images of the size that its processor makes.

    Raises:
        ConfigError: it does not; only a pass tells, for what some call their size others resample.
    """
    mode = model.training
    model.train(mode=False)  # what a norm has seen must not change
    try:
        model(pixel_values=torch.zeros(1, CHANNELS, *size, device=model.device))
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"the model cannot read images of {size[0]} x {size[1]} pixels, which its image "
            f"processor makes of the first one of training: {error}",
            "give the processor a size with the height and the width that the model takes",
        ) from error
    finally:
        model.train(mode)


def stored(pixels: Pixels) -> Example:
    """One image as `IMAGE_COLUMNS`."""
    return {"pixels": pixels.ravel(), "size": np.asarray(pixels.shape[1:])}


class ImageStore:
    """The images of a split."""

    def __init__(self, store: Store, *, pixels: str = "pixels", size: str = "size") -> None:
        self._pixels = store[pixels]
        sizes = store[size]
        self.sizes: Integers = np.asarray(sizes.slice(0, sizes.items), np.int64).reshape(-1, 2)
        """Height and width, shape [examples, 2]."""

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, index: int) -> Pixels:
        """One image. Shape [channels, height, width]."""
        rows, columns = self.sizes[index]
        found: Pixels = self._pixels[index].reshape(CHANNELS, rows, columns)
        return found

    def thumbnail(self, index: int) -> str:
        """One image, small, as a data URI."""
        pixels, _ = self.batch(np.array([index]))
        return thumbnail(pixels[0])

    def batch(self, indices: Integers) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images, at the top left of what holds the largest, and where they are.

        Returns:
            Pixels, uint8 [samples, channels, height, width]; and 1 where the image is, 0 where it
            is padded, int64 [samples, height, width], or None where nothing is.
        """
        sizes = self.sizes[indices]
        height, width = sizes.max(axis=0)
        pixels = np.zeros((len(indices), CHANNELS, height, width), dtype=np.uint8)
        for place, (index, (rows, columns)) in enumerate(zip(indices, sizes, strict=True)):
            pixels[place, :, :rows, :columns] = self.image(int(index))
        if (sizes == sizes[0]).all():
            return torch.from_numpy(pixels), None
        inside = (np.arange(height)[None, :, None] < sizes[:, 0, None, None]) & (
            np.arange(width)[None, None, :] < sizes[:, 1, None, None]
        )
        return torch.from_numpy(pixels), torch.from_numpy(inside.astype(np.int64))


def normalised(
    processor: Any, pixels: torch.Tensor, inside: torch.Tensor | None = None
) -> torch.Tensor:
    """What the model expects of these pixels, on their device.

    Args:
        processor: The model's.
        pixels: uint8, shape [samples, channels, height, width].
        inside: 1 where the image is; the rest becomes 0. Shape [samples, height, width].

    Returns:
        float32, shape [samples, channels, height, width].
    """
    values = pixels.float()
    if processor.do_rescale:
        values = values * processor.rescale_factor
    if processor.do_normalize:
        mean = torch.tensor(processor.image_mean, device=values.device)[:, None, None]
        deviation = torch.tensor(processor.image_std, device=values.device)[:, None, None]
        values = (values - mean) / deviation
    return values if inside is None else values * inside[:, None]


def patches(config: PretrainedConfig, sizes: Integers) -> Integers:
    """Patches that a model cuts images into: its tokens. One where it does not.

    Args:
        config: The model's.
        sizes: Height and width, shape [samples, 2].

    Returns:
        Shape [samples].
    """
    side = getattr(config, "patch_size", None)
    if side is None:
        return np.ones(len(sizes), dtype=np.int64)
    counts: Integers = np.prod(sizes // np.asarray(side), axis=1)
    return counts


def patch_flops(model: PreTrainedModel) -> FlopCounter | None:
    """What a patch costs, or None for models that do more than embed patches by convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.kernel_size != module.stride:
            return None
    if not isinstance(getattr(model.config, "num_attention_heads", None), int):
        return None
    return flop_counter(model)


def thumbnail(pixels: torch.Tensor) -> str:
    """An image as a data URI of a few kilobytes.

    Args:
        pixels: Bytes, shape [channels, height, width].
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
