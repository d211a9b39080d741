"""Checked records and images → what becomes of each record: accepted, or rejected for its image or another record.

In this order: the image cannot be used; its size is not that in the record; it leaks an evaluation image; it is blank;
an earlier record has the same id, or the same image and text; it nearly equals the image of an earlier record. Leaks,
blank images and near-duplicates are findings; they reject a record only if their kind is in `data.reject`.

The columns of all records and images are numpy arrays, about 120 bytes for a record with its own image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vhm.data.validation.chunks import images_schema, read_table, unique_keys
from vhm.data.validation.findings import FindingKind, Leak, LeakLine, Outline, SuspicionLine
from vhm.data.validation.record_checks import RejectedRow, printable, split_key
from vhm.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_ACCEPTED, _IMAGE, _SIZE, _LEAK, _BLANK, _DUPLICATE_ID, _DUPLICATE, _NEAR_DUPLICATE = range(8)
_SIDE = 32  # of a thumbnail
_DIGITS = 4  # of scores and areas in files


def decide(
    record_chunks: list[Path], image_chunks: list[Path], reject: Collection[FindingKind], folder: Path
) -> Verdicts:
    """Decide on all records that passed their checks. `folder` is for temporary files.

    Raises InputError if an image changed between the checks of two splits.
    """
    verdicts = Verdicts(record_chunks, image_chunks, frozenset(reject))
    if image_chunks:
        verdicts.assess_images()
    verdicts.find_duplicates()
    if image_chunks:
        verdicts.find_near_duplicates(folder)
    return verdicts


@dataclass(frozen=True)
class _Near:
    """An image nearly equals that of the record with number `row`."""

    row: int
    score: float


class Verdicts:
    """The verdicts on all records that passed their checks, in the lists' order.

    Records and images are numbered. [N]: `_verdict` is one of the constants above, `_image` the number of a record's
    image, -1 without one. `_leaks` and `_near` are of images that have such a finding.
    """

    def __init__(self, record_chunks: list[Path], image_chunks: list[Path], reject: frozenset[FindingKind]) -> None:
        self._chunks, self._reject = record_chunks, reject
        keys, self._image = unique_keys(record_chunks)
        self._images = Images(image_chunks, keys)
        self._index = _numbers(record_chunks, "index")
        self._starts = np.cumsum([0, *(len(read_table(chunk, ["index"])) for chunk in record_chunks)])
        self._verdict = np.zeros(len(self._index), np.uint8)
        self._earlier: dict[int, int] = {}  # of a duplicate: the number of the first such record
        self._near: dict[int, _Near] = {}
        self._suspicious = np.zeros(len(self._index), bool)
        self._leaking = np.zeros(len(self._index), bool)

    def kept(self, chunk: int) -> NDArray[np.bool_]:
        """Which records of a chunk are accepted."""
        return np.equal(self._verdict[self._starts[chunk] : self._starts[chunk + 1]], _ACCEPTED)

    def image_columns(self, chunk: int) -> dict[str, pa.Array]:
        """The manifest's columns about images, of the accepted records of a chunk."""
        rows = self._image[self._starts[chunk] : self._starts[chunk + 1]][self.kept(chunk)]
        return self._images.columns(rows)

    def rejected(self, chunk: int) -> Iterator[RejectedRow]:
        """The rejected records of a chunk."""
        first = int(self._starts[chunk])
        offsets = np.flatnonzero(~self.kept(chunk))
        if not len(offsets):
            return
        names = ["id", "id_hash", "stated_width", "stated_height"]
        for offset, row in zip(
            offsets.tolist(), read_table(self._chunks[chunk], names).take(offsets).to_pylist(), strict=True
        ):
            reason, detail = self._reason(first + offset, (row["stated_width"], row["stated_height"]))
            shown_id = None if row["id_hash"] is None else printable(row["id"])
            yield RejectedRow(int(self._index[first + offset]), shown_id, reason, printable(detail))

    @property
    def images_of_records(self) -> NDArray[np.int32]:
        """[N]: the number of each record's image, -1 without one."""
        return self._image

    @property
    def missing_bands(self) -> NDArray[np.int32]:
        """[images]: the number of bands of an image that lacks a requested one, 0 of any other."""
        return self._images.bands

    def duplicates_of(self, chunk: int) -> NDArray[np.bool_]:
        """Which records of a chunk are rejected as duplicates of others."""
        verdict = self._verdict[self._starts[chunk] : self._starts[chunk + 1]]
        return np.isin(verdict, (_DUPLICATE_ID, _DUPLICATE))

    def leaks(self) -> Iterator[LeakLine]:
        """The lines of leaks.jsonl."""
        for number in np.flatnonzero(self._leaking).tolist():
            image = int(self._image[number])
            leak = self._images.leaks[image]
            yield LeakLine(
                index=int(self._index[number]),
                image=self._images.name(image),
                evaluation_image=leak.evaluation,
                kind=leak.kind,
                score=round(leak.score, _DIGITS),
                matched_area=round(leak.matched_area, _DIGITS),
                outline=_rounded(leak.outline),
                evaluation_outline=_rounded(leak.evaluation_outline),
                rejected=leak.kind in self._reject,
            )

    def suspicious(self) -> Iterator[SuspicionLine]:
        """The lines of suspicious.jsonl."""
        for number in np.flatnonzero(self._suspicious).tolist():
            image, index = int(self._image[number]), int(self._index[number])
            near = self._near.get(image)
            if near is None:
                rejected = "blank" in self._reject
                yield SuspicionLine(index, self._images.name(image), "blank", None, None, 1.0, rejected)
            else:
                yield SuspicionLine(
                    index,
                    self._images.name(image),
                    "near-duplicate",
                    int(self._index[near.row]),
                    self._images.name(int(self._image[near.row])),
                    round(near.score, _DIGITS),
                    "near-duplicate" in self._reject,
                )

    @property
    def images(self) -> int:
        """The number of images that were checked and can be used."""
        return int((~self._images.unusable).sum())

    # --- images ----------------------------------------------------------------------------------

    def assess_images(self) -> None:
        """Reject records for what was found out about their image alone."""
        images = self._images
        shows = np.flatnonzero(self._image >= 0)
        image = self._image[shows]
        self._verdict[shows[images.unusable[image]]] = _IMAGE
        self._verdict[shows[~images.unusable[image] & self._is_of_other_size(shows, image)]] = _SIZE
        leaking, rejecting = (np.zeros(len(images.unusable), bool) for _ in range(2))
        for number, leak in images.leaks.items():
            leaking[number], rejecting[number] = True, leak.kind in self._reject
        usable = self._verdict[shows] == _ACCEPTED
        self._leaking[shows] = usable & leaking[image]
        self._verdict[shows[usable & rejecting[image]]] = _LEAK
        blank = (self._verdict[shows] == _ACCEPTED) & images.blank[image]
        self._suspicious[shows] = blank
        if "blank" in self._reject:
            self._verdict[shows[blank]] = _BLANK

    def _is_of_other_size(self, shows: NDArray[np.int64], image: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which records with an image state another size than the image has."""
        differs = np.zeros(len(shows), bool)
        for column in ("width", "height"):
            stated = _numbers(self._chunks, f"stated_{column}")[shows]
            differs |= (stated > 0) & (stated != self._images.side(column)[image])
        return differs

    def find_near_duplicates(self, folder: Path) -> None:
        """Find images that nearly equal the image of an earlier record, among those that are still accepted."""
        from vhm.data.validation.similarity import near_duplicates

        rows = np.flatnonzero((self._verdict == _ACCEPTED) & (self._image >= 0) & ~self._suspicious)
        unique, first = np.unique(self._image[rows], return_index=True)
        order = np.argsort(first, kind="stable")
        images, shown_by = unique[order], rows[first[order]]
        if len(images) < 2:
            return
        with self._images.thumbnails(images, folder) as thumbnails:
            for later, earlier, score in near_duplicates(self._images.hashes(images), thumbnails):
                self._near[int(images[later])] = _Near(int(shown_by[earlier]), score)
        near = np.zeros(len(self._images.unusable), bool)
        near[list(self._near)] = True
        found = rows[near[self._image[rows]]]
        self._suspicious[found] = True
        if "near-duplicate" in self._reject:
            self._verdict[found] = _NEAR_DUPLICATE

    # --- duplicates ------------------------------------------------------------------------------

    def find_duplicates(self) -> None:
        """Reject records whose id, or whose image and text, an earlier accepted record has."""
        ids, has_id = _hashes(self._chunks, "id_hash")
        contents, _ = _hashes(self._chunks, "content_hash")
        contents ^= self._images.content_hashes(self._image)
        accepted = self._verdict == _ACCEPTED
        candidates = _is_repeated(ids[:, 0], accepted & has_id) | _is_repeated(contents[:, 0], accepted)
        seen_ids: dict[bytes, int] = {}
        seen: dict[bytes, int] = {}
        for number in np.flatnonzero(candidates).tolist():
            own_id = ids[number].tobytes() if has_id[number] else None
            content = contents[number].tobytes()
            if own_id in seen_ids:
                self._verdict[number], self._earlier[number] = _DUPLICATE_ID, seen_ids[own_id]
            elif content in seen:
                self._verdict[number], self._earlier[number] = _DUPLICATE, seen[content]
            else:
                seen[content] = number
                if own_id is not None:
                    seen_ids[own_id] = number

    # --- reasons ---------------------------------------------------------------------------------

    def _reason(self, number: int, stated: tuple[int, int]) -> tuple[str, str]:
        """The code of the reason why a record is rejected, and its detail."""
        verdict, image = self._verdict[number], int(self._image[number])
        if verdict == _IMAGE:
            return self._images.reason(image)
        if verdict == _SIZE:
            width, height = (int(self._images.side(name)[image]) for name in ("width", "height"))
            return "image_size", f"the image file is {width}×{height}, but the record's 'size' is {list(stated)}"
        if verdict == _LEAK:
            leak = self._images.leaks[image]
            area = f", {leak.matched_area:.0%} of the smaller image" if leak.kind in ("part", "overlap") else ""
            return "leak", f"the image shows evaluation image {leak.evaluation} ({leak.kind}{area})"
        if verdict == _BLANK:
            return "blank", f"{self._images.name(image)} has one colour, or no data"
        if verdict == _NEAR_DUPLICATE:
            near = self._near[image]
            other = f"{self._images.name(int(self._image[near.row]))} of record {self._index[near.row]}"
            return "near_duplicate", f"the image nearly equals {other} (score {near.score:.2f})"
        earlier = self._index[self._earlier[number]]
        if verdict == _DUPLICATE_ID:
            return "duplicate_id", f"record {earlier} has the same id"
        return "duplicate", f"record {earlier} has the same image and text"


class Images:
    """The checked images of all chunks, numbered as their keys. Bulky columns stay in memory-mapped files."""

    def __init__(self, chunks: list[Path], keys: pa.StringArray) -> None:
        self._chunks = chunks
        self._table = _memory_mapped(chunks)
        self._rows = _rows_of(keys, self._column("key")) if chunks else np.empty(0, np.int64)
        self._refuse_changed()
        self.unusable = ~self._is_valid("sha256")[self._rows]
        self.blank = self._values("blank").astype(bool)

    def _refuse_changed(self) -> None:
        """Raise InputError if two splits found different bytes in an image of both."""
        checked = self._column("key")
        if len(checked) == len(self._rows):
            return
        digests = np.concatenate([_bytes(array, 32) for array in self._column("sha256").chunks])
        digests[~self._is_valid("sha256")] = 0
        changed = np.flatnonzero((digests != digests[_first_rows(checked, checked)]).any(axis=1))
        if len(changed):
            _, name = split_key(checked[int(changed[0])].as_py())
            raise InputError(f"the image {name} changed after one split was checked: check the splits again")

    @cached_property
    def leaks(self) -> dict[int, Leak]:
        """The leaks by the number of the image."""
        from vhm.data.validation.image_checks import read_leak

        numbers = np.flatnonzero(self._is_valid("leak")[self._rows])
        column = self._column("leak")
        return {int(number): read_leak(column[int(self._rows[number])].as_py()) for number in numbers}

    @cached_property
    def bands(self) -> NDArray[np.int32]:
        return self._values("bands").astype(np.int32)

    @cached_property
    def _sides(self) -> dict[str, NDArray[np.int32]]:
        return {name: self._values(name) for name in ("width", "height")}

    def side(self, name: str) -> NDArray[np.int32]:
        """The "width" or "height" of all images, 0 of those that cannot be used."""
        return self._sides[name]

    def hashes(self, numbers: NDArray[np.int32]) -> NDArray[np.uint64]:
        return self._values("hash").astype(np.uint64)[numbers]

    def name(self, number: int) -> str:
        return split_key(self._column("key")[int(self._rows[number])].as_py())[1]

    def reason(self, number: int) -> tuple[str, str]:
        """The reason why an image cannot be used, and its detail."""
        row = int(self._rows[number])
        return self._column("reason")[row].as_py(), self._column("detail")[row].as_py()

    def content_hashes(self, numbers: NDArray[np.int32]) -> NDArray[np.uint64]:
        """[n, 2]: of each record's image, from its bytes; 0 without one."""
        hashes = np.zeros((len(numbers), 2), np.uint64)
        if self._chunks:
            shows = np.flatnonzero(numbers >= 0)
            hashes[shows] = self._sha256[numbers[shows]].view(np.uint64)[:, :2]
        return hashes

    def columns(self, numbers: NDArray[np.int32]) -> dict[str, pa.Array]:
        """The manifest's columns of images with these numbers; null for -1."""
        import pyarrow as pa

        absent = numbers < 0
        if not self._chunks:
            absent = np.ones(len(numbers), bool)
        numbers = np.where(absent, 0, numbers)
        if absent.all():
            sha256, width, height, brightness = ([None] * len(numbers) for _ in range(4))
        else:
            hexadecimal = [row.tobytes().hex() for row in self._sha256[numbers]]
            sha256 = [None if none else text for none, text in zip(absent, hexadecimal, strict=True)]
            width, height, brightness = (
                pa.array(values[numbers], mask=absent)
                for values in (self.side("width"), self.side("height"), self._brightness)
            )
        return {
            "image_sha256": pa.array(sha256, pa.string()),
            "width": pa.array(width, pa.int32()),
            "height": pa.array(height, pa.int32()),
            "brightness": pa.array(brightness, pa.float32()),
        }

    @contextmanager
    def thumbnails(self, numbers: NDArray[np.int32], folder: Path) -> Iterator[NDArray[np.uint8]]:
        """[n, 32, 32]: the thumbnails of images with these numbers, in a temporary file: they may not fit in memory."""
        slot = np.full(len(self._table), -1, np.int64)
        slot[self._rows[numbers]] = np.arange(len(numbers))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(len(numbers) * _SIDE * _SIDE)
            thumbnails = np.memmap(file, np.uint8, "r+", shape=(len(numbers), _SIDE, _SIDE))
            first = 0
            for array in self._column("thumbnail").chunks:
                slots = slot[first : first + len(array)]
                thumbnails[slots[slots >= 0]] = _bytes(array, _SIDE * _SIDE)[slots >= 0].reshape(-1, _SIDE, _SIDE)
                first += len(array)
            yield thumbnails

    @cached_property
    def _sha256(self) -> NDArray[np.uint8]:
        """[M, 32]"""
        return np.concatenate([_bytes(array, 32) for array in self._column("sha256").chunks])[self._rows]

    @cached_property
    def _brightness(self) -> NDArray[np.float32]:
        return self._values("brightness").astype(np.float32)

    def _values(self, name: str) -> NDArray[Any]:
        """A column of numbers of all images, 0 where it is null."""
        arrays = [_filled(array) for array in self._column(name).chunks]
        return np.concatenate(arrays)[self._rows] if arrays else np.empty(0, np.int64)

    def _is_valid(self, name: str) -> NDArray[np.bool_]:
        arrays = [np.asarray(array.is_valid()) for array in self._column(name).chunks]
        return np.concatenate(arrays) if arrays else np.empty(0, bool)

    def _column(self, name: str) -> pa.ChunkedArray:
        return self._table[name]


def _memory_mapped(chunks: list[Path]) -> pa.Table:
    """All columns of image chunks; no bytes are read before they are used."""
    import pyarrow as pa

    names = images_schema().names
    return pa.concat_tables([images_schema().empty_table(), *(read_table(chunk, names) for chunk in chunks)])


def _rows_of(keys: pa.StringArray | pa.ChunkedArray, checked: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each key was checked first: an image of several splits was checked in each of them."""
    import pyarrow as pa

    if pa.chunked_array([keys] if isinstance(keys, pa.Array) else keys.chunks).equals(checked):
        return np.arange(len(keys))  # as without splits
    return _first_rows(keys, checked)


def _first_rows(keys: pa.StringArray | pa.ChunkedArray, checked: pa.ChunkedArray) -> NDArray[np.int64]:
    import pyarrow.compute as pc

    return np.asarray(pc.index_in(keys, value_set=checked.combine_chunks())).astype(np.int64)


# --- columns of chunks ---------------------------------------------------------------------------


def _numbers(chunks: list[Path], name: str) -> NDArray[np.int64]:
    """A column of integers of all records, 0 where it is null."""
    arrays = [_filled(array) for chunk in chunks for array in read_table(chunk, [name])[name].chunks]
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def _filled(array: pa.Array) -> NDArray[Any]:
    """Numbers, 0 where they are null."""
    return np.asarray(array.fill_null(0) if array.null_count else array)


def _hashes(chunks: list[Path], name: str) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """[N, 2]: a column of hashes of 16 bytes, and where it is not null."""
    hashes, valid = [np.empty((0, 2), np.uint64)], [np.empty(0, bool)]
    for chunk in chunks:
        for array in read_table(chunk, [name])[name].chunks:
            hashes.append(_bytes(array, 16).view(np.uint64))
            valid.append(np.asarray(array.is_valid()))
    return np.concatenate(hashes), np.concatenate(valid)


def _bytes(array: pa.FixedSizeBinaryArray, size: int) -> NDArray[np.uint8]:
    """[n, size]: the bytes of values, arbitrary where they are null."""
    if not len(array):  # may have no buffer
        return np.empty((0, size), np.uint8)
    content = np.frombuffer(array.buffers()[1], np.uint8)
    return content[array.offset * size : (array.offset + len(array)) * size].reshape(-1, size)


def _is_repeated(hashes: NDArray[np.uint64], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which candidates have a hash that another one has. Hashes of 8 bytes: a few may be marked wrongly."""
    rows = np.flatnonzero(candidates)
    order = rows[np.argsort(hashes[rows], kind="stable")]  # equal hashes become neighbours
    equal = hashes[order[1:]] == hashes[order[:-1]]
    repeated = np.zeros(len(hashes), bool)
    repeated[order[1:][equal]] = True
    repeated[order[:-1][equal]] = True
    return repeated


def _rounded(outline: Outline) -> Outline:
    return tuple((round(x, _DIGITS), round(y, _DIGITS)) for x, y in outline)
