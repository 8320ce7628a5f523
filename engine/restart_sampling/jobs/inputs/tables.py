r"""The rows of a table, one after the other, with the line each stands in.

| file | rows |
|---|---|
| .txt | lines, in the column "prompt" |
| .csv, .tsv | as their header names the columns |
| .jsonl, .ndjson | one object a line |
| .parquet | as its schema names the columns |
| .json | COCO captions (`annotations` with `caption`, beside `images`), or a list of texts or of objects |

All but .json are read as a stream, so a file may have any number of rows. A row is a dict of JSON values; what a column
of Parquet holds besides is text.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...common.checks import shown
from ...common.errors import BackendError, RestartValueError
from ...common.strict_json import loads

BATCH = 1024  # rows of Parquet that are converted at once
Row = dict[str, Any]
Rows = Iterator[tuple[int, Row]]  # the number of the line, or of the row in files without lines, from 1 on


def rows(path: Path) -> Rows:
    """Yield (line, row) of the rows of a file.

    Raises:
        RestartValueError: with the line: what cannot be read. BackendError: pyarrow is not installed.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise RestartValueError(f"{path} is no table that is known ({', '.join(READERS)}); give one of these")
    try:
        yield from read(path)
    except OSError as error:
        raise RestartValueError(f"{path} cannot be read: {error.strerror or error}") from None


def place(path: Path) -> str:
    """Return what the number of a row counts, "line" or "row"."""
    return "row" if path.suffix.lower() in (".parquet", ".json") else "line"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the lines of a UTF-8 file, without their ends."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise RestartValueError(f"{path}, line {number} is not UTF-8; save the file as UTF-8") from None
            yield number, text.rstrip("\r\n")


def _text(path: Path) -> Rows:
    return ((number, {"prompt": line}) for number, line in _lines(path))


def _separated(separator: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        # Lines keep their ends, since a quoted value may go over several of them.
        texts = (text + "\n" for _, text in _lines(path))
        reader = csv.reader(texts, delimiter=separator, strict=True)
        header: list[str] | None = None
        while True:
            first = reader.line_num + 1
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise RestartValueError(f"{path}, line {first} is no row of a table: {error}") from None
            if values is None:
                return
            if not values:  # an empty line
                continue
            if header is None:
                header = [name.strip() for name in values]
                if len(set(header)) < len(header):
                    raise RestartValueError(f"{path} has two columns of one name in its header, {', '.join(header)}")
                continue
            if len(values) != len(header):
                raise RestartValueError(
                    f"{path}, line {first} has {len(values)} value{'s' * (len(values) != 1)}, and the header names "
                    f"{len(header)} column{'s' * (len(header) != 1)}; quote values with {shown(separator)} in them"
                )
            yield first, dict(zip(header, values, strict=True))

    return read


def _objects(path: Path) -> Rows:
    for number, line in _lines(path):
        if line.strip():
            yield number, _object(path, f"line {number}", lambda line=line: loads(line))  # type: ignore[misc]


def _object(path: Path, where: str, read: Callable[[], Any]) -> Row:
    try:
        value = read()
    except ValueError as error:
        raise RestartValueError(f"{path}, {where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RestartValueError(f'{path}, {where} holds {shown(value)}; a row is an object such as {{"prompt": "…"}}')
    return value


def _document(path: Path) -> Rows:
    try:
        value = loads(path.read_bytes())
    except ValueError as error:
        raise RestartValueError(f"{path} is not JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        images = value.get("images")
        named = {
            image["id"]: image["file_name"]
            for image in (images if isinstance(images, list) else ())
            if isinstance(image, dict) and isinstance(image.get("id"), int) and "file_name" in image
        }
        for number, annotation in enumerate(value["annotations"], 1):
            row = _object(path, f"row {number}", lambda annotation=annotation: annotation)  # type: ignore[misc]
            name = named.get(row["image_id"]) if isinstance(row.get("image_id"), int) else None
            yield number, row if name is None else {**row, "file_name": name}
        return
    if not isinstance(value, list):
        raise RestartValueError(f"{path} holds neither COCO's `annotations` nor a list of prompts")
    for number, item in enumerate(value, 1):
        row = {"prompt": item} if isinstance(item, str) else item
        yield number, _object(path, f"row {number}", lambda row=row: row)  # type: ignore[misc]


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BackendError(f"{path} needs pyarrow: pip install 'restart-sampling[parquet]'") from None
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _plain(value) for name, value in row.items()}
    except pa.ArrowException as error:
        raise RestartValueError(f"{path} is no Parquet file that can be read: {error}") from None


def _plain(value: Any) -> Any:
    """Return a value of Parquet as JSON has it; what JSON has not is text, and bytes are left out."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return None if isinstance(value, (bytes, bytearray)) else str(value)


READERS: dict[str, Callable[[Path], Rows]] = {
    ".txt": _text,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".jsonl": _objects,
    ".ndjson": _objects,
    ".parquet": _parquet,
    ".json": _document,
}
