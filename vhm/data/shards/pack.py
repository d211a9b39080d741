"""A validated manifest and its images → tar shards in WebDataset layout, the same bytes each time; and back.

Each image is one sample: `NAME.EXT` beside `NAME.json` with the record that shows it, or a list of them. Records
without an image are samples of their own below `text/`. Which shard a sample goes to is a hash of its name: changing
one record changes one shard.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from vhm.data.images.stores import ImageStore, open_store
from vhm.data.index import Index, manifest_file, open_index
from vhm.data.records import image_name
from vhm.data.shards.table import INDEX, ShardEntry, walk, write_table
from vhm.errors import InputError
from vhm.io import sha256_file, whole_directory
from vhm.progress import track

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_OVERHEAD = 2 * tarfile.BLOCKSIZE  # header and half a block of padding, twice, and a short record
LIST = "list.json"


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


def pack(manifest: Path, images: str | Path, out: Path, shard_size: int = 10**9) -> Packed:
    """Write shards of at most about `shard_size` bytes, their table and the manifest to `out`.

    Raises InputError or ImageError for what cannot be read.
    """
    root, index = open_store(images), open_index(manifest)
    if not len(index):
        raise InputError(f"{manifest} has no record to pack")
    samples, total = _samples(index, root)
    count = 1
    while count * shard_size < total:
        count *= 2  # a power of two: growing by a record does not move the others
    order = sorted(samples, key=lambda name: (_shard_of(name, count), name))
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in samples)
    places: list[ShardEntry] = []
    shards: list[dict[str, Any]] = []
    with whole_directory(out, INDEX) as folder:
        steps = iter(track(order, "packing", len(order)))
        name = next(steps, None)
        for number in range(count):
            path = folder / f"shard-{number:06d}.tar"
            with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                while name is not None and _shard_of(name, count) == number:
                    records = [index[i] for i in samples[name]]
                    if image_name(records[0]) is not None:
                        content = root.read(name)
                        digest = hashlib.sha256(content).digest()
                        places.append(ShardEntry(name, number, _add(tar, name, content), len(content), digest))
                    told = orjson.dumps(records[0] if len(records) == 1 else records)
                    _add(tar, _beside(name, stems), told)
                    name = next(steps, None)
            shards.append({"name": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)})
        shutil.copyfile(manifest_file(manifest), folder / "manifest.parquet")
        write_table(folder, shards, places, len(index))
    return Packed(len(places), len(index), count, sum(shard["size"] for shard in shards))


def unpack(folder: Path, out: Path) -> int:
    """Shards → `out`/images and `out`/list.json; returns the number of files.

    Nothing is written but regular files of plain names below `out`: InputError for an archive that asks for more.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise InputError(f"{folder} holds no *.tar")
    written = 0
    with whole_directory(out, LIST) as place, (place / LIST).open("wb") as listed:
        listed.write(b"[")
        for tar in track(tars, "unpacking", len(tars)):
            with tar.open("rb") as file:
                for member in walk(tar):
                    file.seek(member.offset)
                    if member.name.endswith(".json"):
                        for record in _records(file.read(member.size), f"{tar}: {member.name}"):
                            listed.write((b",\n" if listed.tell() > 1 else b"\n") + orjson.dumps(record))
                        continue
                    path = place / "images" / member.name
                    try:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with path.open("xb") as target:
                            left, at = member.size, member.offset
                            while left:
                                sent = os.sendfile(target.fileno(), file.fileno(), at, left)
                                left, at = left - sent, at + sent
                    except (FileExistsError, NotADirectoryError):
                        raise InputError(f"{tar}: {member.name!r} is there twice: refused") from None
                    except OSError as error:
                        raise InputError(f"{tar}: {member.name!r} cannot be written ({error.strerror})") from None
                    written += 1
        listed.write(b"\n]\n")
    return written


def packed_records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records inside the shards of `folder`, in their order."""
    for shard in sorted(folder.glob("*.tar")):
        with shard.open("rb") as file:
            for member in walk(shard):
                if member.name.endswith(".json"):
                    file.seek(member.offset)
                    yield from _records(file.read(member.size), f"{shard}: {member.name}")


def _samples(index: Index, root: ImageStore) -> tuple[dict[str, array[int]], int]:
    """Which records show each image (or none: named by their content), and how many bytes all will take."""
    samples: dict[str, array[int]] = {}
    total = 0
    for number, record in enumerate(track(index, "looking at images", len(index))):
        content = orjson.dumps(record)
        name = image_name(record) or f"text/{hashlib.sha256(content).hexdigest()[:32]}.json"
        if name not in samples:
            samples[name] = array("q")
            total += _OVERHEAD + (root.size(name) if record.get("image") is not None else 0)
        samples[name].append(number)
        total += len(content)
    return samples, total


def _shard_of(name: str, count: int) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % count


def _beside(name: str, stems: Counter[str]) -> str:
    """Where an image's records go: NAME.json, or NAME.EXT.json where another image has the same stem."""
    stem = str(PurePosixPath(name).with_suffix(""))
    return f"{name}.json" if stems[stem] > 1 else f"{stem}.json"


def _records(content: bytes, where: str) -> list[dict[str, Any]]:
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    return found if isinstance(found, list) else [found]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append one file with no time, owner or mode of its own; returns where its bytes begin."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
