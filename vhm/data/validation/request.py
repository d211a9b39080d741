"""What a validation checks: lists, image stores and settings, and the key by which finished work is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import orjson

from vhm.artifacts.lineage import code_hash
from vhm.data.images import DEFAULT_LIMITS, Limits
from vhm.data.images.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from vhm.data.importing import recognise
from vhm.data.validation.findings import LEAK_KINDS, FindingKind
from vhm.data.validation.record_checks import Kind
from vhm.data.validation.stream import RecordList, open_list
from vhm.errors import InputError
from vhm.io import JsonObject, sha256_file


@dataclass(frozen=True)
class ValidationRequest:
    """The lists to validate (for "eval" also directories of evaluation files) and their image store.

    `against` are evaluation lists or directories whose images must not occur in the lists. Their image store is
    `against_images`, by default a directory itself, and `images` for a list. `max_text` is in characters;
    `image_options` are the bands and the stretch of each source; `reject` are the findings that reject a record, all
    others are only reported; `max_unreadable` is the share of evaluation images that may be unreadable.
    """

    sources: Sequence[Path]
    images: str | Path
    kind: Kind = "sft"
    against: Sequence[Path] = ()
    against_images: str | Path | None = None
    max_text: int = 20_000
    limits: Limits = DEFAULT_LIMITS
    skip_images: bool = False
    image_options: SourceOptions = DEFAULT_SOURCE_OPTIONS
    reject: Sequence[FindingKind] = LEAK_KINDS
    max_unreadable: float = 0.0

    @cached_property
    def lists(self) -> list[RecordList]:
        return [records for source in self.sources for records in open_lists(source, self.kind)]

    @cached_property
    def evaluation_lists(self) -> list[tuple[str | Path, RecordList]]:
        """The lists whose images must not occur in `lists`, each with the location of its image store."""
        return [
            (self.against_images or (source if source.is_dir() else self.images), records)
            for source in self.against
            for records in open_lists(source, "eval")
        ]

    def require_lists(self) -> None:
        """Open the lists now, before other work. Raises InputError if one cannot be read."""
        _ = self.lists

    @cached_property
    def key(self) -> RequestKey:
        return RequestKey(
            lists=tuple((records.path.name, sha256_file(records.path)) for records in self.lists),
            evaluation=tuple((records.path.name, sha256_file(records.path)) for _, records in self.evaluation_lists),
            settings=orjson.loads(
                orjson.dumps(
                    {
                        "kind": self.kind,
                        "max_text": self.max_text,
                        "limits": self.limits,
                        "skip_images": self.skip_images,
                        "image_options": self.image_options,
                    }
                )
            ),
            code=code_hash(),
        )


@dataclass(frozen=True)
class RequestKey:
    """Everything that the results of chunks depend on, by content: (name, sha256) of each list, settings, code.

    Where lists and images are is no part of it: the names of lists are for messages only. Images are known by their
    stamps, see `ImageStore`.
    """

    lists: tuple[tuple[str, str], ...]
    evaluation: tuple[tuple[str, str], ...]
    settings: JsonObject
    code: str

    @classmethod
    def from_dict(cls, content: JsonObject) -> RequestKey:
        """The key that `to_dict` made. Raises KeyError or TypeError for anything else."""
        lists, evaluation = (
            tuple((str(name), str(digest)) for name, digest in content[field]) for field in ("lists", "evaluation")
        )
        return cls(lists, evaluation, dict(content["settings"]), str(content["code"]))

    def to_dict(self) -> JsonObject:
        return asdict(self)

    def differences(self, other: RequestKey) -> list[str]:
        """What differs in `other`, in words; empty if the work on both is the same."""
        found = []
        for what, own, others in (
            ("list", self.lists, other.lists),
            ("evaluation list", self.evaluation, other.evaluation),
        ):
            if [digest for _, digest in own] != [digest for _, digest in others]:
                found.append(_difference_of_lists(what, own, others))
        settings = sorted(self.settings.keys() | other.settings.keys())
        pairs = [(name, other.settings.get(name), self.settings.get(name)) for name in settings]
        changed = [f"{name} was {before}, is {now}" for name, before, now in pairs if before != now]
        if changed:
            found.append(f"settings ({'; '.join(changed)})")
        if self.code != other.code:
            found.append(f"code ({other.code[:12]} then, {self.code[:12]} now)")
        return found


def open_lists(source: Path, kind: Kind) -> list[RecordList]:
    """The list file; for "eval" also every evaluation file of a directory."""
    if not source.is_dir():
        return [_open(source)]
    if kind != "eval":
        _refuse_foreign(source)
        raise InputError(f"{source} is a directory: give a list file, or --kind eval")
    files = sorted(source.glob("*.json"))
    if not files:
        raise InputError(f"{source} contains no evaluation file (*.json)")
    return [_open(file) for file in files]


def _open(path: Path) -> RecordList:
    """The list file. Raises InputError, which names the command that converts it, for a file in a foreign format."""
    _refuse_foreign(path)
    return open_list(path)


def _refuse_foreign(path: Path) -> None:
    foreign = recognise(path)
    if foreign is not None:
        raise InputError(f"{path} is no list, but {foreign}: convert it with `vhm data import {path} --out DIR`")


def _difference_of_lists(what: str, own: tuple[tuple[str, str], ...], others: tuple[tuple[str, str], ...]) -> str:
    if len(own) != len(others):
        return f"{what} ({len(others)} then, {len(own)} now)"
    pairs = zip(own, others, strict=True)
    [name, digest, before] = next((name, digest, old) for (name, digest), (_, old) in pairs if digest != old)
    return f"{what} ({name} had sha256 {before[:12]}, has {digest[:12]})"
