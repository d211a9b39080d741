"""A validated manifest and its images → tar shards in WebDataset layout, the same bytes each time.

Each image is one sample: `NAME.EXT` beside `NAME.json` with the records that show it. Samples are sorted
by name, so that changing one record changes one shard.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vhm.data.index import open_index
from vhm.data.records import image_name
from vhm.data.roots import INDEX, open_root
from vhm.errors import InputError
from vhm.io import jsonl, sha256_file, whole_directory, write_json
from vhm.progress import track

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Packed:
    """What a packing wrote."""

    images: int
    records: int
    shards: int
    bytes: int


def parse_size(text: str) -> int:
    """Bytes of "1GB", "500MB", …; InputError otherwise."""
    number, unit = text[:-2].strip(), text[-2:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise InputError(f"shard size {text!r}: write it as 1GB, 500MB or 100KB")
    return int(float(number) * _UNITS[unit])


def pack(manifest: Path, images: Path, out: Path, shard_size: int = 10**9) -> Packed:
    """Write the shards and their index to `out`. Raises InputError or ImageError for what cannot be read."""
    root = open_root(images)
    records: dict[str, list[dict[str, Any]]] = {}
    for record in open_index(manifest):
        name = image_name(record)
        if name is not None:
            records.setdefault(name, []).append(record)
    if not records:
        raise InputError(f"{manifest} names no image: nothing to pack")
    files: dict[str, tuple[int, int, int]] = {}
    with whole_directory(out, INDEX) as folder:
        shards: list[dict[str, Any]] = []
        names = iter(track(sorted(records), "packing", len(records)))
        name = next(names, None)
        while name is not None:
            path = folder / f"shard-{len(shards):06d}.tar"
            with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                while name is not None and (file.tell() == 0 or file.tell() < shard_size):
                    content = root.read(name)
                    offset = _add(tar, file, name, content)
                    files[name] = (len(shards), offset, len(content))
                    _add(tar, file, str(PurePosixPath(name).with_suffix(".json")), jsonl(records[name]))
                    name = next(names, None)
            shards.append({"name": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)})
        write_json(folder / INDEX, {"shards": shards, "files": files})
    return Packed(len(files), sum(map(len, records.values())), len(shards), sum(shard["size"] for shard in shards))


def packed_records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records inside the shards of `folder`, in their order."""
    import orjson

    for shard in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield from map(orjson.loads, content.read().splitlines())


def _add(tar: tarfile.TarFile, file: io.BufferedWriter, name: str, content: bytes) -> int:
    """Append one file with no time, owner or mode of its own; returns where its bytes begin."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    start = tar.offset
    tar.addfile(member, io.BytesIO(content))
    padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return start + (tar.offset - start - padded)
