"""Images of digits: one to classify, several in a scene to find. PNG files of 8-bit grey."""

import csv
import gzip
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import packages
from .errors import expect
from .files import write_jsonl
from .splits import choose, rank, stratified

Pixels = list[bytearray]  # rows of grey values; 0 is black

SIDE = 8  # pixels of a source image's side
BRIGHTEST = 16  # in the source
ENLARGED = 4  # 8 x 8 becomes 32 x 32, which every image model takes
SCENE = 96
SCENES = {"train": 800, "validation": 100, "test": 100}
INK = 4  # of 16; a box goes round all pixels at least so bright


class Digit(NamedTuple):
    """A handwritten digit."""

    key: str
    label: int
    pixels: tuple[int, ...]  # 64 of them, 0 to 16


def digits(out: Path) -> list[str]:
    """Handwritten digits to classify, 32 x 32. Source: scikit-learn's digits, 1,797 images.

    Rule: 8 x 8 images of PyPI's `scikit-learn`, each pixel made 4 x 4; 80/10/10 by hash within
    each digit. Folders: SPLIT/LABEL/NUMBER.png, and SPLIT/metadata.jsonl with file_name, label.
    """
    path, parts = source()
    for name, part in parts.items():
        rows = []
        for digit in part:
            file = f"{digit.label}/{digit.key}.png"
            write_png(out / name / file, enlarge(digit.pixels, ENLARGED))
            rows.append({"file_name": file, "label": digit.label})
        write_jsonl(out / name / "metadata.jsonl", rows)
    return [packages.version(path)]


def boxes(out: Path) -> list[str]:
    """Scenes of one to five digits with their boxes, 96 x 96. Made of scikit-learn's digits.

    Rule: digits of the set `digits`, from the same split, at 2, 3 or 4 times their size, at
    places picked by hash, none over another. A box is [x, y, width, height] in pixels, drawn
    round the ink. SPLIT/metadata.jsonl has file_name, image_id, width, height and objects
    {id, bbox, category, area, iscrowd}: COCO's fields; the category is the digit.
    """
    path, parts = source()
    for name, part in parts.items():
        rows, next_id = [], 1
        for number in range(SCENES[name]):
            pixels, found = scene(part, f"{name} {number}")
            file = f"{number:04}.png"
            write_png(out / name / file, pixels)
            objects = {
                "id": list(range(next_id, next_id + len(found))),
                "bbox": [list(box) for box, _ in found],
                "category": [label for _, label in found],
                "area": [box[2] * box[3] for box, _ in found],
                "iscrowd": [0] * len(found),
            }
            next_id += len(found)
            size = {"width": SCENE, "height": SCENE}
            rows.append({"file_name": file, "image_id": number, **size, "objects": objects})
        write_jsonl(out / name / "metadata.jsonl", rows)
    return [packages.version(path)]


def source() -> tuple[Path, dict[str, list[Digit]]]:
    """The digits in splits; images that are the same to the pixel count once."""
    path = packages.wheel("scikit-learn", "sklearn/datasets/data/digits.csv.gz")
    text = gzip.decompress(path.read_bytes()).decode("ascii")
    found: dict[tuple[int, ...], Digit] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text))):
        *pixels, label = (int(float(value)) for value in row)
        found.setdefault(tuple(pixels), Digit(f"{number:04}", label, tuple(pixels)))
    right = [d for d in found.values() if len(d.pixels) == SIDE**2 and d.label in range(10)]
    expect("PyPI package scikit-learn", "digits of 8 x 8 pixels", len(right), 1_700)
    return path, stratified(right, key=lambda d: d.key, label=lambda d: str(d.label))


def scene(digits: Sequence[Digit], key: str) -> tuple[Pixels, list[tuple[tuple[int, ...], int]]]:
    """A scene that depends on the key alone: its pixels; the box and label of each digit."""
    pixels = [bytearray(SCENE) for _ in range(SCENE)]
    found: list[tuple[tuple[int, ...], int]] = []
    taken: list[tuple[int, int, int]] = []
    wanted = 1 + rank(f"{key} how many") % 5
    for attempt in range(100):
        if len(found) == wanted:
            break
        this = f"{key} {attempt}"
        digit = choose(digits, f"{this} digit")
        scale = choose((2, 3, 4), f"{this} scale")
        side = SIDE * scale
        x, y = (choose(range(SCENE - side + 1), f"{this} {axis}") for axis in "xy")
        if any(x < a + s and a < x + side and y < b + s and b < y + side for a, b, s in taken):
            continue
        taken.append((x, y, side))
        for offset, row in enumerate(enlarge(digit.pixels, scale)):
            pixels[y + offset][x : x + side] = row
        found.append((ink(digit.pixels, scale, x, y), digit.label))
    return pixels, found


def ink(pixels: Sequence[int], scale: int, x: int, y: int) -> tuple[int, int, int, int]:
    """The box round a digit's ink, when the digit is drawn at a scale and a place."""
    columns = [index % SIDE for index, value in enumerate(pixels) if value >= INK]
    rows = [index // SIDE for index, value in enumerate(pixels) if value >= INK]
    left, top = min(columns), min(rows)
    width, height = max(columns) - left + 1, max(rows) - top + 1
    return x + scale * left, y + scale * top, scale * width, scale * height


def enlarge(pixels: Sequence[int], scale: int) -> Pixels:
    """An 8 x 8 image with each pixel made `scale` x `scale`, in grey values up to 255."""
    grey = bytes(min(255, value * 255 // BRIGHTEST) for value in pixels)
    wide = (
        bytes(v for v in grey[at : at + SIDE] for _ in range(scale))
        for at in range(0, SIDE**2, SIDE)
    )
    return [bytearray(row) for row in wide for _ in range(scale)]


def write_png(path: Path, rows: Pixels) -> None:
    """Write a grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(rows))


def png(rows: Pixels) -> bytes:
    """A PNG file of 8-bit grey: signature, header, one block of unfiltered rows, end."""
    header = struct.pack(">2I5B", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    # Stored, not compressed, and put together by hand: what zlib writes differs between its
    # versions, and the bytes of a set must not. One stored block holds up to 65,535 bytes.
    data = b"".join(b"\0" + row for row in rows)
    stored = b"\x78\x01\x01" + struct.pack("<2H", len(data), len(data) ^ 0xFFFF) + data
    stored += struct.pack(">I", zlib.adler32(data))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in ((b"IHDR", header), (b"IDAT", stored), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + kind + body)
        parts.append(struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)
