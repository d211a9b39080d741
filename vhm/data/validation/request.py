"""What a validation checks: lists, image stores and settings, and the identity by which finished work is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson

from vhm.artifacts.lineage import code_hash
from vhm.data.images import DEFAULT_LIMITS, Limits
from vhm.data.images.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from vhm.data.validation.record_checks import Kind
from vhm.data.validation.stream import RecordList, open_list
from vhm.errors import InputError
from vhm.io import sha256_file


@dataclass(frozen=True)
class ValidationRequest:
    """The lists to validate (for "eval" also directories of evaluation files) and their image store.

    `against` are evaluation lists or directories whose images must not occur in the lists, `against_images` their
    image store if it is not `images`. `max_text` is in characters; `image_options` are the bands and the stretch
    of each source.
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

    @cached_property
    def lists(self) -> list[RecordList]:
        return [records for source in self.sources for records in open_lists(source, self.kind)]

    @cached_property
    def evaluation_lists(self) -> list[tuple[str | Path, RecordList]]:
        """The lists whose images must not occur in `lists`, each with the location of its image store."""
        others = self.against_images or self.images
        return [
            (source if source.is_dir() else others, records)
            for source in self.against
            for records in open_lists(source, "eval")
        ]

    @cached_property
    def key(self) -> str:
        """A hash of everything that a chunk's results depend on, except the contents of images."""
        inputs = [
            [sha256_file(records.path) for records in self.lists],
            [str(self.images), self.kind, self.max_text, repr(self.limits), self.skip_images, repr(self.image_options)],
            [[str(images), sha256_file(records.path)] for images, records in self.evaluation_lists],
            code_hash(),
        ]
        return hashlib.sha256(orjson.dumps(inputs)).hexdigest()


def open_lists(source: Path, kind: Kind) -> list[RecordList]:
    """The list file; for "eval" also every evaluation file of a directory."""
    if not source.is_dir():
        return [open_list(source)]
    if kind != "eval":
        raise InputError(f"{source} is a directory: give a list file, or --kind eval")
    files = sorted(source.glob("*.json"))
    if not files:
        raise InputError(f"{source} contains no evaluation file (*.json)")
    return [open_list(file) for file in files]
