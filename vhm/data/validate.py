"""List file → manifest: every record is accepted or rejected with a reason, and the whole is judged.

DIR/manifest.parquet   accepted records, in the list's order
DIR/rejected.jsonl     {"index", "id", "reason", "detail"} for each other record
DIR/validation.json    counts, reasons, what Great Expectations says
DIR/data_docs/         the same to look at
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from vhm.data.contamination import Fingerprint, LeakFinder, fingerprint
from vhm.data.images import Limits, load_image
from vhm.data.index import open_index
from vhm.data.records import IMAGE_MARKER, Record, check_turns, image_name
from vhm.data.roots import ImageRoot, open_root
from vhm.errors import CheckFailed, ImageError, InputError, RecordError
from vhm.io import jsonl, read_json, sha256_file, write_bytes, write_json
from vhm.progress import track

log = logging.getLogger(__name__)

Kind = Literal["pretrain", "sft", "eval"]
SPECIAL_TOKENS = ("<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REFUSAL = re.compile(r"\b(as an ai|i'?m sorry|i cannot|i can'?t|unable to (see|view|process))\b", re.IGNORECASE)
_OPTION = re.compile(r"(?:^|\W)[A-E][.):]\s")
_BOX = re.compile(r"\[\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3}\s*\]")


@dataclass(frozen=True)
class Row:
    """One accepted record as the manifest's columns."""

    index: int
    id: str
    source: str
    image: str | None
    image_sha256: str | None
    width: int | None
    height: int | None
    turns: int
    text_length: int
    answer_length: int
    refusal: bool
    record: bytes


@dataclass(frozen=True)
class Rejected:
    index: int
    id: str | None
    reason: str
    detail: str


@dataclass
class Validation:
    """What a validation found; `passed` is False when too much was rejected or an expectation failed."""

    kind: Kind
    source: str
    total: int
    accepted: int
    rejected: int
    reasons: dict[str, int]
    sources: dict[str, int]
    refusal_share: float
    max_rejected: float
    manifest_sha256: str = ""
    expectations: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def validate(
    source: Path,
    images: Path,
    out: Path,
    kind: Kind = "sft",
    against: Sequence[Path] = (),
    against_images: Path | None = None,
    max_rejected: float = 0.01,
    max_text: int = 20_000,
    limits: Limits | None = None,
    skip_images: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> Validation:
    """Check a list (or, for "eval", a directory of evaluation files) and write the manifest to `out`.

    `shard` (i, n) takes the i-th of n equal parts. Raises InputError when the list cannot be read; what
    is wrong with single records is never raised, but counted in the result.
    """
    records = list(_records(source, kind))
    first, last = len(records) * shard[0] // shard[1], len(records) * (shard[0] + 1) // shard[1]
    leaks = LeakFinder(_fingerprints(against, against_images or images)) if against else None
    root = None if skip_images else open_root(images)
    checker = _Checker(root, kind, limits or Limits(), max_text, leaks)
    with ThreadPoolExecutor(2) as pool:
        checked = pool.map(checker.check, range(first, last), (record for record in records[first:last]))
        results = list(checker.duplicates(track(checked, f"validating {source.name}", last - first)))
    rows = [result for result in results if isinstance(result, Row)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    out.mkdir(parents=True, exist_ok=True)
    _write_manifest(rows, out / "manifest.parquet")
    open_index(out / "manifest.parquet")  # what training maps is made now: later `out` may be read-only
    write_bytes(out / "rejected.jsonl", jsonl([asdict(row) for row in rejected]))
    result = Validation(
        kind,
        str(source),
        len(results),
        len(rows),
        len(rejected),
        dict(Counter(row.reason for row in rejected).most_common()),
        dict(Counter(row.source for row in rows).most_common()),
        sum(row.refusal for row in rows) / max(len(rows), 1),
        max_rejected,
        sha256_file(out / "manifest.parquet"),
    )
    _judge(result, rows, out)
    write_json(out / "validation.json", result.to_dict())
    return result


def require_passed(result: Validation, out: Path) -> None:
    """Raise CheckFailed with the first failure, and where to read more."""
    if not result.passed:
        raise CheckFailed(f"{result.source}: {result.failures[0]}; see {out / 'rejected.jsonl'}")


def _judge(result: Validation, rows: list[Row], out: Path) -> None:
    share = result.rejected / max(result.total, 1)
    if not rows:
        result.failures.append(f"no record of {result.total} was accepted")
        return
    if share > result.max_rejected:
        worst = ", ".join(f"{count} {reason}" for reason, count in list(result.reasons.items())[:3])
        result.failures.append(
            f"{result.rejected} of {result.total} records rejected ({share:.1%}, at most "
            f"{result.max_rejected:.1%} allowed): {worst}"
        )
    from vhm.data.expectations import judge  # Great Expectations takes seconds to import

    result.expectations = judge(rows, result.kind, out / "data_docs")
    for failure in result.expectations["failed"]:
        result.failures.append(f"expectation failed: {failure}")


# --- reading -------------------------------------------------------------------------------------


def _records(source: Path, kind: Kind) -> Iterator[Any]:
    """All records of a list file; for "eval" also of every evaluation file in a directory."""
    files = [source]
    if source.is_dir():
        if kind != "eval":
            raise InputError(f"{source} is a directory: give a list file, or --kind eval")
        files = sorted(source.glob("*.json"))
        if not files:
            raise InputError(f"{source} has no evaluation file (*.json)")
    for file in files:
        values = read_json(file)
        if not isinstance(values, list):
            raise InputError(f"{file} is not a JSON array of records")
        yield from values


def _fingerprints(lists: Sequence[Path], images: Path) -> Iterator[tuple[str, Fingerprint]]:
    """Fingerprints of the distinct images that evaluation lists name; unreadable ones are left out."""
    seen: set[tuple[Path, str]] = set()
    for source in lists:
        folder = source if source.is_dir() else images
        root = open_root(folder)
        for record in _records(source, "eval"):
            try:
                name = image_name(record) if isinstance(record, dict) else None
                if name is None or (folder, name) in seen:
                    continue
                seen.add((folder, name))
                yield name, fingerprint(root.read(name))
            except (RecordError, ImageError) as error:
                log.warning("%s: %s", source, error)


# --- checks of one record ------------------------------------------------------------------------


class _Checker:
    def __init__(
        self, root: ImageRoot | None, kind: Kind, limits: Limits, max_text: int, leaks: LeakFinder | None
    ) -> None:
        self._root = root
        self._kind = kind
        self._limits = limits
        self._max_text = max_text
        self._leaks = leaks

    def check(self, index: int, record: Any) -> Row | Rejected:
        """The record as a row, or why not. Never raises."""
        name = record.get("id") if isinstance(record, dict) else None
        try:
            return self._check(index, record)
        except (RecordError, ImageError) as error:
            return Rejected(index, None if name is None else str(name), error.reason, error.detail)

    def duplicates(self, results: Iterator[Row | Rejected]) -> Iterator[Row | Rejected]:
        """The results in order, later records with an id or a content seen before rejected."""
        ids: set[str] = set()
        contents: dict[bytes, int] = {}
        for result in results:
            if isinstance(result, Row):
                named = orjson.loads(result.record).get("id") is not None
                content = hashlib.sha256(
                    orjson.dumps([result.image_sha256 or result.image, orjson.loads(result.record)["conversations"]])
                ).digest()
                if named and result.id in ids:
                    result = Rejected(result.index, result.id, "duplicate_id", "an earlier record has this id")
                elif content in contents:
                    detail = f"same image and text as record {contents[content]}"
                    result = Rejected(result.index, result.id, "duplicate", detail)
                else:
                    ids.add(result.id)
                    contents[content] = result.index
            yield result

    def _check(self, index: int, record: Any) -> Row:
        turns = check_turns(record)
        for key in ("image", "source_dataset", "image_path"):
            if record.get(key) is not None and not isinstance(record[key], str):
                raise RecordError("wrong_type", f"{key!r} is not a string")
        if self._kind in ("pretrain", "eval") and record.get("image") is None:
            raise RecordError("missing_field", "'image' is absent")
        self._check_text(turns, record)
        digest, size = self._check_image(record)
        answers = [text for speaker, text in turns if speaker == "gpt"]
        return Row(
            index,
            str(record.get("id", index)),
            str(record.get("source_dataset") or record.get("image_path") or ""),
            record.get("image"),
            digest,
            size and size[0],
            size and size[1],
            len(turns),
            sum(len(text) for _, text in turns),
            sum(map(len, answers)),
            any(_REFUSAL.search(text) for text in answers),
            orjson.dumps(_clean(record)),
        )

    def _check_text(self, turns: list[tuple[str, str]], record: Record) -> None:
        if self._kind == "pretrain" and len(turns) != 2:
            raise RecordError("turn_count", f"a caption record has {len(turns)} turns instead of 2")
        marked = 0
        for number, (speaker, text) in enumerate(turns):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise RecordError("bad_unicode", f"turn {number} holds a lone surrogate") from None
            if speaker == "gpt" and not text.strip():
                raise RecordError("empty_answer", f"turn {number} is empty")
            if _CONTROL.search(text):
                raise RecordError("control_character", f"turn {number} holds a control character")
            special = next((token for token in SPECIAL_TOKENS if token in text), None)
            if special or (speaker == "gpt" and IMAGE_MARKER in text):
                raise RecordError("special_token", f"turn {number} holds {special or IMAGE_MARKER!r}")
            if IMAGE_MARKER in text:
                marked += 1
            _check_numbers(text, number)
        images = int(record.get("image") is not None)
        if marked != images and not (self._kind == "eval" and marked == 0):
            raise RecordError("image_count", f"{marked} turns with an image marker, {images} images")
        length = sum(len(text) for _, text in turns)
        if length > self._max_text:
            raise RecordError("too_long", f"{length} characters of text, the limit is {self._max_text}")
        if self._kind == "pretrain" and _REFUSAL.search(turns[1][1]):
            raise RecordError("refusal", "the caption is a refusal")
        if "answer with the letter" in turns[0][1].lower() and len(_OPTION.findall(turns[0][1])) < 2:
            raise RecordError("no_options", "the question asks for a letter and lists no options")

    def _check_image(self, record: Record) -> tuple[str | None, tuple[int, int] | None]:
        name = image_name(record)
        if name is None or self._root is None:
            return None, None
        content = self._root.read(name)
        try:
            image = load_image(content, self._limits)
        except ImageError as error:
            raise ImageError(error.reason, f"{name}: {error.detail}") from None
        size = record.get("size")
        if size is not None and list(size) != list(image.size):
            raise RecordError("image_size", f"the file is {image.width}×{image.height}, the record says {size}")
        if self._leaks is not None:
            found = self._leaks.find(fingerprint(content, image))
            if found is not None:
                raise RecordError("leak", f"the image is evaluation image {found}")
        return hashlib.sha256(content).hexdigest(), image.size


def _check_numbers(text: str, turn: int) -> None:
    """Boxes are written in thousandths: four numbers in [0, 1000), in order."""
    for found in _BOX.findall(text):
        x0, y0, x1, y1 = (float(v) for v in found.strip("[]").split(","))
        if not (min(x0, y0) >= 0 and max(x1, y1) < 1000 and x0 <= x1 and y0 <= y1):
            raise RecordError("bad_number", f"turn {turn} holds the box {found}: expected thousandths in [0, 1000)")


def _clean(record: dict[str, Any]) -> dict[str, Any]:
    """The record as it will be trained on: a leading gpt turn dropped."""
    turns = record["conversations"]
    return record | {"conversations": turns[1:]} if turns[0]["from"] == "gpt" else record


def _write_manifest(rows: list[Row], path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = pa.schema(
        [
            ("index", pa.int64()),
            ("id", pa.string()),
            ("source", pa.string()),
            ("image", pa.string()),
            ("image_sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("turns", pa.int32()),
            ("text_length", pa.int32()),
            ("answer_length", pa.int32()),
            ("refusal", pa.bool_()),
            ("record", pa.large_binary()),
        ]
    )
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())
