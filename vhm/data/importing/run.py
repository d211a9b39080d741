"""A foreign file or folder → a list and evaluation files, and a report of what became what and what was dropped.

OUT/list.json          the records, or
OUT/eval/TASK.json     evaluation files, with their images in OUT/eval/images/
OUT/images/            images whose bytes were in the foreign files
OUT/import.json        what was recognised, counts, the image root, reasons with examples, conventions of boxes
OUT/dropped.jsonl      {"where", "reason", "detail"} for each record that was dropped

Every record that is written was checked by the rules of `vhm validate`, except for its image. Memory does not grow
with the source, apart from a few bytes per id and image name.
"""

from __future__ import annotations

import itertools
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import orjson

from vhm.data.importing.boxes import BoxReader, bracketed, guess_convention, has_foreign_boxes
from vhm.data.importing.formats import Source, open_source, split_name
from vhm.data.importing.images import ImageWriter, find_root, image_size, link_or_copy, relative_name
from vhm.data.importing.rows import REASONS, Convention, EmbeddedImage, Row, Sample, Shape
from vhm.data.records import IMAGE_MARKER
from vhm.data.validation.record_checks import Kind, RecordChecker, RejectedRow
from vhm.data.validation.request import ValidationRequest
from vhm.errors import InputError, RecordError
from vhm.io import JsonObject, whole_directory, write_json
from vhm.progress import track

REPORT = "import.json"
_HEAD = 300  # records by which the image root and the convention of boxes are chosen
_EXAMPLES = 5


@dataclass(frozen=True)
class DroppedReason:
    """How many records, or parts of records, were dropped for a reason, and the first of them."""

    count: int
    meaning: str
    examples: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class ImportReport:
    """What an import did. `read` counts foreign records, `written` our records: one may become several.

    `files` are the records of each list and evaluation file, `became` those of each kind; `image_root` is where the
    list's images are, None for evaluation files, which have their own. `images_missing` counts the records
    whose image is not there. `boxes` counts the converted boxes by convention.
    """

    source: str
    format: str
    read: int
    written: int
    dropped: int
    files: Mapping[str, int]
    became: Mapping[str, int]
    reasons: Mapping[str, DroppedReason]
    image_root: str | None
    images_written: int
    images_missing: int
    boxes: Mapping[str, int]
    box_convention: str
    renamed_ids: int
    notes: tuple[str, ...]

    def to_dict(self) -> JsonObject:
        """The content of import.json."""
        return asdict(self)

    def text(self, out: Path) -> str:
        """The report in a few lines, with the command that comes next."""
        became = ", ".join(f"{count} {kind}" for kind, count in self.became.items())
        lines = [f"{self.written} records from {self.read} of {self.format}: {became}", *self.notes]
        lines += [f"{count} boxes converted: {kind}" for kind, count in self.boxes.items()]
        for reason, dropped in self.reasons.items():
            lines.append(f"{dropped.count} dropped, {reason}: {dropped.examples[0]['detail']}")
        if self.image_root is not None:
            lines.append(f"next: vhm validate {out}/list.json --images {self.image_root} --out DIR")
        if any(name.startswith("eval/") for name in self.files):
            lines.append(f"next: vhm validate {out}/eval --images {out}/eval --kind eval --out DIR")
        return "\n".join(lines)


def import_data(
    path: Path,
    out: Path,
    name: str | None = None,
    images: Path | None = None,
    boxes: Convention | None = None,
    split: str | None = None,
) -> ImportReport:
    """Convert the file or folder `path` into `out`, which becomes complete or is not changed.

    `name` is the format if it is not to be recognised, `images` the folder of the images if it is not to be found,
    `boxes` the convention of [x0, y0, x1, y1] in text. Raises InputError if nothing can be converted.
    """
    source = open_source(path, name, split, images)
    head = _look_ahead(source)
    if split is None and len(head.splits) > 1:
        raise InputError(f"{path} has the splits {', '.join(sorted(head.splits))}: choose one with --split")
    if boxes is None:
        boxes, seen = guess_convention(head.shapes)
    else:
        seen = "given by the user"
    root = images or find_root(source.root, head.images)
    with whole_directory(out, REPORT) as folder:
        with _Importer(folder, root.absolute(), BoxReader(boxes)) as importer:
            for row in track(source.rows(), "importing"):
                importer.add(row, source, split)
        report = importer.report(source, out, f"[x0, y0, x1, y1] in text: {boxes} ({seen})")
        if not report.written:
            raise InputError(f"{path} ({source.title}): none of its {report.read} records can be used{_why(report)}")
        write_json(folder / REPORT, report.to_dict())
    return report


def _why(report: ImportReport) -> str:
    reason = next(iter(report.reasons.items()), None)
    return f": {reason[1].count} {reason[0]}, first {reason[1].examples[0]['detail']}" if reason else ""


@dataclass(frozen=True)
class _Head:
    images: list[str]
    shapes: list[Shape]
    splits: set[str]


def _look_ahead(source: Source) -> _Head:
    """The names of the first images, the boxes in the first texts, and the splits that the first rows name."""
    images, shapes, splits = [], [], set()
    for row in itertools.islice(source.rows(), _HEAD):
        if isinstance(row, Row) and (name := split_name(row.fields.get("split"))):
            splits.add(name)
        for sample in _samples(row, source):
            if isinstance(sample, Sample):
                shapes += bracketed(text for _, text in sample.turns)
                if isinstance(sample.image, str):
                    images.append(posixpath.join(sample.source or "", sample.image))
    return _Head(images, shapes, splits)


def _samples(
    row: Row | tuple[str, RecordError], source: Source, split: str | None = None
) -> Iterator[Sample | RecordError]:
    """What a row becomes; an error ends its samples. A row that names another split than `split` becomes nothing."""
    if isinstance(row, tuple):
        yield row[1]
        return
    own = split_name(row.fields.get("split"))
    if split is not None and own not in (None, split_name(split)):
        yield RecordError("other_split", f"the record belongs to the split {own}")
        return
    try:
        yield from source.form_of(row.fields).convert(row.fields)
    except RecordError as error:
        yield error
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        yield RecordError("wrong_type", f"a field is not as in {source.format.title} ({type(error).__name__}: {error})")


class _Importer:
    """Writes the records of one import, and counts."""

    def __init__(self, folder: Path, root: Path, boxes: BoxReader) -> None:
        self._folder, self._root, self._boxes = folder, root, boxes
        self._lists = _ListWriter(folder)
        self._images = {name: ImageWriter(folder / name) for name in ("images", "eval/images")}
        self._checkers = {kind: _checker(kind) for kind in ("sft", "eval")}
        self._became: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, list[Mapping[str, str]]] = {}
        self._ids: set[int] = set()
        self._read = self._missing = self._renamed = self._dropped = 0
        self._paths = False  # whether records name image files that are not written by this import

    def __enter__(self) -> _Importer:
        self._dropped_file = (self._folder / "dropped.jsonl").open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._dropped_file.close()
        self._lists.close()

    def add(self, row: Row | tuple[str, RecordError], source: Source, split: str | None) -> None:
        """Write what a row becomes, or say why it is dropped."""
        self._read += 1
        where = row[0] if isinstance(row, tuple) else row.where
        for sample in _samples(row, source, split):
            try:
                if isinstance(sample, RecordError):
                    raise sample
                self._write(sample)
            except RecordError as error:
                self._drop(where, error)

    def _write(self, sample: Sample) -> None:
        record = self._list_record(sample) if sample.task is None else self._evaluation_record(sample)
        raw = orjson.dumps(record)
        checked = self._checkers["sft" if sample.task is None else "eval"].check(0, raw)
        if isinstance(checked, RejectedRow):
            raise RecordError(checked.reason, checked.detail)
        self._lists.write("list.json" if sample.task is None else f"eval/{sample.task}.json", raw)
        self._became[sample.kind] += 1

    def _drop(self, where: str, error: RecordError) -> None:
        self._dropped += 1
        self._reasons[error.reason] += 1
        entry = {"where": where, "reason": error.reason, "detail": error.detail.encode(errors="replace").decode()[:500]}
        self._dropped_file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        examples = self._examples.setdefault(error.reason, [])
        if len(examples) < _EXAMPLES:
            examples.append({"where": entry["where"], "detail": entry["detail"]})

    def _list_record(self, sample: Sample) -> JsonObject:
        name, source = None, None
        if isinstance(sample.image, EmbeddedImage):
            name = self._images["images"].write(sample.image)
        elif sample.image is not None:
            source = sample.source
            name = sample.image if source else relative_name(sample.image, self._root)
            self._paths = True
            self._missing += not (self._root / (source or "") / name).is_file()
        record = {
            "id": self._unique(sample.id),
            "image": name,
            "source_dataset": source,
            "system": sample.system,
            "conversations": self._turns(sample, pixels=False),
        }
        return {key: value for key, value in record.items() if value is not None}

    def _evaluation_record(self, sample: Sample) -> JsonObject:
        size = self._size(sample)
        if size is None:
            raise RecordError("image_missing", f"the image is not below {self._root}: give --images")
        if isinstance(sample.image, EmbeddedImage):
            name = self._images["eval/images"].write(sample.image)
        else:
            name = relative_name(str(sample.image), self._root)
            link_or_copy(self._root / name, self._folder / "eval/images" / name)
        turns = self._turns(replace(sample, size=size), pixels=True)
        return {"image": name, "image_path": "images", "size": list(size), "conversations": turns}

    def _turns(self, sample: Sample, pixels: bool) -> list[dict[str, str]]:
        texts = [text for _, text in sample.turns]
        shapes = [(shape, sample.convention) for shape in sample.shapes]
        size = self._size(sample) if shapes or bracketed(texts) or any(map(has_foreign_boxes, texts)) else sample.size
        texts = [self._boxes.convert(text, size, shapes, pixels) for text in texts]
        if shapes:
            raise RecordError("bad_number", f"the record has {len(shapes)} boxes more than the text has <bbox>")
        speakers = [speaker for speaker, _ in sample.turns]
        if sample.image is not None and "human" in speakers and not any(IMAGE_MARKER in text for text in texts):
            first = speakers.index("human")
            texts[first] = f"{IMAGE_MARKER}\n{texts[first]}"
        return [{"from": speaker, "value": text} for speaker, text in zip(speakers, texts, strict=True)]

    def _size(self, sample: Sample) -> tuple[int, int] | None:
        """The image's size: of its file if it is there, else as the record has it."""
        if isinstance(sample.image, EmbeddedImage):
            return ImageWriter.size(sample.image) or sample.size
        if sample.image is None:
            return sample.size
        name = sample.image if sample.source else relative_name(sample.image, self._root)
        if sample.size is not None and sample.task is None:
            return sample.size
        return image_size(self._root / (sample.source or "") / name)

    def _unique(self, sample_id: str | int | None) -> str | int | None:
        """The id, changed if an earlier record has it: ids are unique in a list."""
        if sample_id is None:
            return None
        unique, number = sample_id, 1
        while hash(str(unique)) in self._ids:
            number += 1
            unique = f"{sample_id}-{number}"
        self._ids.add(hash(str(unique)))
        self._renamed += unique != sample_id
        return unique

    def report(self, source: Source, out: Path, convention: str) -> ImportReport:
        has_list = "list.json" in self._lists.counts
        written = len(self._images["images"])
        root = out / "images" if written and not self._paths else self._root
        return ImportReport(
            source=str(source.path),
            format=source.title,
            read=self._read,
            written=sum(self._lists.counts.values()),
            dropped=self._dropped,
            files=dict(self._lists.counts),
            became=dict(self._became.most_common()),
            reasons={
                reason: DroppedReason(count, REASONS[reason], tuple(self._examples[reason]))
                for reason, count in self._reasons.most_common()
            },
            image_root=str(root) if has_list else None,
            images_written=sum(map(len, self._images.values())),
            images_missing=self._missing,
            boxes=dict(self._boxes.converted.most_common()),
            box_convention=convention,
            renamed_ids=self._renamed,
            notes=tuple(self._notes(source)),
        )

    def _notes(self, source: Source) -> Iterator[str]:
        if self._missing:
            yield f"{self._missing} records name an image that is not below {self._root}: give the folder with --images"
        if self._paths and len(self._images["images"]):
            yield "some images were written below images/, others are files elsewhere: a list has one image root"
        if self._boxes.brackets == "0-100":
            yield "boxes were read as 0-100 because none is larger: give --boxes 0-1000 if they are not"
        if tasks := [name for name in self._lists.counts if name.startswith("eval/")]:
            names = ", ".join(posixpath.basename(task) for task in tasks)
            yield f"to evaluate on {names}, name them in the recipe's evaluation.custom_tasks (file, type)"


def _checker(kind: Kind) -> RecordChecker:
    return RecordChecker(kind, ValidationRequest.max_text, images_are_checked=False)


class _ListWriter:
    """Writes JSON arrays record by record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self.counts: Counter[str] = Counter()

    def write(self, name: str, raw: bytes) -> None:
        if name not in self._files:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = path.open("wb")
            self._files[name].write(b"[\n")
        self._files[name].write((b",\n" if self.counts[name] else b"") + raw)
        self.counts[name] += 1

    def close(self) -> None:
        for file in self._files.values():
            file.write(b"\n]\n")
            file.close()
