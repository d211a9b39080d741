"""One memory-mapped table of records, shared by all processes that read it.

A manifest is a Parquet file with one row a record; reading single rows of Parquet is slow, so its rows
are written once as Arrow IPC beside it, uncompressed, and mapped from there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.bucket import is_uri, parse_uri
from vhm.errors import InputError
from vhm.storage import open_published

MANIFEST = "manifest.parquet"
_COLUMNS = ("record", "list")


class Index(Sequence[dict[str, Any]]):
    """The accepted records of one or several manifests, in their order; an item is a record as in the list file.

    `lists` says which list each record is of: which manifest, or which of the lists that one manifest was made from.
    """

    def __init__(self, records: Any, lists: NDArray[np.int16]) -> None:
        self._records, self.lists = records, lists

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
    tables = [pa.ipc.open_file(pa.memory_map(str(_arrow_file(manifest_file(one))))).read_all() for one in several]
    for one, table in zip(several, tables, strict=True):
        if not set(_COLUMNS) <= set(table.column_names):
            raise InputError(f"{one} is a manifest of an older version: run `vhm validate` again")
    if len(several) == 1:
        lists = _numbers(tables[0]["list"])
    else:
        lists = np.repeat(np.arange(len(tables), dtype=np.int16), [len(table) for table in tables])
    return Index(pa.chunked_array([chunk for t in tables for chunk in t["record"].chunks], pa.large_binary()), lists)


def _numbers(column: Any) -> NDArray[np.int16]:
    """A column of 16-bit numbers without nulls; pyarrow's own way would import pandas, 0.8 s and 40 MB a rank."""
    parts = [np.frombuffer(c.buffers()[1], np.int16)[c.offset : c.offset + len(c)] for c in column.chunks if len(c)]
    return np.concatenate(parts) if parts else np.empty(0, np.int16)


def manifest_file(place: str | Path) -> Path:
    """The manifest at a path, in a directory, or in a published one (s3://…), as a file of this machine."""
    if is_uri(place):
        from vhm.data.roots import fetch_file

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
    """Writes what `open_index` maps beside a manifest that is being written: tables with its columns, in order."""

    def __init__(self, manifest: Path) -> None:
        self._path = _arrow_path(manifest)
        self._beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")

    def __enter__(self) -> IndexWriter:
        import pyarrow as pa

        self._schema = pa.schema([("record", pa.large_binary()), ("list", pa.int16())])
        self._sink = pa.OSFile(str(self._beside), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        return self

    def write(self, rows: Any) -> None:
        """Append the rows of a table or a record batch."""
        self._writer.write(rows.select(self._schema.names).cast(self._schema))

    def __exit__(self, kind: object, *_: object) -> None:
        self._writer.close()
        self._sink.close()
        if kind is None:
            os.replace(self._beside, self._path)
            os.utime(self._path)  # not older than the manifest
        else:
            self._beside.unlink(missing_ok=True)


def _arrow_path(manifest: Path) -> Path:
    return manifest.with_suffix(".arrow")


def _arrow_file(manifest: Path) -> Path:
    """The manifest's rows as Arrow IPC, made when it is absent or older than the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = _arrow_path(manifest)
    if path.exists() and path.stat().st_mtime_ns >= manifest.stat().st_mtime_ns:
        return path
    try:
        source = parquet.ParquetFile(manifest)
        with IndexWriter(manifest) as index:
            for batch in source.iter_batches(columns=list(_COLUMNS)):
                index.write(batch)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise InputError(f"{manifest} is not a manifest of `vhm validate`: {str(error).splitlines()[0]}") from None
    return path
