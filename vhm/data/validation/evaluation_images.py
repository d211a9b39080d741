"""The evaluation images that training images are compared with: read once, kept as fingerprints.

FOLDER/evaluation-STAMP.npz   fingerprints of the images that can be read, for `load_finder`
FOLDER/evaluation.json        the images that cannot, and what both files were made from: images that have not changed
                              since are not read again

An evaluation image that cannot be read cannot be found in the training lists. So above a stated share of them the
validation ends, instead of reporting that there are no leaks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.data.images import load_pixels
from vhm.data.images.stores import ImageStore, open_store
from vhm.data.records import image_name, source_name
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.stream import RecordList, parse_record, read_records
from vhm.errors import ImageError, InputError, RecordError
from vhm.io import JsonObject, read_json_object, write_json
from vhm.processes import threads
from vhm.progress import track

if TYPE_CHECKING:
    from vhm.data.validation.similarity import Fingerprint

log = logging.getLogger(__name__)

_EXAMPLES = 3
_THREADS = 16


@dataclass(frozen=True)
class EvaluationImages:
    """`stamp` changes when an image does. `content` is a hash of the images' bytes: it is the same on all machines.

    `images` is the number of images that the lists name, `unreadable` says which of them cannot be read, and why.
    """

    stamp: str
    content: str
    images: int
    unreadable: tuple[str, ...]

    @classmethod
    def from_dict(cls, fields: JsonObject) -> EvaluationImages:
        return cls(fields["stamp"], fields["content"], fields["images"], tuple(fields["unreadable"]))


def fingerprint_evaluation(request: ValidationRequest, folder: Path) -> EvaluationImages:
    """Fingerprint the evaluation images into `folder`, unless that was done and they have not changed.

    Raises InputError when more than `request.max_unreadable` of them cannot be read, or when there are none.
    """
    images = _images(request)
    if not images:
        names = ", ".join(str(source) for source in request.against)
        raise InputError(f"{names} names no image: give evaluation lists to compare with, or leave --against out")
    stores = {location: open_store(location) for location, _, _ in images}
    with threads(_THREADS) as pool:
        stamp = _stamp(images, stores, pool)
        path = folder / "evaluation.json"
        known = EvaluationImages.from_dict(read_json_object(path)) if path.is_file() else None
        if known is None or known.stamp != stamp:
            known = _fingerprint(request, images, stores, stamp, fingerprints_file(folder, stamp), pool)
            write_json(path, asdict(known))
    _check_unreadable(known, request)
    return known


def fingerprints_file(folder: Path, stamp: str) -> Path:
    """The fingerprints that `fingerprint_evaluation` wrote of images with this stamp."""
    return folder / f"evaluation-{stamp[:16]}"


_Image = tuple[str | Path, str, str]  # location of the store, name, source


def _images(request: ValidationRequest) -> list[_Image]:
    """The images of the well-formed records of the evaluation lists, each once."""
    return list(
        dict.fromkeys(
            (location, name, source)
            for location, records in request.evaluation_lists
            for name, source in _image_names(records)
        )
    )


def _image_names(records: RecordList) -> Iterator[tuple[str, str]]:
    for raw in read_records(records.path, records.starts, records.ends):
        try:
            record = parse_record(raw)
            name = image_name(record) if isinstance(record, dict) else None
        except RecordError:
            continue
        if isinstance(record, dict) and name is not None:
            yield name, source_name(record)


def _stamp(images: list[_Image], stores: Mapping[str | Path, ImageStore], pool: ThreadPoolExecutor) -> str:
    def stamp(image: _Image) -> str:
        location, name, source = image
        try:
            return f"{name}\0{source}\0{stores[location].stamp(name)}"
        except ImageError as error:
            return f"{name}\0{source}\0{error.reason}"

    return hashlib.sha256("\n".join(pool.map(stamp, images)).encode()).hexdigest()


def _fingerprint(
    request: ValidationRequest,
    images: list[_Image],
    stores: Mapping[str | Path, ImageStore],
    stamp: str,
    path: Path,
    pool: ThreadPoolExecutor,
) -> EvaluationImages:
    from vhm.data.validation.similarity import fingerprint, save_fingerprints

    def read(image: _Image) -> Fingerprint | ImageError:
        location, name, source = image
        try:
            content = stores[location].read(name)
            options = request.image_options.of(source)
            return fingerprint(content, load_pixels(content, request.limits, options=options))
        except ImageError as error:
            return error

    results = list(track(pool.map(read, images), "fingerprinting evaluation images", len(images)))
    named = [(name, result) for (_, name, _), result in zip(images, results, strict=True)]
    readable = [(name, result) for name, result in named if not isinstance(result, ImageError)]
    save_fingerprints(path, readable)
    content = hashlib.sha256("\n".join(f"{name}\0{one.sha256}" for name, one in readable).encode()).hexdigest()
    unreadable = tuple(f"{name} ({result.reason})" for name, result in named if isinstance(result, ImageError))
    return EvaluationImages(stamp, content, len(images), unreadable)


def _check_unreadable(known: EvaluationImages, request: ValidationRequest) -> None:
    count = len(known.unreadable)
    if not count:
        return
    share = count / known.images
    stores = ", ".join(store_locations(request))
    examples = ", ".join(known.unreadable[:_EXAMPLES])
    found = f"{count} of {known.images} evaluation images cannot be read from {stores}: {examples}"
    if share > request.max_unreadable:
        raise InputError(
            f"{found}{', …' if count > _EXAMPLES else ''}; leaks of them would not be found: give their root with "
            f"--against-images, or allow a share of {share:.3g} with data.max_unreadable (now "
            f"{request.max_unreadable:g})"
        )
    log.warning("%s; they are not compared", found)


def store_locations(request: ValidationRequest) -> list[str]:
    """Where the evaluation images are read from."""
    return list(dict.fromkeys(str(location) for location, _ in request.evaluation_lists))
