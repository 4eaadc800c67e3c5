"""ObjectDetection: boxes and their classes (DETR and its kin, YOLOS, RT-DETR)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForObjectDetection, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Examples, Integers
from troika_trainer.classnames import Names
from troika_trainer.detection import DetectionReport, Numbers, detection_report, worst_scenes
from troika_trainer.errors import DataError
from troika_trainer.flops import FlopCounter
from troika_trainer.images import (
    IMAGE_COLUMNS,
    Images,
    ImageStore,
    normalised,
    patches,
    read_image,
    sized,
    stored,
)
from troika_trainer.objects import Box, objects_of
from troika_trainer.report import Mistake
from troika_trainer.rows import Row
from troika_trainer.shards import ColumnType, Example, Store

from .base import FinetuneTask, Measured, no_predictions
from .classes import numbered_labels, ordered

MAX_DETECTIONS = 100
"""In one image, as COCO counts."""
_FIELDS = 5
"""Of an object: class, and its box as x, y, width, height, in the file."""


class Scenes:
    """Images with the objects in them."""

    def __init__(self, store: Store, task: "ObjectDetection") -> None:
        self.images = ImageStore(store)
        self._objects = store["objects"]
        files = store["file_size"]
        self.files: Integers = np.asarray(files.slice(0, files.items), np.int64).reshape(-1, 2)
        """Height and width before the processor, shape [examples, 2]."""
        self._task = task

    def __len__(self) -> int:
        return len(self.images)

    def lengths(self, indices: Integers) -> Integers:
        """Patches of each image. Shape [samples]."""
        return patches(self._task.config, self.images.sizes[indices])

    def objects(self, index: int) -> Numbers:
        """What one image shows. Shape [objects, 5]: class, x, y, width, height."""
        return np.asarray(self._objects[index], dtype=np.float64).reshape(-1, _FIELDS)

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These images at the top left of the largest; objects relative to all of it."""
        lengths = self.lengths(indices)
        pixels, inside = self.images.batch(indices)
        inputs = {"pixels": pixels, "file_size": torch.from_numpy(self.files[indices])}
        if inside is not None:
            inputs["inside"] = inside
        found = [self.objects(int(index)) for index in indices]
        labels = np.full((len(found), max(1, *map(len, found)), _FIELDS), float(IGNORED))
        for place, (index, objects) in enumerate(zip(indices, found, strict=True)):
            scale = self.images.sizes[index] / self.files[index] / np.array(pixels.shape[2:])
            width, height = scale[1], scale[0]
            centres = objects[:, 1:3] + objects[:, 3:5] / 2
            boxes = np.concatenate([centres, objects[:, 3:5]], axis=1)
            labels[place, : len(objects), 0] = objects[:, 0]
            labels[place, : len(objects), 1:] = boxes * [width, height, width, height]
        return Batch(
            inputs=inputs,
            labels=torch.from_numpy(labels.astype(np.float32)),
            weight=len(indices),
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )


class ObjectDetection(FinetuneTask):
    """The loss is the model's own (matching, class, box), a mean over the images of a micro-batch.

    Its box terms are divided by the objects of the micro-batch, as DETR does on each device, so
    another micro-batch size weighs images with few objects a little differently.
    """

    auto_model = AutoModelForObjectDetection
    pipeline_tag = "object-detection"
    preprocessing = Images()
    names: list[str]
    """Classes; their order is their number."""

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {
            **IMAGE_COLUMNS,
            "objects": ColumnType("float32"),
            "file_size": ColumnType("int32"),
        }

    @property
    def _column(self) -> str:
        return self.spec.data.columns.objects

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        found: set[str] = set()
        names: Names = ()
        for row in rows:
            names = names or row.names(self._column, self.spec.data.labels)
            found.update(name for name, _ in self._objects(row))
        if not found:
            raise DataError(
                f"the training split has no object in column {self._column!r}",
                "check data.columns.objects",
            )
        return {"labels": ordered(found, names), "names": list(names)}

    @override
    def widen(self, facts: dict[str, Any], held_out: Iterator[Row]) -> dict[str, Any]:
        more = {name for row in held_out for name, _ in self._objects(row)}
        return {**facts, "labels": ordered({*facts["labels"], *more}, facts["names"])}

    def _objects(self, row: Row) -> list[tuple[str, Box]]:
        return objects_of(row, self._column, self.spec.data.labels)

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.names = list(facts["labels"])
        self._numbers = {name: number for number, name in enumerate(self.names)}

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        for row in rows:
            image = read_image(row, self.spec.data.columns.image)
            objects = [[self._number(row, name), *box] for name, box in self._objects(row)]
            yield {
                **stored(sized(self.preprocessor, image)),
                "objects": np.asarray(objects, dtype=np.float32).ravel(),
                "file_size": np.asarray([image.height, image.width]),
            }

    def _number(self, row: Row, name: str) -> int:
        if name not in self._numbers:
            raise row.error(
                f"column {self._column!r}: category {name!r} is not among those of the training "
                "split: " + ", ".join(self.names[:20])
            )
        return self._numbers[name]

    @override
    def examples(self, store: Store) -> Scenes:
        return Scenes(store, self)

    @override
    def model_settings(self) -> dict[str, Any]:
        return numbered_labels(self.names)

    @override
    def attach(self, model: PreTrainedModel) -> None:
        self.config = model.config

    @override
    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        return None  # Decoders and backbones see other numbers of positions than there are patches.

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        inside = batch.inputs.get("inside")
        inputs = {"pixel_values": normalised(self.preprocessor, batch.inputs["pixels"], inside)}
        if inside is not None and "pixel_mask" in self.preprocessor.model_input_names:
            inputs["pixel_mask"] = inside
        wanted = [objects[objects[:, 0] != IGNORED] for objects in batch.labels]
        labels = [{"class_labels": o[:, 0].long(), "boxes": o[:, 1:]} for o in wanted]
        outputs = model(**inputs, labels=labels)
        loss: torch.Tensor = outputs.loss.float() * batch.samples
        if model.training:
            return loss, no_predictions(batch)
        return loss, self._detections(outputs, batch)

    def _detections(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Shape [samples, detections, 6]: score, class, x, y, width, height, in the file."""
        full = batch.inputs["pixels"].shape[2:]
        inside = batch.inputs.get("inside")
        files = batch.inputs["file_size"].float()
        found = self.preprocessor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=[tuple(full)] * batch.samples
        )
        made = torch.full((batch.samples, MAX_DETECTIONS, 6), float(IGNORED))
        for place, one in enumerate(found):
            best = one["scores"].float().argsort(descending=True)[:MAX_DETECTIONS]
            boxes = one["boxes"].float()[best].cpu()
            size = torch.tensor(full) if inside is None else _extent(inside[place])
            ratio = files[place].cpu() / size
            boxes = boxes * torch.stack([ratio[1], ratio[0], ratio[1], ratio[0]])
            made[place, : len(best), 0] = one["scores"][best].float().cpu()
            made[place, : len(best), 1] = one["labels"][best].float().cpu()
            made[place, : len(best), 2:4] = boxes[:, :2]
            made[place, : len(best), 4:6] = boxes[:, 2:] - boxes[:, :2]
        return made

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        report = self.report(measured, examples)
        return {"loss": measured.loss, "mAP": report.mean, "mAP50": report.mean50}

    @override
    def report(self, measured: Measured, examples: Examples) -> DetectionReport:
        return detection_report(*self._compared(measured, examples), self.names)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, Scenes)
        truth, found = self._compared(measured, examples)
        return worst_scenes(truth, found, self.names, examples.images.thumbnail)

    def _compared(
        self, measured: Measured, examples: Examples
    ) -> tuple[list[Numbers], list[Numbers]]:
        """For each image the objects in it, and those that were found; as `detection_report`."""
        assert isinstance(examples, Scenes)
        found = [rows[rows[:, 0] != IGNORED] for rows in measured.predictions]
        return [examples.objects(index) for index in range(len(found))], found


def _extent(inside: torch.Tensor) -> torch.Tensor:
    """Height and width of the part that is image. Shape [2]."""
    return torch.stack([inside[:, 0].sum(), inside[0].sum()]).cpu()
