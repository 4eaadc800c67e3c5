"""PNG files that hold what was drawn, and boxes that lie round it."""

import struct
import zlib

from data.images import SCENE, SIDE, Digit, enlarge, ink, png, scene


def read(file: bytes) -> tuple[int, int, list[bytes]]:
    """A PNG reader of its own, for 8-bit grey without filters."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        kind, body = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", file, at + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *_ = struct.unpack(">2I5B", chunks[b"IHDR"])
    assert (depth, colour) == (8, 0)
    data = zlib.decompress(chunks[b"IDAT"])
    lines = [data[at : at + width + 1] for at in range(0, len(data), width + 1)]
    assert all(line[0] == 0 for line in lines)
    return width, height, [line[1:] for line in lines]


def test_a_png_gives_back_its_pixels() -> None:
    rows = [bytearray([0, 1, 254]), bytearray([255, 128, 3])]
    assert read(png(rows)) == (3, 2, [bytes(row) for row in rows])


def test_enlarged_pixels_are_squares_of_full_brightness() -> None:
    large = enlarge([16] + [0] * 62 + [8], 3)
    assert [len(large), len(large[0])] == [24, 24]
    assert large[2][:4] == bytes([255, 255, 255, 0])
    assert large[23][20:] == bytes([0, 127, 127, 127])


def test_a_box_is_tight_round_the_ink_and_ignores_faint_pixels() -> None:
    pixels = [0] * SIDE**2
    pixels[2 * SIDE + 3] = pixels[4 * SIDE + 5] = 9
    pixels[0] = 1
    assert ink(pixels, scale=2, x=10, y=20) == (10 + 6, 20 + 4, 6, 6)


def test_a_scene_is_stable_and_its_boxes_are_apart_and_hold_all_the_ink() -> None:
    digits = [Digit(str(n), n, (9,) * SIDE**2) for n in range(3)]
    for number in range(20):
        pixels, found = scene(digits, f"scene {number}")
        assert (pixels, found) == scene(digits, f"scene {number}")
        assert 1 <= len(found) <= 5
        assert len(pixels) == SCENE == len(pixels[0])
        inside = sum(box[2] * box[3] for box, _ in found)
        assert sum(value > 0 for row in pixels for value in row) == inside
