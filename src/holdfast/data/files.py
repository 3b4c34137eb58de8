"""Records from one file: json, jsonl, csv, tsv, parquet and plain text, each of them also gzipped."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from holdfast._errors import BadInput, BadRecord


class Raw(NamedTuple):
    """One record as it stands in its file; `line` counts from 1 (the row number in a parquet file)."""

    file: str
    line: int
    fields: Mapping[str, Any]


Reader = Callable[[Path], Iterator[Raw]]

END_OF_TEXT = re.compile(r"^[ \t]*(?:<\|endoftext\|>|\f)[ \t]*$", re.MULTILINE)
"""A line that ends a document inside a text file: the mark of the GPT-2 family, or a form feed."""


def kind(path: Path) -> str:
    """The suffix that says how a file is read, without `.gz`: `.jsonl` for `a.train.jsonl.gz`."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


def records(path: Path) -> Iterator[Raw]:
    """The records of one file. Raises BadInput for an unreadable file, BadRecord for a malformed line."""
    reader = READERS.get(kind(path))
    if reader is None:
        raise BadInput(f"{path} has no suffix that says how to read it. Known: {', '.join(READERS)}, each also .gz.")
    with _readable(path):
        yield from reader(path)


@contextmanager
def opened(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """The text of a file in UTF-8, unpacked where its name ends in .gz; raises BadInput where it cannot be read."""
    with _readable(path), _text(path, newline) as handle:
        yield handle


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says in a sentence why a file cannot be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x} near position {error.start}). "
            "Convert it, for example with `iconv -f latin1 -t utf-8`."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = f"{path} is not a complete gzip file ({error}). It was cut short or damaged; fetch it again."
        raise BadInput(why) from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from error


def _binary(path: Path) -> IO[bytes]:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    handle: IO[bytes] = opener(path, "rb")
    return handle


def _text(path: Path, newline: str | None = None) -> IO[str]:
    # "utf-8-sig" takes the byte order mark away that some programs write first.
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    handle: IO[str] = opener(path, "rt", encoding="utf-8-sig", newline=newline)
    return handle


def _plain(path: Path) -> Iterator[Raw]:
    with _text(path) as handle:
        text = handle.read()
    position = 0
    for end in [*END_OF_TEXT.finditer(text), None]:
        document = text[position : end.start() if end else len(text)].strip("\n")
        if document.strip():
            yield Raw(str(path), text.count("\n", 0, position) + 1, {"text": document})
        position = end.end() if end else position


def _jsonl(path: Path) -> Iterator[Raw]:
    with _text(path) as handle:
        for number, line in enumerate(handle, start=1):
            if line.strip():
                try:
                    yield _record(path, number, json.loads(line))
                except json.JSONDecodeError as error:
                    raise BadRecord(path, number, f"this is not JSON ({error.msg} at column {error.colno}).") from error


def _json(path: Path) -> Iterator[Raw]:
    """An array of records, or records one after the other; decoded one by one, so that each keeps its line."""
    with _text(path) as handle:
        text = handle.read()
    array = text.lstrip()[:1] == "["
    position = text.index("[") + 1 if array else 0
    decoder, line, counted = json.JSONDecoder(), 1, 0
    while True:
        position = _skip(text, position)
        if position == len(text) or (array and text[position] == "]"):
            break
        line, counted = line + text.count("\n", counted, position), position
        try:
            fields, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise BadRecord(path, error.lineno, f"this is not JSON ({error.msg} at column {error.colno}).") from error
        yield _record(path, line, fields)
        position = _skip(text, position)
        if array and text[position : position + 1] == ",":
            position += 1
        elif array and text[position : position + 1] != "]":
            raise BadRecord(path, text.count("\n", 0, position) + 1, "a comma or the closing ] is missing.")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _record(path: Path, line: int, fields: object) -> Raw:
    if not isinstance(fields, dict):
        raise BadRecord(path, line, f"a record is an object with named fields; this is a {type(fields).__name__}.")
    return Raw(str(path), line, fields)


def _table(delimiter: str) -> Reader:
    def read(path: Path) -> Iterator[Raw]:
        csv.field_size_limit(2**31 - 1)
        with _text(path, newline="") as handle:
            lines = csv.DictReader(handle, delimiter=delimiter, strict=True)
            try:
                for fields in lines:
                    if None in fields or None in fields.values():
                        more = "more" if None in fields else "fewer"
                        raise BadRecord(path, lines.line_num, f"this line has {more} fields than the header.")
                    yield Raw(str(path), lines.line_num, fields)
            except csv.Error as error:
                raise BadRecord(path, lines.reader.line_num, f"{error}.") from error

    return read


def _parquet(path: Path) -> Iterator[Raw]:
    import pyarrow as arrow
    from pyarrow import parquet

    with _binary(path) as handle:
        try:
            batches = parquet.ParquetFile(arrow.BufferReader(handle.read())).iter_batches()
            rows = (fields for batch in batches for fields in batch.to_pylist())
            for number, fields in enumerate(rows, start=1):
                yield Raw(str(path), number, fields)
        except arrow.ArrowException as error:
            raise BadInput(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error


READERS: dict[str, Reader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".txt": _plain,
    ".md": _plain,
}
"""How a file is read, by its suffix."""
