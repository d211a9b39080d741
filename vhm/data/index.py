"""One memory-mapped table of records, shared by all processes that read it.

A manifest is a Parquet file with one row a record; reading single rows of Parquet is slow, so its rows
are written once as Arrow IPC beside it, uncompressed, and mapped from there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import orjson

from vhm.errors import InputError


class Index(Sequence[dict[str, Any]]):
    """The accepted records of a manifest, in their order; an item is a record as in the list file."""

    def __init__(self, table: Any) -> None:
        self._records = table.column("record")
        self._lengths = table.column("text_length")

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

    def text_lengths(self) -> list[int]:
        """Characters of each record's conversation: what batches are grouped by."""
        return self._lengths.to_pylist()


def open_index(manifest: str | Path) -> Index:
    """Open a validated manifest. InputError when it is missing or was not written by `vhm validate`."""
    import pyarrow as pa

    manifest = Path(manifest)
    if manifest.is_dir():
        manifest = manifest / "manifest.parquet"
    if not manifest.is_file():
        raise InputError(f"{manifest} does not exist: make it with `vhm validate`")
    mapped = _arrow_file(manifest)
    table = pa.ipc.open_file(pa.memory_map(str(mapped))).read_all()
    return Index(table)


class IndexWriter:
    """Writes what `open_index` maps beside a manifest that is being written: tables with its columns, in order."""

    def __init__(self, manifest: Path) -> None:
        self._path = _arrow_path(manifest)
        self._beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")

    def __enter__(self) -> IndexWriter:
        import pyarrow as pa

        self._schema = pa.schema([("record", pa.large_binary()), ("text_length", pa.int32())])
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
            for batch in source.iter_batches(columns=["record", "text_length"]):
                index.write(batch)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{manifest} is not a manifest of `vhm validate`: {str(error).splitlines()[0]}") from None
    return path
