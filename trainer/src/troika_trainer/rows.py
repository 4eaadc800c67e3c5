"""Read rows from JSONL, CSV, Parquet and text files, anywhere that fsspec reaches.

A row that is not what the run promised ends the run with its file, line and column. Longer than
other files because each format brings its own ways of being wrong.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from troika_api.v1alpha1.data import FileFormat

from . import stores
from .classnames import Names, named, names_in
from .errors import DataError, StorageError

TEXT_COLUMN = "text"
"""Name of the only column of a plain text file."""

_FORMAT_OF_ENDING = {
    ".jsonl": FileFormat.JSONL,
    ".json": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".csv": FileFormat.CSV,
    ".tsv": FileFormat.CSV,
    ".parquet": FileFormat.PARQUET,
    ".txt": FileFormat.TEXT,
    ".text": FileFormat.TEXT,
}


_BAD_INPUT = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,  # bad encodings, and protocols that fsspec does not know
    ImportError,  # protocols whose package is not installed
    csv.Error,
    pa.ArrowException,
)
"""Errors that come back with the same input; other OSErrors are the storage's, and may pass."""

_ESCAPED = re.compile("[\udc80-\udcff]")
"""A byte that is no UTF-8, as Python's "surrogateescape" shows it."""


@dataclass(frozen=True)
class DataFile:
    """One input file, with what tells that its content has not changed."""

    path: str
    format: FileFormat
    identity: tuple[str, int, str]
    """Path, size in bytes, and time or tag of the last change."""
    filesystem: fsspec.AbstractFileSystem


@dataclass(frozen=True)
class Row:
    """One row and where it stands; lines count from 1."""

    values: dict[str, Any]
    path: str
    line: int
    filesystem: fsspec.AbstractFileSystem | None = None
    """Where `path` is; the local disk where it is not said."""
    place: int = 0
    """Its place among the rows of its split, from 1; 0 where nobody has counted."""
    classes: Mapping[str, Names] = field(default_factory=dict)
    """Names of classes that are numbers here, by column, where the file itself has them."""
    halves: tuple[str, ...] = ()
    """Columns in which half a character stands, as is left where a text is cut within an emoji.
    Tokenizers refuse such a text, and do not say why."""

    def text(self, column: str) -> str:
        """The text in a column.

        Raises:
            DataError: the column is missing or holds something else.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise self.error(f"column {column!r}: expected text, got {_describe(value)}")
        return value

    def names(self, column: str, told: Names | None = None) -> Names:
        """Names of the classes in a column: what the run tells, else what the file says of them."""
        return told or self.classes.get(column, ())

    def label(self, column: str, told: Names | None = None) -> str:
        """A class name: text, whole numbers and booleans are names, nothing else is.

        Args:
            column: Where it stands.
            told: Names of all classes; their numbers may stand there, too.

        Raises:
            DataError: it is no name, or not one of those that there are.
        """
        return self.class_of(self.value(column), column, told)

    def labels(self, column: str, separator: str | None, told: Names | None = None) -> list[str]:
        """Several class names: a list, or text with a separator. None at all is fine.

        Raises:
            DataError: it is neither, or a name is no label.
        """
        value = self.value(column)
        if isinstance(value, str) and separator is not None:
            value = [name.strip() for name in value.split(separator) if name.strip()]
        if not isinstance(value, list):
            raise self.error(
                f"column {column!r}: expected a list of labels as in other rows, "
                f"got {_describe(value)}"
            )
        return [self.class_of(item, column, told) for item in value]

    def class_of(self, value: object, column: str, told: Names | None) -> str:
        """The class that a value means, which stands in a column or in a list there."""
        names = self.names(column, told)
        if (name := named(value, names)) is not None:
            return name
        if not names:
            raise self.error(
                f"column {column!r}: expected a label (text or a whole number), "
                f"got {_describe(value)}"
            )
        raise self.error(
            f"column {column!r}: expected a number from 0 to {len(names) - 1}, or its name "
            f"({', '.join(names[:20])}), got {_describe(value)}",
            "correct or drop the row, or name all classes in data.labels",
        )

    def number(self, column: str) -> float:
        """A finite number, also one written as text.

        Raises:
            DataError: it is none.
        """
        value = self.value(column)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError, OverflowError):
                if math.isfinite(number := float(value)):
                    return number
        raise self.error(f"column {column!r}: expected a number, got {_describe(value)}")

    def words(self, column: str) -> list[str]:
        """A list of texts, or text split at blanks.

        Raises:
            DataError: it is neither.
        """
        value = self.value(column)
        if isinstance(value, str):
            return value.split()
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self.error(f"column {column!r}: expected a list of texts, got {_describe(value)}")

    def content(self, column: str) -> bytes:
        """A file's content: in the column itself, or at the path that it holds.

        Paths are relative to the row's file. Parquet may hold bytes, or {bytes, path} as the
        datasets library writes images and sounds.

        Raises:
            DataError: the column holds something else, or there is no such file.
        """
        value = self.value(column)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            raise self.error(
                f"column {column!r}: expected the path of a file (or bytes), got {_describe(value)}"
            )
        filesystem = self.filesystem or fsspec.filesystem("file")
        path = str(PurePosixPath(self.path).parent / value)
        try:
            found: bytes = filesystem.cat_file(path)
        except _BAD_INPUT as error:
            raise DataError(
                f"{self.path}, line {self.line}, column {column!r}: cannot read {path}: "
                f"{getattr(error, 'strerror', None) or type(error).__name__}",
                f"paths are relative to the folder of {PurePosixPath(self.path).name}; "
                "put the file there, or correct or drop the row",
            ) from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        return found

    def error(self, problem: str, remedy: str = "correct or drop the row") -> DataError:
        """A failure that points at this row."""
        return DataError(f"{self.path}, line {self.line}, {problem}", remedy)

    def value(self, column: str) -> Any:
        """What stands in a column.

        Raises:
            DataError: there is no such column, or it holds what is no text.
        """
        if column not in self.values:
            raise DataError(
                f"{self.path}, line {self.line}: no column {column!r}; "
                f"there are {', '.join(map(repr, self.values)) or 'none'}",
                "name the right column in data, or add it to the file",
            )
        found = self.values[column]
        if column in self.halves and (half := _half_in(found)):
            raise self.error(
                f"column {column!r}: expected whole characters, got \\u{ord(half):04x}, half of one"
            )
        return found


def text_column(row: Row, column: str) -> str:
    """The column to read: a plain text file has only one, whatever the run calls it."""
    return TEXT_COLUMN if list(row.values) == [TEXT_COLUMN] else column


def find_files(uri: str, kind: FileFormat) -> list[DataFile]:
    """Every file that the URI means, sorted by name.

    Raises:
        DataError: there is none, or a name does not tell its format.
    """
    try:
        filesystem, path = stores.find(uri)
        if any(character in path for character in "*?["):
            paths = [item for item in filesystem.glob(path) if filesystem.isfile(item)]
        elif filesystem.isdir(path):
            paths = [item for item in filesystem.find(path) if _format(item, kind)]
        else:
            paths = [path] if filesystem.exists(path) else []
        infos = [filesystem.info(item) for item in sorted(paths)]
    except _BAD_INPUT as error:
        raise DataError(f"cannot read {uri}: {error}", "check the URI and the volume") from error
    except OSError as error:
        remedy = stores.REMEDY if stores.is_object_store(uri) else None
        raise StorageError(f"cannot read {uri}: {error}", remedy) from error
    if not infos:
        raise DataError(f"no file matches {uri}", "check the path and that the volume is mounted")
    return [_data_file(filesystem, info, kind) for info in infos]


def _data_file(
    filesystem: fsspec.AbstractFileSystem, info: dict[str, Any], kind: FileFormat
) -> DataFile:
    path = info["name"]
    found = _format(path, kind)
    if found is None:
        raise DataError(
            f"{path}: the ending does not tell the format",
            f"set format to one of {', '.join(item for item in FileFormat if item != 'Auto')}",
        )
    changed = info.get("ETag") or info.get("mtime") or info.get("LastModified") or ""
    return DataFile(path, found, (path, int(info.get("size") or 0), str(changed)), filesystem)


def _format(path: str, kind: FileFormat) -> FileFormat | None:
    if kind is not FileFormat.AUTO:
        return kind
    name = PurePosixPath(path)
    ending = name.with_suffix("").suffix if name.suffix == ".gz" else name.suffix
    return _FORMAT_OF_ENDING.get(ending.lower())


def read_rows(file: DataFile, *, after: int = 0) -> Iterator[Row]:
    """The rows of one file, in order.

    Args:
        file: What to read.
        after: Leave out the rows up to this line; most of the work of reading them, too.

    Raises:
        DataError: the file cannot be opened, decoded or parsed.
    """
    try:
        if file.format is FileFormat.PARQUET:
            yield from _parquet(file, after)
            return
        with file.filesystem.open(file.path, "rb", compression=_compression(file.path)) as raw:
            lines = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            match file.format:
                case FileFormat.CSV:
                    rows = _csv(file, lines)
                    yield from (row for row in rows if row.line > after)
                case FileFormat.TEXT:
                    yield from _text(file, _numbered(lines, after))
                case _:
                    yield from _jsonl(file, _numbered(lines, after))
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except _BAD_INPUT as error:
        raise _cannot_read(file, error) from error
    except OSError as error:
        raise StorageError(f"cannot read {file.path}: {error}") from error


def _cannot_read(file: DataFile, error: Exception) -> DataError:
    return DataError(
        f"cannot read {file.path} as {file.format}: {error}",
        "check that the file is whole and that its format is the one named",
    )


def _not_utf8(file: DataFile) -> DataError:
    """Find the first byte that is no UTF-8: text is decoded in blocks that know of no lines."""
    try:
        with file.filesystem.open(file.path, "rb", compression=_compression(file.path)) as raw:
            lines = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
            for number, line in enumerate(lines, start=1):
                if found := _ESCAPED.search(line):
                    return DataError(
                        f"{file.path}, line {number}, character {found.start() + 1}: "
                        f"expected UTF-8, got byte 0x{ord(found[0]) - 0xDC00:02x}",
                        "correct or drop the row, or write the file as UTF-8",
                    )
    except _BAD_INPUT as error:
        return _cannot_read(file, error)
    return DataError(f"{file.path} was changed while it was read", "leave the files as they are")


def _compression(path: str) -> str | None:
    return "gzip" if path.endswith(".gz") else None


def _numbered(lines: io.TextIOWrapper, after: int) -> Iterator[tuple[int, str]]:
    return itertools.islice(enumerate(lines, start=1), after, None)


def _jsonl(file: DataFile, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file.path}, line {number}: expected one JSON object a line: {error}",
                "write one object a line (JSON Lines)",
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                f"{file.path}, line {number}: expected a JSON object, got {_describe(values)}",
                "write one object a line (JSON Lines)",
            )
        halves = _halves(values) if "\\ud" in line or "\\uD" in line else ()
        yield Row(values, file.path, number, file.filesystem, halves=halves)


def _halves(values: dict[str, Any]) -> tuple[str, ...]:
    """The columns in which half a character stands. JSON can spell it, no encoding can write it."""
    return tuple(column for column, value in values.items() if _half_in(value))


def _half_in(value: object) -> str | None:
    """The first half of a character in a value."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return error.object[error.start]
    return None


def _csv(file: DataFile, lines: io.TextIOWrapper) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    delimiter = "\t" if ".tsv" in PurePosixPath(file.path).suffixes else ","
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 0
    try:
        header = next(reader, [])
        line = reader.line_num
        for values in reader:
            line = reader.line_num
            if not values:
                continue
            if len(values) != len(header):
                raise DataError(
                    f"{file.path}, line {line}: expected {len(header)} fields, got {len(values)}",
                    "quote fields that hold the delimiter or a line break",
                )
            yield Row(dict(zip(header, values, strict=True)), file.path, line, file.filesystem)
    except csv.Error as error:
        raise _bad_quotes(file, error, first=line + 1, last=reader.line_num) from error


def _bad_quotes(file: DataFile, error: csv.Error, *, first: int, last: int) -> DataError:
    """What is wrong with the row of these lines."""
    if "unexpected end" in str(error):
        what = f"line {first}: expected a closing quote before the end of the file"
    elif first == last:
        what = f"line {last}: {error}"
    else:
        what = f"line {last}, in a row that begins in line {first}: {error}"
    return DataError(
        f"{file.path}, {what}",
        "put a field that holds a quote, the delimiter or a line break in quotes, and write each "
        "quote in it twice",
    )


def _text(file: DataFile, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    """Each line that is not empty is a row, as in fairseq and transformers' own scripts."""
    for number, line in lines:
        if text := line.strip():
            yield Row({TEXT_COLUMN: text}, file.path, number)


def _parquet(file: DataFile, after: int) -> Iterator[Row]:
    number = 0
    with file.filesystem.open(file.path, "rb") as raw:
        opened = parquet.ParquetFile(raw)
        classes = names_in(opened.schema_arrow)
        groups = list(range(opened.num_row_groups))
        while groups and number + (size := opened.metadata.row_group(groups[0]).num_rows) <= after:
            number += size
            groups.pop(0)
        for batch in opened.iter_batches(batch_size=1024, row_groups=groups):
            known = min(max(after - number, 0), batch.num_rows)
            try:
                rows = batch.slice(known).to_pylist()
            except UnicodeDecodeError as error:
                raise _bad_cell(file, batch, number) from error
            for line, values in enumerate(rows, start=number + known + 1):
                yield Row(values, file.path, line, file.filesystem, classes=classes)
            number += batch.num_rows


def _bad_cell(file: DataFile, batch: pa.RecordBatch, before: int) -> DataError:
    """Name the text that is no UTF-8: Parquet does not look when it is written."""
    for line in range(batch.num_rows):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column[line].as_py()
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                return DataError(
                    f"{file.path}, line {before + line + 1}, column {name!r}: "
                    f"expected UTF-8, got byte 0x{byte:02x}",
                    "correct or drop the row",
                )
    raise AssertionError("some text could not be decoded, and now all of it can")


def _describe(value: object) -> str:
    shown = json.dumps(value, default=str)
    return f"{type(value).__name__} {shown[:60]}" if value is not None else "nothing"
