"""One memory-mapped table of records, shared by all processes that read it.

A manifest is a Parquet file with one row a record; reading single rows of Parquet is slow, so its rows
are written once as Arrow IPC, uncompressed, and mapped from there: beside the manifest by `vhm validate`, below
$VHM_CACHE for a manifest that came without. Both files carry a hash of the rows: whether they belong together is no
question of times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.data.images.cache import cached_file
from vhm.errors import InputError
from vhm.storage.s3 import is_uri, parse_uri
from vhm.storage.versions import open_published

MANIFEST = "manifest.parquet"
_COLUMNS = ("record", "list")
_ROWS_HASH = b"vhm.rows"  # key of both files' metadata


class Index(Sequence[dict[str, Any]]):
    """The accepted records of one or several manifests, in their order; an item is a record as in the list file.

    `lists` says which list each record is of: which manifest, or which of the lists that one manifest was made from.
    """

    def __init__(self, records: Any, lists: NDArray[np.int16], manifests: Sequence[str | Path]) -> None:
        self._records, self.lists, self._manifests = records, lists, manifests

    def __reduce__(self) -> tuple[Any, ...]:
        return open_index, (self._manifests,)  # another process maps the files itself

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return orjson.loads(memoryview(self._records[position].as_buffer()))


def open_index(manifest: str | Path | Sequence[str | Path]) -> Index:
    """Open a validated manifest, or several as one. InputError when one is missing or not of `vhm validate`."""
    import pyarrow as pa

    several = [manifest] if isinstance(manifest, (str, Path)) else list(manifest)
    tables = [pa.ipc.open_file(pa.memory_map(str(_mapped_file(manifest_file(one))))).read_all() for one in several]
    if len(several) == 1:
        lists = np.concatenate([_numbers(chunk) for chunk in tables[0]["list"].chunks])
    else:
        lists = np.repeat(np.arange(len(tables), dtype=np.int16), [len(table) for table in tables])
    records = pa.chunked_array([chunk for table in tables for chunk in table["record"].chunks], pa.large_binary())
    return Index(records, lists, several)


def manifest_file(place: str | Path) -> Path:
    """The manifest at a path, in a directory, or in a published one (s3://…), as a file of this machine."""
    if is_uri(place):
        from vhm.data.images.stores import fetch_file

        published = open_published(parse_uri(str(place)))
        if published is None or MANIFEST not in published.files:
            raise InputError(f"{place} holds no {MANIFEST}: publish a packed dataset with `vhm data push`")
        return fetch_file(published, MANIFEST)
    path = Path(place)
    path = path / MANIFEST if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path} does not exist: make it with `vhm validate`")
    return path


class IndexWriter:
    """Writes what `open_index` maps: tables with its columns, in order, and a hash of their rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in _COLUMNS]

    @classmethod
    def of_manifest(cls, manifest: Path) -> IndexWriter:
        """For the file that belongs to a manifest which is being written."""
        return cls(manifest.with_suffix(".arrow"))

    @property
    def rows_hash(self) -> str:
        """Of the rows that were written, whatever tables they came in; for the manifest's metadata."""
        return "".join(part.hexdigest() for part in self._hashes)

    def mark(self, manifest: Any) -> None:
        """Tell a `pyarrow.parquet.ParquetWriter` which rows its file holds."""
        manifest.add_key_value_metadata({_ROWS_HASH.decode(): self.rows_hash})

    def __enter__(self) -> IndexWriter:
        import pyarrow as pa

        self._schema = pa.schema([("record", pa.large_binary()), ("list", pa.int16())])
        self._sink = pa.OSFile(str(self._beside), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        return self

    def write(self, rows: Any) -> None:
        """Append the rows of a table or a record batch."""
        rows = rows.select(self._schema.names).cast(self._schema)
        for batch in rows.to_batches() if hasattr(rows, "to_batches") else [rows]:
            record, number = batch.columns
            if len(batch):  # an empty one may have no buffers
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
            os.replace(self._beside, self._path)
        else:
            self._beside.unlink(missing_ok=True)


def _mapped_file(manifest: Path) -> Path:
    """The manifest's rows as Arrow IPC: the file beside it where that is of the same rows, else one of this machine."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        source = parquet.ParquetFile(manifest)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{manifest} is no manifest of `vhm validate`: {str(error).splitlines()[0]}") from None
    told = (source.metadata.metadata or {}).get(_ROWS_HASH, b"").decode()
    if not told or not set(_COLUMNS) <= set(source.schema_arrow.names):
        raise InputError(f"{manifest} is no manifest of this version of `vhm validate`: run it again")
    beside = manifest.with_suffix(".arrow")
    if beside.is_file() and _hash_in(beside) == told:
        return beside

    def make(path: Path) -> None:
        with IndexWriter(path) as index:
            for batch in source.iter_batches(columns=list(_COLUMNS)):
                index.write(batch)
            if index.rows_hash != told:
                raise InputError(f"{manifest} is damaged: its rows are not those that it was written with")

    try:
        return cached_file(f"{told}.arrow", make)
    except pa.ArrowException as error:
        raise InputError(f"{manifest} is damaged: {str(error).splitlines()[0]}") from None


def _hash_in(path: Path) -> str | None:
    """The hash of the rows in a file of `IndexWriter`; None for any other file."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1).custom_metadata
    except (pa.ArrowException, IndexError, OSError):
        return None
    return None if last is None else last.get(_ROWS_HASH, b"").decode()


def _numbers(column: Any) -> NDArray[np.int16]:
    """An array of 16-bit numbers without nulls; pyarrow's own way would import pandas, 0.8 s and 40 MB a rank."""
    if not len(column):
        return np.empty(0, np.int16)
    return np.frombuffer(column.buffers()[1], np.int16)[column.offset : column.offset + len(column)]
