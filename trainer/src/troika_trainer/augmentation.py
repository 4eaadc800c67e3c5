"""Other views of the training images in every epoch: crops, and mirror images.

They are functions of seed, epoch and example, so that a resumed run, or one on another number of
ranks, sees the same.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from typing_extensions import override

from .batch import Integers
from .images import CHANNELS, ImageStore, Pixels, Size
from .randomness import uniform
from .shards import ColumnType, Example

WHOLE_COLUMNS = {"whole": ColumnType("uint8"), "whole_size": ColumnType("int32")}
"""How an image is stored that crops are taken from: as `IMAGE_COLUMNS`."""

DETAIL = 2
"""The shorter side of such an image is at most so many times that of what the model is given: it
has the details of all but the smallest crops, and a photograph of a camera does not fill the disk.
"""
SMALLEST = 0.08
"""Share of the image that the smallest crop has: as Inception's, and torchvision's default."""
NARROWEST, WIDEST = 3 / 4, 4 / 3
"""Width of a crop over its height."""
TRIES = 10
"""Crops that are drawn; the first that the image has room for counts."""


class _Draw(IntEnum):
    """Independent streams of chance."""

    MIRROR = 1
    AREA = 2
    SHAPE = 3
    TOP = 4
    LEFT = 5


def mirrored(seed: int, indices: Integers, epochs: Integers) -> npt.NDArray[np.bool_]:
    """Which of these images are mirrored left to right in these epochs. Shape [samples]."""
    found: npt.NDArray[np.bool_] = uniform(seed, _Draw.MIRROR, epochs, indices) < 0.5
    return found


def crops(sizes: Integers, seed: int, indices: Integers, epochs: Integers) -> Integers:
    """The part of each image that is seen in an epoch.

    Area and shape are drawn evenly, the shape by its logarithm. Where no try has room, as in very
    long images, it is the largest part of an allowed shape, in the middle.

    Args:
        sizes: Height and width of the images, shape [samples, 2].
        seed: Of the run.
        indices: Number of each image, shape [samples].
        epochs: Its epoch, shape [samples].

    Returns:
        Top, left, height and width, shape [samples, 4].
    """
    point = (epochs[:, None], indices[:, None], np.arange(TRIES)[None, :])
    heights, widths = sizes[:, 0], sizes[:, 1]
    share = SMALLEST + (1 - SMALLEST) * uniform(seed, _Draw.AREA, *point)
    area = share * (heights * widths)[:, None]
    shape = NARROWEST * (WIDEST / NARROWEST) ** uniform(seed, _Draw.SHAPE, *point)
    tall = np.maximum(1, np.rint(np.sqrt(area / shape))).astype(np.int64)
    wide = np.maximum(1, np.rint(np.sqrt(area * shape))).astype(np.int64)
    fits = (tall <= heights[:, None]) & (wide <= widths[:, None])
    rows, first, any_fits = np.arange(len(sizes)), fits.argmax(axis=1), fits.any(axis=1)
    most_tall = np.minimum(heights, np.rint(widths / NARROWEST).astype(np.int64))
    most_wide = np.minimum(widths, np.rint(heights * WIDEST).astype(np.int64))
    height = np.where(any_fits, tall[rows, first], most_tall)
    width = np.where(any_fits, wide[rows, first], most_wide)
    down = np.where(any_fits, uniform(seed, _Draw.TOP, epochs, indices), 0.5)
    right = np.where(any_fits, uniform(seed, _Draw.LEFT, epochs, indices), 0.5)
    top = (down * (heights - height + 1)).astype(np.int64)
    left = (right * (widths - width + 1)).astype(np.int64)
    return np.stack([top, left, height, width], axis=1)


def whole(image: Image.Image, size: Size) -> Example:
    """An image as `WHOLE_COLUMNS`, made smaller where it has more details than are ever seen.

    Args:
        image: As it is in the file, RGB.
        size: That of what the model is given.
    """
    side, most = min(image.size), DETAIL * max(size)
    if side > most:
        width, height = (round(length * most / side) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image).transpose(2, 0, 1)
    return {"whole": pixels.ravel(), "whole_size": np.asarray(pixels.shape[1:])}


def resized(pixels: Pixels, crop: Integers, size: Size, resample: int) -> Pixels:
    """A part of an image, at another size.

    Args:
        pixels: Shape [channels, height, width].
        crop: Top, left, height and width of the part.
        size: What it becomes.
        resample: How, as Pillow numbers it.

    Returns:
        Shape [channels, height, width].
    """
    top, left, height, width = crop
    part = pixels[:, top : top + height, left : left + width].transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(part))
    made: Pixels = np.asarray(image.resize(size[::-1], Image.Resampling(resample)))
    return made.transpose(2, 0, 1)


class Views:
    """Training images, each as it is in its epoch."""

    def __init__(self, images: ImageStore, seed: int) -> None:
        self._images = images
        self._seed = seed

    def batch(self, indices: Integers, epochs: Integers) -> torch.Tensor:
        """The images, some of them mirrored. uint8 [samples, channels, height, width]."""
        pixels = self.upright(indices, epochs)
        turned = torch.from_numpy(mirrored(self._seed, indices, epochs))
        pixels[turned] = pixels[turned].flip(-1)
        return pixels

    def upright(self, indices: Integers, epochs: Integers) -> torch.Tensor:  # noqa: ARG002
        """The images before some are mirrored. Same shape."""
        return self._images.batch(indices)[0]


class Crops(Views):
    """Parts of training images, other ones in each epoch."""

    def __init__(self, images: ImageStore, seed: int, *, size: Size, resample: int) -> None:
        super().__init__(images, seed)
        self._size = size
        self._resample = resample

    @override
    def upright(self, indices: Integers, epochs: Integers) -> torch.Tensor:
        """The crops, all of one size."""
        boxes = crops(self._images.sizes[indices], self._seed, indices, epochs)
        pixels = np.empty((len(indices), CHANNELS, *self._size), dtype=np.uint8)
        for place, (index, box) in enumerate(zip(indices, boxes, strict=True)):
            image = self._images.image(int(index))
            pixels[place] = resized(image, box, self._size, self._resample)
        return torch.from_numpy(pixels)
