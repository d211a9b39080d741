"""Files → rows: JSON arrays, JSON lines, CSV and TSV, Parquet, WebDataset tars, each also compressed with gzip where
that is usual; folders of them, and folders of images with metadata. Memory does not grow with the file.

What a file is, is decided by its first bytes; its name only where content cannot tell (CSV or TSV).
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import posixpath
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import orjson

from vhm.data.importing.rows import EmbeddedImage, Row
from vhm.data.shards.table import IMAGES
from vhm.data.validation.stream import open_list, parse_record
from vhm.errors import InputError, RecordError
from vhm.io import JsonObject

if TYPE_CHECKING:
    import pyarrow as pa

HEAD = 2**20  # bytes (uncompressed) by which a file is recognised
_LONGEST_LINE = 32 * 2**20
_WHITESPACE = " \t\r\n\ufeff"
_TEXT_SUFFIXES = frozenset(("txt", "text", "caption"))


@dataclass(frozen=True)
class Container:
    """How a file holds its rows. `bad` rows, which cannot be parsed, are given as RecordError."""

    name: str
    rows: Callable[[Path], Iterator[Row | tuple[str, RecordError]]]


def container_of(path: Path) -> Container | None:
    """The container of a file by its first bytes; None for JSON objects (COCO, RSVQA) and for anything unknown."""
    head = read_head(path, 4096, decompress=False)
    if head[:4] == b"PAR1":
        return Container("Parquet", _parquet_rows)
    if head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
        return Container("Arrow", _arrow_rows)
    if _is_tar(path):
        return Container("WebDataset tar", _tar_rows)
    compressed = head[:2] == b"\x1f\x8b"
    text = head_text(path)
    start = text.lstrip(_WHITESPACE)
    ending = ", gzip" if compressed else ""
    if start.startswith("["):
        return Container(f"JSON array{ending}", _compressed_array_rows if compressed else _array_rows)
    if start.startswith("{"):
        return Container(f"JSON lines{ending}", _line_rows) if _is_lines(_first_line(path, start)) else None
    if delimiter := _delimiter(text):
        return Container(f"{'TSV' if delimiter == chr(9) else 'CSV'}{ending}", lambda file: _csv_rows(file, delimiter))
    return None


def head_text(path: Path) -> str:
    """The first HEAD bytes of a file as text, decompressed; empty if it is no text."""
    head = read_head(path, HEAD)
    if b"\0" in head[:4096]:
        return ""
    return head.decode("utf-8", errors="ignore")


def read_head(path: Path, size: int, decompress: bool = True) -> bytes:
    """The first bytes of a file. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if decompress and start == b"\x1f\x8b":
                return gzip.GzipFile(fileobj=file).read(size)
            return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def first_rows(path: Path, container: Container) -> list[JsonObject]:
    """The first rows of a file that can be parsed from its head, at most 20."""
    if container.rows in (_array_rows, _compressed_array_rows):
        return list(itertools.islice(_objects_in(head_text(path)), 20))
    rows = itertools.islice(container.rows(path), 20)
    return [row.fields for row in rows if isinstance(row, Row)]


def top_level(text: str) -> dict[str, object]:
    """The keys of a JSON object whose beginning is `text`, each with its value, or the first element of its array."""
    decoder, found, position = json.JSONDecoder(), dict[str, object](), text.find("{") + 1
    while True:
        position = _skip(text, position, ",")
        try:
            key, position = decoder.raw_decode(text, position)
            position = _skip(text, _skip(text, position, ":"), "")
            if text[position : position + 1] == "[":
                start = _skip(text, position + 1, "")
                found[str(key)] = None if text[start : start + 1] == "]" else decoder.raw_decode(text, start)[0]
            _, position = value_end = decoder.raw_decode(text, position)
            found.setdefault(str(key), value_end[0])
        except (ValueError, RecursionError):
            return found


def _skip(text: str, position: int, also: str) -> int:
    while position < len(text) and text[position] in _WHITESPACE + also:
        position += 1
    return position


def _objects_in(text: str) -> Iterator[JsonObject]:
    """The complete objects at the beginning of a JSON array."""
    decoder, position = json.JSONDecoder(), text.find("[") + 1
    while True:
        position = _skip(text, position, ",")
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            yield value


def _first_line(path: Path, start: str) -> str:
    """The head of a file, or its first line and a newline if that is longer, as lines with images in base64 are."""
    if "\n" in start or len(start) < HEAD // 4:
        return start
    with _opened(path) as file:
        return file.readline(_LONGEST_LINE).decode("utf-8", errors="ignore").lstrip(_WHITESPACE)


def _is_lines(start: str) -> bool:
    """Whether a text is JSON lines: its first line is a complete object, and not the whole of an indented one."""
    line, newline, _ = start.partition("\n")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    nested = isinstance(value, dict) and any(
        isinstance(v, list) and v and isinstance(v[0], dict) for v in value.values()
    )
    document = nested and not value.keys() & {"conversations", "messages", "objects", "qa_pairs"}
    return isinstance(value, dict) and (bool(newline and start[len(line) :].strip()) or not document)


def _array_rows(path: Path) -> Iterator[Row | tuple[str, RecordError]]:
    records = open_list(path)
    with path.open("rb") as file:
        for number, (start, end) in enumerate(zip(records.starts.tolist(), records.ends.tolist(), strict=True)):
            file.seek(start)
            yield _parsed(f"{path.name}: record {number}", file.read(end - start))


def _compressed_array_rows(path: Path) -> Iterator[Row | tuple[str, RecordError]]:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".json") as unpacked:
        with _opened(path) as file:
            while block := file.read(2**20):
                unpacked.write(block)
        unpacked.flush()
        for row in _array_rows(Path(unpacked.name)):
            yield (
                row
                if isinstance(row, tuple)
                else Row(row.where.replace(Path(unpacked.name).name, path.name), row.fields)
            )


def _line_rows(path: Path) -> Iterator[Row | tuple[str, RecordError]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield _parsed(f"{path.name}: line {number}", line.strip(b"\xef\xbb\xbf"))


def _parsed(where: str, raw: bytes) -> Row | tuple[str, RecordError]:
    try:
        fields = parse_record(raw)
    except RecordError as error:
        return where, error
    if not isinstance(fields, dict):
        return where, RecordError("not_object", "the record is not a JSON object")
    return Row(where, fields)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]


# --- tables --------------------------------------------------------------------------------------


def _delimiter(text: str) -> str | None:
    """The delimiter of a table's header with two columns or more; None if the text is no table."""
    header, newline, _ = text.lstrip("\ufeff").partition("\n")
    for delimiter in ("\t", ",", ";"):
        columns = [column.strip().strip('"') for column in header.split(delimiter)]
        named = all(column and len(column) < 60 and column.isprintable() for column in columns)
        if newline and len(columns) > 1 and named and len(set(columns)) == len(columns):
            return delimiter
    return None


def _csv_rows(path: Path, delimiter: str) -> Iterator[Row | tuple[str, RecordError]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images in base64
    with _opened(path) as file:
        reader = csv.DictReader(
            io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=""), delimiter=delimiter
        )
        for row in _checked(reader, path):
            where = f"{path.name}: line {reader.line_num}"
            if None in row or None in row.values():
                yield (
                    where,
                    RecordError(
                        "bad_json", f"the line does not have the header's {len(reader.fieldnames or ())} columns"
                    ),
                )
            elif not all(_is_unicode(text) for text in row.values()):
                yield where, RecordError("bad_unicode", "the line is not UTF-8: convert the file with `iconv`")
            else:
                yield Row(where, {key: value for key, value in row.items() if value != ""})


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not CSV: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row | tuple[str, RecordError]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        number = 0
        file = parquet.ParquetFile(path)
        classes = _class_names(file.schema_arrow)
        for batch in file.iter_batches(batch_size=64):
            for fields in batch.to_pylist():
                yield Row(f"{path.name}: row {number}", _present(fields, classes))
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is a damaged Parquet file: {str(error).splitlines()[0]}") from error


def _arrow_rows(path: Path) -> Iterator[Row | tuple[str, RecordError]]:
    """Rows of an Arrow file or stream, as `datasets.save_to_disk` writes them."""
    import pyarrow as pa

    def batches(source: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
        if read_head(path, 6, decompress=False) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(source)

    try:
        number = 0
        with pa.memory_map(str(path)) as source:
            for batch in batches(source):
                classes = _class_names(batch.schema)
                for start in range(0, len(batch), 64):
                    for fields in batch.slice(start, 64).to_pylist():
                        yield Row(f"{path.name}: row {number}", _present(fields, classes))
                        number += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is a damaged Arrow file: {str(error).splitlines()[0]}") from error


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes that integer columns stand for, as `datasets` stores them (ClassLabel)."""
    try:
        features = orjson.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        described = {column: _of_elements(feature) for column, feature in features.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return {}
    return {
        column: [str(name) for name in feature["names"]]
        for column, feature in described.items()
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


def _of_elements(feature: object) -> object:
    """A feature, or that of its elements if it is a sequence."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return feature.get("feature", feature) if isinstance(feature, dict) else feature


def _present(fields: JsonObject, classes: dict[str, list[str]]) -> JsonObject:
    """The fields that have a value; classes by their names."""
    present = {key: value for key, value in fields.items() if value is not None}
    return present | {key: _named(present[key], names) for key, names in classes.items() if key in present}


def _named(value: object, names: list[str]) -> object:
    if isinstance(value, list):
        return [_named(entry, names) for entry in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


# --- WebDataset ----------------------------------------------------------------------------------


def _is_tar(path: Path) -> bool:
    try:
        return path.stat().st_size > 0 and tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):
        return False


def _tar_rows(path: Path) -> Iterator[Row | tuple[str, RecordError]]:
    """One row per key, the members' path up to the first dot of its name; they follow each other in the tar."""
    try:
        with tarfile.open(path, "r|*") as tar:
            for key, members in itertools.groupby(_members(tar), key=lambda member: member[0]):
                yield _grouped(f"{path.name}: {key}", key, list(members))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is a damaged tar: {error}") from error


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """(key, extension, content) of each file."""
    for member in tar:
        folder, name = posixpath.split(member.name)
        file = tar.extractfile(member) if member.isfile() and not name.startswith(".") else None
        if file is not None and "." in name:
            stem, _, extension = name.partition(".")
            yield posixpath.join(folder, stem), extension.lower(), file.read()


def _grouped(where: str, key: str, members: list[tuple[str, str, bytes]]) -> Row | tuple[str, RecordError]:
    fields: JsonObject = {}
    images: list[EmbeddedImage] = []
    for _, extension, content in members:
        last = extension.rpartition(".")[2]
        if f".{last}" in IMAGES:
            images.append(EmbeddedImage(content, f"{key}.{extension}"))
        elif last == "json":
            row = _parsed(where, content)
            if isinstance(row, tuple):
                return row
            fields = row.fields | fields
        elif last in _TEXT_SUFFIXES:
            try:
                fields["caption"] = content.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                return where, RecordError("bad_unicode", f"the text {key}.{extension} is not UTF-8")
        elif last == "cls":
            fields.setdefault("label", content.decode("utf-8", errors="replace").strip())
        else:
            fields[f"file.{extension}"] = "video" if last in ("mp4", "avi", "mkv", "webm") else last
            if fields[f"file.{extension}"] == "video":
                fields["video"] = f"{key}.{extension}"
    if images:
        fields = {k: v for k, v in fields.items() if k not in ("image", "images", "jpg", "png")}
        fields["image"] = images[0] if len(images) == 1 else images
    fields.setdefault("__key__", key)
    return Row(where, fields)
