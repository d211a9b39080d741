"""The table of formats, and what a file or folder is: how it holds its rows, and which form they have.

To add a format, write its module and add a row here. The first row that recognises a record wins.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vhm.data.importing import coco, conversations, geochat, rsvqa, tables, vrsbench
from vhm.data.importing.readers import Container, container_of, first_rows, head_text, top_level
from vhm.data.importing.rows import Format, Row
from vhm.data.shards.table import IMAGES
from vhm.errors import InputError, RecordError
from vhm.io import JsonObject, read_json_object

FORMATS: tuple[Format, ...] = (
    coco.COCO,
    rsvqa.RSVQA,
    vrsbench.EVALUATION,
    vrsbench.ANNOTATION,
    geochat.INSTRUCTIONS,
    geochat.BENCHMARK,
    conversations.LLAVA,
    conversations.SHAREGPT,
    conversations.MESSAGES,
    conversations.ALPACA,
    conversations.QUERY,
    tables.TABLE,
)
# Names of containers: `--format parquet` says how the rows are stored, and their form is recognised.
CONTAINERS = ("json", "jsonl", "csv", "tsv", "parquet", "arrow", "webdataset")
Rows = Iterator[Row | tuple[str, RecordError]]

_DATA = re.compile(r"\.(?:jsonl?|ndjson|csv|tsv|parquet|arrow|tar|tgz|gz)$", re.IGNORECASE)
_NOT_DATA = frozenset(("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "lineage.json"))
_SPLIT = re.compile(r"(?:^|[/_.-])(train|test|validation|valid|val|dev)(?=[/_.-])")


@dataclass(frozen=True)
class Source:
    """A file or a folder to import: `container` says how it holds rows; its paths are relative to the folder `root`.

    `forced` is whether the user gave the format.
    """

    path: Path
    container: str
    format: Format
    rows: Callable[[], Rows]
    root: Path
    forced: bool = False

    @property
    def title(self) -> str:
        return f"{self.format.title}, {self.container}"

    def form_of(self, fields: JsonObject) -> Format:
        """The form of one record: the source's, or the first that recognises it; a source may be a mixture."""
        if self.forced or self.format.document is not None or self.format.recognise(fields):
            return self.format
        return _form([fields]) or self.format


def open_source(path: Path, name: str | None = None, split: str | None = None, images: Path | None = None) -> Source:
    """What `path` is; `name` overrides what is recognised, `split` chooses the files of a folder with several splits.

    `images` is the image root, if the user gave one.

    Raises InputError if the path cannot be read, or is nothing that is known.
    """
    forced = None if name is None or name.lower() in CONTAINERS else format_named(name)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    source = _folder(path, forced, split, images) if path.is_dir() else _file(path, forced, images)
    if source is None:
        raise InputError(f"{path} is in no format that is known: give --format, one of {', '.join(format_names())}")
    return replace(source, forced=forced is not None)


def format_named(name: str) -> Format:
    """The format of that name. Raises InputError, which lists the names, for any other."""
    for form in FORMATS:
        if name.lower() in (form.name, *form.aliases):
            return form
    raise InputError(f"--format {name!r} is unknown: use one of {', '.join(format_names())}")


def format_names() -> list[str]:
    return [*(name for form in FORMATS for name in (form.name, *form.aliases)), *CONTAINERS]


def recognise(path: Path) -> str | None:
    """What a foreign file or folder is, by its head; None for a list of this project and for anything unknown."""
    try:
        source = _folder(path, None, None, None) if path.is_dir() else _file(path, None, None)
    except InputError:
        return None
    if source is None:
        return None
    own = source.format is conversations.LLAVA and source.container == "JSON array"
    return None if own else source.title


def _file(path: Path, forced: Format | None, images: Path | None) -> Source | None:
    container = container_of(path)
    if container is not None:
        form = forced or _form(first_rows(path, container))
        return None if form is None else _source(path, container, form)
    text = head_text(path).lstrip()
    return _object(path, text, forced, images) if text.startswith("{") else None


def _source(path: Path, container: Container, form: Format) -> Source:
    return Source(path, container.name, form, lambda: container.rows(path), path.parent)


def _object(path: Path, text: str, forced: Format | None, images: Path | None) -> Source | None:
    """A JSON object: a document such as COCO's, one record, or one list of records under a key."""
    heads = top_level(text)
    for form in FORMATS:
        read = form.read
        if form.document is not None and read is not None and (form is forced or (not forced and form.document(heads))):
            return Source(path, "JSON", form, partial(read, path, images), path.parent)
    if one := forced or _form([heads]):
        content = read_json_object(path)
        if one.recognise(content):
            return Source(path, "JSON", one, lambda: iter([Row(path.name, content)]), path.parent)
    for key, first in heads.items():
        if isinstance(first, dict) and (one := forced or _form([first])):
            return Source(path, f"JSON, list {key!r}", one, partial(_listed, path, key), path.parent)
    return None


def _listed(path: Path, key: str) -> Rows:
    for number, fields in enumerate(read_json_object(path)[key]):
        where = f"{path.name}: {key} {number}"
        yield Row(where, fields) if isinstance(fields, dict) else (where, RecordError("not_object", "not an object"))


def _form(rows: list[JsonObject]) -> Format | None:
    """The first format that recognises one of the first records."""
    return next((form for form in FORMATS if any(map(form.recognise, rows))), None)


# --- folders -------------------------------------------------------------------------------------


def _folder(folder: Path, forced: Format | None, split: str | None, images: Path | None) -> Source | None:
    files = _data_files(folder, split)
    if not files:
        return _image_folder(folder)
    sources = [source for file in _representative(files) if (source := _file(file, forced, images)) is not None]
    if not sources:
        return None
    first = sources[0]
    if len({source.format.name for source in sources}) > 1:
        listed = ", ".join(f"{source.path.relative_to(folder)} ({source.format.name})" for source in sources[:6])
        raise InputError(f"{folder} has files of several formats: give one of {listed}")
    if first.format.document is not None:
        return _only(folder, [source for file in files if (source := _document(file, images)) is not None])
    return Source(folder, f"folder of {first.container}", first.format, lambda: _rows_of(folder, files, forced), folder)


def _data_files(folder: Path, split: str | None) -> list[Path]:
    """The data files of a folder, sorted. Raises InputError if it has several splits and none is chosen."""
    every = (path for path in folder.rglob("*") if _DATA.search(path.name) and path.name not in _NOT_DATA)
    files = sorted(p for p in every if p.is_file() and not any(x[:1] == "." for x in p.relative_to(folder).parts))
    splits = {path: _split_of(path.relative_to(folder).as_posix()) for path in files}
    names = sorted({name for name in splits.values() if name is not None})
    if split is not None and names:
        split = split_name(split)
        if split not in names:
            raise InputError(f"{folder} has no such split: it has {', '.join(names)}")
        return [path for path in files if splits[path] == split]
    if len(names) > 1:
        raise InputError(f"{folder} has the splits {', '.join(names)}: choose one with --split")
    return files


def _split_of(name: str) -> str | None:
    found = _SPLIT.search(name)
    return split_name(found[1]) if found else None


def split_name(name: object) -> str | None:
    """The usual name of a split: train, validation or test; None for anything else."""
    name = {"val": "validation", "valid": "validation", "dev": "validation"}.get(str(name), name)
    return str(name) if name in ("train", "validation", "test") else None


def _representative(files: list[Path]) -> list[Path]:
    """A few files of each kind: a folder may have a hundred thousand annotation files."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault("".join(file.suffixes[-2:]).lower() if file.suffix == ".gz" else file.suffix, []).append(file)
    return [file for group in groups.values() for file in group[:4]]


def _document(path: Path, images: Path | None) -> Source | None:
    source = _file(path, None, images)
    if source is None or (source.format is rsvqa.RSVQA and "questions" not in top_level(head_text(path))):
        return None
    return source


def _only(folder: Path, sources: list[Source]) -> Source | None:
    if len(sources) > 1:
        raise InputError(f"{folder} has several files: give one of {', '.join(str(s.path) for s in sources[:6])}")
    return sources[0] if sources else None


def _rows_of(folder: Path, files: list[Path], forced: Format | None) -> Rows:
    """The rows of all files; image paths become relative to the folder."""
    for file in files:
        source = _file(file, forced, None)
        parent = file.parent.relative_to(folder).as_posix()
        if source is None:
            yield file.name, RecordError("bad_json", "the file is in no format that is known")
            continue
        for row in source.rows():
            if isinstance(row, tuple) or parent == ".":
                yield row
            else:
                yield Row(f"{parent}/{row.where}", _below(row.fields, parent, folder))


def _below(fields: JsonObject, parent: str, folder: Path) -> JsonObject:
    """The fields with `file_name` relative to the folder instead of its own metadata file, as in image folders."""
    name = fields.get("file_name")
    if isinstance(name, str) and not (folder / name).exists() and not name.startswith("/"):
        return fields | {"file_name": f"{parent}/{name}"}
    return fields


def _image_folder(folder: Path) -> Source | None:
    """A folder of images in one folder per class."""

    def rows() -> Rows:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.suffix.lower() in IMAGES and len(name.parts) > 1 and path.is_file():
                yield Row(name.as_posix(), {"file_name": name.as_posix(), "label": name.parts[-2].replace("_", " ")})

    if next(itertools.islice(rows(), 1), None) is None:
        return None
    return Source(folder, "image folder", tables.TABLE, rows, folder)
