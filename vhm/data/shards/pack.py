"""A validated manifest and its images → tar shards in WebDataset layout, the same bytes each time; and back.

Each image is one sample: `NAME.EXT` next to `NAME.json` with its record, or a list of its records. A record without an
image is a sample in the folder `text/`. A hash of the sample's name selects the shard, so that changing one record
changes one shard.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import orjson

from vhm.data.images.stores import ImageStore, open_store
from vhm.data.index import Index, manifest_file, open_index
from vhm.data.records import image_name
from vhm.data.shards.table import INDEX, Member, ShardEntry, ShardFile, walk, write_table
from vhm.errors import InputError
from vhm.io import JsonObject, whole_directory
from vhm.progress import track

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_OVERHEAD = 2 * tarfile.BLOCKSIZE  # per sample: two headers, each with half a block of padding, and a short record
LIST = "list.json"


@dataclass(frozen=True)
class Packed:
    """Numbers of images, records and shards in a packed dataset, and the size of all shards."""

    images: int
    records: int
    shards: int
    bytes: int


def parse_size(text: str) -> int:
    """The number of bytes in "1GB", "500MB", …. Raises InputError for anything else."""
    number, unit = text[:-2].strip(), text[-2:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise InputError(f"shard size {text!r}: write it as 1GB, 500MB or 100KB")
    return int(float(number) * _UNITS[unit])


def pack(manifest: Path, images: str | Path, out: Path, shard_size: int = 10**9) -> Packed:
    """Write shards of at most about `shard_size` bytes, their table and the manifest to `out`.

    Raises InputError or ImageError for input that cannot be read.
    """
    store, index = open_store(images), open_index(manifest)
    if not len(index):
        raise InputError(f"{manifest} has no record to pack")
    samples, total = _collect_samples(index, store)
    count = 1
    while count * shard_size < total:
        count *= 2  # a power of two, so that one more record does not move all others to another shard
    order = sorted(samples, key=lambda name: (_shard_of(name, count), name))
    samples_in = Counter(_shard_of(name, count) for name in order)
    writer = _ShardWriter(index, store, samples)
    entries: list[ShardEntry] = []
    shards: list[ShardFile] = []
    with whole_directory(out, INDEX) as folder:
        names = iter(track(order, "packing", len(order)))
        for number in range(count):
            path = folder / f"shard-{number:06d}.tar"
            entries += writer.write(path, number, itertools.islice(names, samples_in[number]))
            shards.append(ShardFile.of(path))
        next(names, None)  # ends the progress bar
        shutil.copyfile(manifest_file(manifest), folder / "manifest.parquet")
        write_table(folder, shards, entries, len(index))
    return Packed(len(entries), len(index), count, sum(shard.size for shard in shards))


def _collect_samples(index: Index, store: ImageStore) -> tuple[dict[str, array[int]], int]:
    """Sample names with the numbers of their records, and an estimate of the bytes of all shards.

    A record without an image is named by its content.
    """
    samples: dict[str, array[int]] = {}
    total = 0
    for number, record in enumerate(track(index, "reading image sizes", len(index))):
        content = orjson.dumps(record)
        name = image_name(record) or f"text/{hashlib.sha256(content).hexdigest()[:32]}.json"
        if name not in samples:
            samples[name] = array("q")
            total += _OVERHEAD + (store.size(name) if record.get("image") is not None else 0)
        samples[name].append(number)
        total += len(content)
    return samples, total


def _shard_of(name: str, count: int) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % count


class _ShardWriter:
    """Writes samples of `index` and `store` to tar files."""

    def __init__(self, index: Index, store: ImageStore, samples: dict[str, array[int]]) -> None:
        self._index, self._store, self._samples = index, store, samples
        self._stems = Counter(_stem(name) for name in samples)

    def write(self, path: Path, shard: int, names: Iterable[str]) -> list[ShardEntry]:
        """Write one shard; returns the entries of its images."""
        entries = []
        with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                records = [self._index[number] for number in self._samples[name]]
                if image_name(records[0]) is not None:
                    content = self._store.read(name)
                    digest = hashlib.sha256(content).digest()
                    entries.append(ShardEntry(name, shard, _add(tar, name, content), len(content), digest))
                _add(tar, self._json_name(name), orjson.dumps(records[0] if len(records) == 1 else records))
        return entries

    def _json_name(self, name: str) -> str:
        """NAME.json for an image NAME.EXT, or NAME.EXT.json if another image has the same stem."""
        stem = _stem(name)
        return f"{name}.json" if self._stems[stem] > 1 else f"{stem}.json"


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a file; returns the offset of its content. Without time and owner, equal input gives equal bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def unpack(folder: Path, out: Path) -> int:
    """Extract shards to `out`/images and `out`/list.json; returns the number of images.

    Only regular files below `out` are written. Raises InputError for an archive with any other member.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise InputError(f"{folder} holds no *.tar")
    extracted = 0
    with whole_directory(out, LIST) as temporary, (temporary / LIST).open("wb") as list_file:
        list_file.write(b"[")
        for tar in track(tars, "unpacking", len(tars)):
            with tar.open("rb") as file:
                for member in walk(tar):
                    if member.name.endswith(".json"):
                        _append_records(list_file, file, member, tar)
                    else:
                        _extract(file, member, tar, temporary / "images" / member.name)
                        extracted += 1
        list_file.write(b"\n]\n")
    return extracted


def _append_records(list_file: BinaryIO, file: BinaryIO, member: Member, tar: Path) -> None:
    file.seek(member.offset)
    for record in _parse_records(file.read(member.size), f"{tar}: {member.name}"):
        list_file.write((b",\n" if list_file.tell() > 1 else b"\n") + orjson.dumps(record))


def _parse_records(content: bytes, where: str) -> list[JsonObject]:
    try:
        records = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    return records if isinstance(records, list) else [records]


def _extract(file: BinaryIO, member: Member, tar: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            offset, end = member.offset, member.offset + member.size
            while offset < end:
                offset += os.sendfile(target.fileno(), file.fileno(), offset, end - offset)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{tar}: {member.name!r} occurs twice: refused") from None
    except OSError as error:
        raise InputError(f"{tar}: {member.name!r} cannot be written ({error.strerror})") from None
