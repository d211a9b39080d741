"""Validated records as one memory-mapped table, shared by all processes that read it.

    manifest.parquet   one row per record, with a hash of the rows in its metadata; written by `vhm validate`
    manifest.arrow     the same rows and hash as uncompressed Arrow IPC, which can be mapped and read row by row

`vhm validate` writes both. If the Arrow file is absent or has another hash, it is created in $VHM_CACHE.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.data.images.cache import cached_file
from vhm.errors import InputError
from vhm.io import JsonObject
from vhm.storage.s3 import is_uri, parse_uri
from vhm.storage.versions import open_published

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as parquet

MANIFEST = "manifest.parquet"
_COLUMNS = ("record", "list")
_ROWS_HASH = b"vhm.rows"  # key in the metadata of both files


class Index(Sequence[JsonObject]):
    """The accepted records of one or several manifests in order; an item is a record as in the list file.

    `lists` has the number of each record's list: of its manifest, or, for a single manifest, of the list within it.
    """

    def __init__(self, records: pa.ChunkedArray, lists: NDArray[np.int16], manifests: Sequence[str | Path]) -> None:
        self._records, self.lists, self._manifests = records, lists, manifests

    def __reduce__(self) -> tuple[object, ...]:
        return open_index, (self._manifests,)  # another process maps the files itself

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> JsonObject: ...
    @overload
    def __getitem__(self, index: slice) -> list[JsonObject]: ...
    def __getitem__(self, index: int | slice) -> JsonObject | list[JsonObject]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        record: JsonObject = orjson.loads(memoryview(self._records[position].as_buffer()))
        return record


def open_index(manifest: str | Path | Sequence[str | Path]) -> Index:
    """One index over a validated manifest, or over several.

    Raises InputError if a manifest is missing or was not written by `vhm validate`.
    """
    import pyarrow as pa

    manifests = [manifest] if isinstance(manifest, (str, Path)) else list(manifest)
    tables = [pa.ipc.open_file(pa.memory_map(str(_arrow_file(manifest_file(one))))).read_all() for one in manifests]
    if len(manifests) == 1:
        lists = np.concatenate([_numbers(chunk) for chunk in tables[0]["list"].chunks])
    else:
        lists = np.repeat(np.arange(len(tables), dtype=np.int16), [len(table) for table in tables])
    records = pa.chunked_array([chunk for table in tables for chunk in table["record"].chunks], pa.large_binary())
    return Index(records, lists, manifests)


def manifest_file(location: str | Path) -> Path:
    """The local path of a manifest, given its path, its directory, or the URI of a published directory."""
    if is_uri(location):
        from vhm.data.images.stores import fetch_file

        published = open_published(parse_uri(str(location)))
        if published is None or MANIFEST not in published.files:
            raise InputError(f"{location} has no {MANIFEST}: publish a packed dataset with `vhm data push`")
        return fetch_file(published, MANIFEST)
    path = Path(location)
    path = path / MANIFEST if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path} does not exist: make it with `vhm validate`")
    return path


class IndexWriter:
    """Writes the Arrow file of a manifest: its rows in order, and a hash of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in _COLUMNS]

    @classmethod
    def of_manifest(cls, manifest: Path) -> IndexWriter:
        """A writer for the Arrow file next to `manifest`."""
        return cls(manifest.with_suffix(".arrow"))

    @property
    def rows_hash(self) -> str:
        """The hash of the rows written so far; it does not depend on how they were batched."""
        return "".join(column.hexdigest() for column in self._hashes)

    def mark(self, manifest: parquet.ParquetWriter) -> None:
        """Store the hash of the rows in the metadata of the manifest that is being written."""
        manifest.add_key_value_metadata({_ROWS_HASH.decode(): self.rows_hash})

    def __enter__(self) -> IndexWriter:
        import pyarrow as pa

        self._schema = pa.schema([("record", pa.large_binary()), ("list", pa.int16())])
        self._sink = pa.OSFile(str(self._temporary), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        return self

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append the rows of a table or a record batch."""
        rows = rows.select(self._schema.names).cast(self._schema)
        for batch in rows.to_batches() if hasattr(rows, "to_batches") else [rows]:
            record, number = batch.columns
            if len(batch):  # an empty batch may have no buffers
                ends = np.frombuffer(record.buffers()[1], np.int64)[record.offset : record.offset + len(record) + 1]
                self._hashes[0].update(memoryview(record.buffers()[2])[ends[0] : ends[-1]])
                self._hashes[1].update(_numbers(number).tobytes())
            self._writer.write_batch(batch)

    def __exit__(self, kind: object, *_: object) -> None:
        import pyarrow as pa

        if kind is None:
            empty = pa.record_batch([pa.array([], field.type) for field in self._schema], self._schema)
            self._writer.write_batch(empty, custom_metadata={_ROWS_HASH: self.rows_hash})
        self._writer.close()
        self._sink.close()
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def _arrow_file(manifest: Path) -> Path:
    """The manifest's rows as Arrow IPC: the file next to it if the hashes agree, else one in $VHM_CACHE."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        source = parquet.ParquetFile(manifest)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{manifest} is not a manifest of `vhm validate`: {str(error).splitlines()[0]}") from None
    expected = (source.metadata.metadata or {}).get(_ROWS_HASH, b"").decode()
    if not expected or not set(_COLUMNS) <= set(source.schema_arrow.names):
        raise InputError(f"{manifest} is not a manifest of this version of `vhm validate`: run it again")
    arrow = manifest.with_suffix(".arrow")
    if arrow.is_file() and _stored_hash(arrow) == expected:
        return arrow

    def create(path: Path) -> None:
        with IndexWriter(path) as index:
            for batch in source.iter_batches(columns=list(_COLUMNS)):
                index.write(batch)
            if index.rows_hash != expected:
                raise InputError(f"{manifest} is damaged: its rows do not have the hash in its metadata")

    try:
        return cached_file(f"{expected}.arrow", create)
    except pa.ArrowException as error:
        raise InputError(f"{manifest} is damaged: {str(error).splitlines()[0]}") from None


def _stored_hash(path: Path) -> str | None:
    """The hash of the rows in a file of `IndexWriter`; None for any other file."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1).custom_metadata
    except (pa.ArrowException, IndexError, OSError):
        return None
    return None if last is None else last.get(_ROWS_HASH, b"").decode()


def _numbers(column: pa.Array) -> NDArray[np.int16]:
    """A column of 16-bit integers without nulls. pyarrow's `to_numpy` imports pandas: 0.8 s and 40 MB per rank."""
    if not len(column):
        return np.empty(0, np.int16)
    return np.frombuffer(column.buffers()[1], np.int16)[column.offset : column.offset + len(column)]
