from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from vhm.data.validation.chunks import images_schema, read_table, write_table


def test_the_columns_of_a_chunk_are_read_in_place(tmp_path: Path) -> None:
    rows = [{"key": f"source\0{number}.jpg", "thumbnail": bytes(1024), "hash": number} for number in range(1000)]
    chunk = tmp_path / "images" / "0000000000-0000001000"
    write_table(chunk.with_suffix(".arrow"), pa.Table.from_pylist(rows, schema=images_schema()))
    del rows
    before = pa.total_allocated_bytes()
    table = read_table(chunk, ["thumbnail", "hash"])
    assert pa.total_allocated_bytes() - before < 100_000  # a copy of the thumbnails would take a million
    assert table.column_names == ["thumbnail", "hash"]
    assert table["hash"].to_pylist() == list(range(1000))
