"""The examples of the report, in groups: rejected records by reason, findings of image comparison, accepted records.

Of each group only some are shown, evenly spread over its sources. Few images are decoded, however long the lists are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vhm.data.records import image_name, source_name
from vhm.data.validation.findings import FindingKind, Outline
from vhm.data.validation.record_checks import Kind
from vhm.data.validation.report.sampling import RecordReader, Sample, sample_lines, spread
from vhm.data.validation.report.statistics import record_outlines
from vhm.data.validation.report.thumbnails import ImageRef
from vhm.data.validation.report.words import ADVICE, FINDINGS, reason_title, shown
from vhm.errors import RecordError
from vhm.io import JsonObject

Status = Literal["rejected", "reported", "accepted"]

# The three budgets together are the greatest number of images on the page.
_REJECTED_IMAGES, _FINDING_IMAGES, _ACCEPTED_IMAGES = 72, 84, 44
_MOST_PER_GROUP = 12
_ROWS_PER_REASON = 5_000  # whose records are read to count a reason's sources
_MAX_TURNS = 4
_MAX_SHAPES = 60  # drawn on an image
# A record is rejected for a finding with these reasons; its examples are pairs of images.
_FINDING_REASONS = {"leak", "near_duplicate", "blank"}


@dataclass(frozen=True)
class ShownImage:
    """An image of an example with what is drawn on it: `outlines` of its text, the area `shared` with another image."""

    image: ImageRef
    caption: str
    outlines: tuple[Outline, ...] = ()
    shared: Outline = ()


@dataclass(frozen=True)
class Turn:
    speaker: str
    text: str


@dataclass(frozen=True)
class Example:
    """One record. `facts` are (name, value) pairs, such as the score of a finding; `raw` is text that is no record."""

    index: int
    id: str
    source: str
    detail: str
    shown_images: tuple[ShownImage, ...]
    turns: tuple[Turn, ...]
    facts: tuple[tuple[str, str], ...] = ()
    raw: str = ""


@dataclass(frozen=True)
class Group:
    """Examples of one reason, one kind of finding, or one source; `count` records belong to it."""

    key: str
    status: Status
    title: str
    code: str
    count: int
    meaning: str
    advice: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class RejectedRecord:
    """A rejected record with its source and image file as far as they can be read."""

    index: int
    id: str | None
    source: str
    image: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Rejected:
    """`counts` are exact; `rows` have at most `_ROWS_PER_REASON` records of each reason."""

    counts: Mapping[str, int]
    rows: Mapping[str, Sequence[RejectedRecord]]

    @property
    def complete(self) -> bool:
        """Whether `rows` are all rejected records."""
        return all(len(self.rows[reason]) == count for reason, count in self.counts.items())

    def by_source(self) -> dict[str, Counter[str]]:
        """Rejected records by source and reason; extrapolated where not all were read."""
        counts: dict[str, Counter[str]] = {}
        for reason, rows in self.rows.items():
            for source, read in Counter(row.source for row in rows).items():
                estimate = round(read * self.counts[reason] / len(rows))
                counts.setdefault(source, Counter())[reason] += estimate
        return counts


@dataclass(frozen=True)
class Finding:
    """A line of leaks.jsonl or suspicious.jsonl: a training image and the `other` image that it resembles, if any."""

    index: int
    image: str
    kind: FindingKind
    score: float
    rejected: bool
    other: str | None
    other_index: int | None
    matched_area: float | None = None
    outline: Outline = ()
    other_outline: Outline = ()


@dataclass(frozen=True)
class Findings:
    """`counts` are exact, by kind and whether the record was rejected; `rows` are some of each."""

    counts: Mapping[tuple[FindingKind, bool], int]
    rows: Mapping[tuple[FindingKind, bool], Sequence[Finding]] = field(default_factory=dict)

    def count(self, rejected: bool) -> int:
        return sum(count for (_, was_rejected), count in self.counts.items() if was_rejected == rejected)


def read_rejected(path: Path, reader: RecordReader) -> Rejected:
    """The rejected records of rejected.jsonl, with the sources and images of their records."""
    sample: Sample[str] = sample_lines(path, lambda row: str(row["reason"]), _ROWS_PER_REASON)
    rows = {
        reason: [_rejected_record(row, reader.record(row["index"])) for row in rows]
        for reason, rows in sample.rows.items()
    }
    return Rejected(dict(sorted(sample.counts.items(), key=lambda entry: (-entry[1], entry[0]))), rows)


def read_findings(leaks: Path, suspicious: Path) -> Findings:
    """Some findings of each kind of leaks.jsonl and suspicious.jsonl, which may be absent."""
    samples = [sample_lines(path, _finding_key, 8 * _MOST_PER_GROUP) for path in (leaks, suspicious)]
    counts = {key: count for sample in samples for key, count in sample.counts.items()}
    rows = {key: list(map(_finding, rows)) for sample in samples for key, rows in sample.rows.items()}
    order = {key: (list(FINDINGS).index(key[0]), not key[1]) for key in counts}
    return Findings({key: counts[key] for key in sorted(counts, key=order.__getitem__)}, rows)


def rejected_groups(rejected: Rejected, findings: Findings, reader: RecordReader, kind: Kind) -> Iterator[Group]:
    """One group per reason; for reasons that come from comparing images, one per kind of finding."""
    pairs = [key for key in findings.counts if key[1]]
    plain = [reason for reason in rejected.counts if not (reason in _FINDING_REASONS and _of_reason(reason, pairs))]
    most = _per_group(_REJECTED_IMAGES, len(plain))
    for reason, count in rejected.counts.items():
        if reason not in plain:
            yield from _finding_groups(findings, _of_reason(reason, pairs), reason, reader, kind)
            continue
        rows = spread(rejected.rows[reason], lambda row: row.source, most)
        examples = tuple(_rejected_example(row, reader, kind) for row in rows)
        advice = ADVICE.get(reason, "")
        yield Group(f"rejected-{reason}", "rejected", reason_title(reason), reason, count, "", advice, examples)


def reported_groups(findings: Findings, reader: RecordReader, kind: Kind) -> Iterator[Group]:
    """Findings whose records were not rejected."""
    yield from _finding_groups(findings, [key for key in findings.counts if not key[1]], "", reader, kind)


def accepted_groups(
    indices: Sequence[int], counts: Mapping[str, int], reader: RecordReader, kind: Kind
) -> Iterator[Group]:
    """The accepted records at these indices, by source; `counts` has the number of records of each source."""
    by_source: dict[str, list[Example]] = {}
    for index in indices:
        record = reader.record(index)
        if record is not None:
            by_source.setdefault(source_name(record), []).append(_example(index, record, "", kind))
    for number, source in enumerate(sorted(by_source, key=lambda name: (-counts.get(name, 0), name))):
        examples = tuple(by_source[source])
        title = shown(source, 100) or "No source"
        yield Group(f"accepted-{number}", "accepted", title, "", counts.get(source, 0), "", "", examples)


def accepted_per_source(sources: int) -> tuple[int, int]:
    """How many sources are shown, and how many accepted records of each."""
    return min(sources, _ACCEPTED_IMAGES), min(8, max(1, _ACCEPTED_IMAGES // max(sources, 1)))


def images_of(groups: Iterable[Group]) -> Iterator[ImageRef]:
    """All images that the groups show."""
    for group in groups:
        for example in group.examples:
            for one in example.shown_images:
                yield one.image


# --- one example ---------------------------------------------------------------------------------


def _rejected_example(row: RejectedRecord, reader: RecordReader, kind: Kind) -> Example:
    record = reader.record(row.index)
    if record is None:
        raw = shown(reader.raw(row.index)[:4000].decode(errors="replace"), 400)
        return Example(row.index, shown(row.id or "", 120), "", shown(row.detail), (), (), raw=raw)
    return _example(row.index, record, row.detail, kind)


def _example(index: int, record: JsonObject, detail: str, kind: Kind) -> Example:
    image = _image(record)
    outlines = tuple(_outlines(record, kind))
    shown_images = () if image is None else (ShownImage(image, shown(image.name, 200), outlines),)
    return Example(
        index=index,
        id=_id(record),
        source=shown(source_name(record), 100),
        detail=shown(detail),
        shown_images=shown_images,
        turns=tuple(_turns(record)),
    )


def _finding_groups(
    findings: Findings, keys: Sequence[tuple[FindingKind, bool]], reason: str, reader: RecordReader, kind: Kind
) -> Iterator[Group]:
    most = _per_group(_FINDING_IMAGES // 2, len(findings.counts))
    for key in keys:
        words = FINDINGS[key[0]]
        status: Status = "rejected" if key[1] else "reported"
        rows = spread(findings.rows[key], lambda row: row.image.rpartition("/")[0], most)
        examples = tuple(_finding_example(row, reader, kind) for row in rows)
        code = " · ".join(filter(None, (reason, key[0])))
        count = findings.counts[key]
        yield Group(f"{status}-{key[0]}", status, words.title, code, count, words.meaning, words.advice, examples)


def _finding_example(finding: Finding, reader: RecordReader, kind: Kind) -> Example:
    record = reader.record(finding.index) or {}
    source = source_name(record)
    name = shown(finding.image, 200)
    shown_images = [ShownImage(ImageRef(finding.image, source), f"training: {name}", (), finding.outline)]
    if finding.other is not None:
        shown_images.append(_other_image(finding, reader))
    turns = tuple(_turns(record))
    return Example(
        finding.index, _id(record), shown(source, 100), "", tuple(shown_images), turns, tuple(_finding_facts(finding))
    )


def _other_image(finding: Finding, reader: RecordReader) -> ShownImage:
    assert finding.other is not None
    name = shown(finding.other, 200)
    if finding.other_index is None:
        image = ImageRef(finding.other, finding.other.rpartition("/")[0], evaluation=True)
        return ShownImage(image, f"evaluation: {name}", (), finding.other_outline)
    source = source_name(reader.record(finding.other_index) or {})
    return ShownImage(
        ImageRef(finding.other, source), f"record {finding.other_index}: {name}", (), finding.other_outline
    )


def _finding_facts(finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.other is not None:
        yield "score", f"{finding.score:.2f}"
    if finding.matched_area is not None:
        yield "matched area", f"{finding.matched_area:.0%}"


def _turns(record: JsonObject) -> Iterator[Turn]:
    conversations = record.get("conversations")
    turns = conversations if isinstance(conversations, list) else []
    for turn in turns[:_MAX_TURNS]:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else ("", turn)
        yield Turn(shown(str(speaker), 20), shown(text if isinstance(text, str) else repr(text), 280))
    if len(turns) > _MAX_TURNS:
        yield Turn("", f"… and {len(turns) - _MAX_TURNS:,} more turns")


def _outlines(record: JsonObject, kind: Kind) -> Iterator[Outline]:
    try:
        found = list(record_outlines(record, kind))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # a rejected record may have any form
        return
    yield from found[:_MAX_SHAPES]


def _image(record: JsonObject) -> ImageRef | None:
    try:
        name = image_name(record)
    except RecordError:
        return None
    return None if name is None else ImageRef(name, source_name(record))


def _id(record: JsonObject) -> str:
    return "" if record.get("id") is None else shown(str(record["id"]), 120)


# --- the files -----------------------------------------------------------------------------------


def _rejected_record(row: JsonObject, record: JsonObject | None) -> RejectedRecord:
    content = record or {}
    return RejectedRecord(
        row["index"], row["id"], source_name(content), str(content.get("image") or ""), row["reason"], row["detail"]
    )


def _finding_key(row: JsonObject) -> tuple[FindingKind, bool]:
    return row["kind"], bool(row["rejected"])


def _finding(row: JsonObject) -> Finding:
    return Finding(
        index=row["index"],
        image=row["image"],
        kind=row["kind"],
        score=row["score"],
        rejected=row["rejected"],
        other=row.get("evaluation_image") or row.get("other_image"),
        other_index=row.get("other_index"),
        matched_area=row.get("matched_area"),
        outline=_corners(row.get("outline")),
        other_outline=_corners(row.get("evaluation_outline")),
    )


def _corners(points: Sequence[Sequence[float]] | None) -> Outline:
    return tuple((float(x), float(y)) for x, y in points or ())


def _of_reason(reason: str, keys: Iterable[tuple[FindingKind, bool]]) -> list[tuple[FindingKind, bool]]:
    """The kinds of findings that reject with a reason."""
    other = {"near-duplicate": "near_duplicate", "blank": "blank"}
    return [key for key in keys if other.get(key[0], "leak") == reason]


def _per_group(budget: int, groups: int) -> int:
    return max(1, min(_MOST_PER_GROUP, budget // max(groups, 1)))
