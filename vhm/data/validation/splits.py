"""The folder of a validation's unfinished work, and splits of the work that are merged when all are finished.

OUT/chunks/request.json    what was requested, see `RequestKey`, and which split of it
OUT/chunks/records/ …      results of both passes (`chunks`), and the fingerprints of `evaluation_images`
OUT/chunks/finished.json   the chunks of both passes; written last, it marks the split as finished

Work on another request is never deleted unless the user asks for it, and OUT must be a validation's own folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vhm.data.arrow import spare_pandas
from vhm.data.validation.chunks import check_images, check_records, unique_keys
from vhm.data.validation.evaluation_images import EvaluationImages, fingerprint_evaluation
from vhm.data.validation.request import RequestKey, ValidationRequest
from vhm.errors import InputError
from vhm.io import JsonObject, check_output_directory, read_json_object, write_json
from vhm.processes import workers

CHUNKS = "chunks"
VALIDATION = "validation.json"

_REQUEST = "request.json"
_FINISHED = "finished.json"


@dataclass(frozen=True)
class CheckedSplit:
    """The chunks of a finished split in order: of its records and of their images; what these were compared with."""

    records: list[Path]
    images: list[Path]
    evaluation: EvaluationImages | None


def check_split(
    request: ValidationRequest, out: Path, split: tuple[int, int] = (0, 1), restart: bool = False
) -> CheckedSplit:
    """Check split i of n of the records and their images; what was checked before an interruption is kept.

    `restart` deletes unfinished work on another request. Raises InputError if there is such work, if `out` is not a
    validation's folder, or if a list or too many evaluation images cannot be read; StorageError if a store fails.
    """
    _check_stores(request)
    folder = _prepare_folder(request, out, split, restart)
    evaluation = None
    if request.against and not request.skip_images:
        evaluation = fingerprint_evaluation(request, folder)
    spare_pandas()
    with workers(None, spare_pandas) as processes:
        records = check_records(request, folder, _span(request, split), processes)
        images: list[Path] = []
        if not request.skip_images:
            keys, _ = unique_keys(records)
            images = check_images(request, folder, keys, evaluation, processes)
    content = {
        "records": [chunk.name for chunk in records],
        "images": [chunk.name for chunk in images],
        "evaluation": evaluation and asdict(evaluation),
    }
    write_json(folder / _FINISHED, content)
    return CheckedSplit(records, images, evaluation)


def read_splits(splits: Sequence[Path], request: ValidationRequest) -> CheckedSplit:
    """All splits as one. Raises InputError unless together they are one complete run of `request`."""
    numbers: dict[tuple[int, int], CheckedSplit] = {}
    for out in splits:
        split, checked = _read_split(out, request)
        if split in numbers:
            raise InputError(f"{out} is split {split[0]}/{split[1]}, as another one is: merge each split once")
        numbers[split] = checked
    count = next(iter(numbers))[1]
    for number in range(count):
        if (number, count) not in numbers:
            first, last = _span(request, (number, count))
            raise InputError(
                f"records {first} to {last} are missing from the splits: merge split {number}/{count}, too"
            )
    other = next((split for split in numbers if split[1] != count), None)
    if other is not None:
        raise InputError(f"split {other[0]}/{other[1]} is none of the {count} others: merge the splits of one run")
    ordered = [numbers[number, count] for number in range(count)]
    contents = {one.evaluation and one.evaluation.content for one in ordered}
    if len(contents) > 1:
        raise InputError("the splits were compared with different evaluation images: check them again with the same")
    return CheckedSplit(
        [chunk for one in ordered for chunk in one.records],
        [chunk for one in ordered for chunk in one.images],
        ordered[0].evaluation,
    )


def check_own_folder(out: Path) -> None:
    """Raise InputError unless `out` is new, empty, or has a validation, finished or not."""
    folder = out / CHUNKS
    if (folder / _REQUEST).is_file():
        return
    if folder.is_dir() and [*map(str, out.iterdir())] == [str(folder)] and not any(folder.glob("[!.]*")):
        return  # ended when it began to write its request
    check_output_directory(out, VALIDATION)


def _check_stores(request: ValidationRequest) -> None:
    """Raise InputError, before anything is checked, if a store that the user names does not exist."""
    from vhm.data.images.stores import open_store

    if request.against_images is not None:
        open_store(request.against_images)
    if not request.skip_images:
        open_store(request.images)
    list(request.evaluation_lists)  # opens the lists


def _span(request: ValidationRequest, split: tuple[int, int]) -> tuple[int, int]:
    """The first record of a split, and the first after it."""
    total = sum(map(len, request.lists))
    return total * split[0] // split[1], total * (split[0] + 1) // split[1]


def _prepare_folder(request: ValidationRequest, out: Path, split: tuple[int, int], restart: bool) -> Path:
    check_own_folder(out)
    folder = out / CHUNKS
    known = _read_request(folder)
    if known is not None:
        differences = request.key.differences(known[0])
        if known[1] != split:
            differences.append(f"split ({known[1][0]}/{known[1][1]} then, {split[0]}/{split[1]} now)")
        if differences and not restart:
            state = "a finished split" if (folder / _FINISHED).is_file() else "the unfinished work"
            raise InputError(
                f"{out} has {state} of another validation, which differs in {', '.join(differences)}: "
                "use another --out, or --restart to delete it"
            )
        if differences:
            shutil.rmtree(folder)
    (folder / "records").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    (folder / _FINISHED).unlink(missing_ok=True)
    write_json(folder / _REQUEST, {"key": request.key.to_dict(), "split": split})
    return folder


def _read_request(folder: Path) -> tuple[RequestKey, tuple[int, int]] | None:
    """What the work in a folder was requested as; None if there is no work."""
    path = folder / _REQUEST
    if not path.is_file():
        return None
    content = read_json_object(path)
    try:
        number, count = content["split"]
        return RequestKey.from_dict(content["key"]), (int(number), int(count))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} is damaged: delete the folder {folder}") from None


def _read_split(out: Path, request: ValidationRequest) -> tuple[tuple[int, int], CheckedSplit]:
    folder = out / CHUNKS
    known = _read_request(folder)
    if known is None:
        raise InputError(f"{out} has no folder {CHUNKS}/: create it with `vhm validate --shard`")
    key, split = known
    differences = request.key.differences(key)
    if differences:
        raise InputError(f"{out} was made from another validation, which differs in {', '.join(differences)}")
    if not (folder / _FINISHED).is_file():
        raise InputError(f"{out} is not finished: run `vhm validate --shard {split[0]}/{split[1]}` on it again")
    content: JsonObject = read_json_object(folder / _FINISHED)
    evaluation = content["evaluation"]
    checked = CheckedSplit(
        [folder / "records" / name for name in content["records"]],
        [folder / "images" / name for name in content["images"]],
        None if evaluation is None else EvaluationImages.from_dict(evaluation),
    )
    return split, checked


def remove_work(out: Path) -> None:
    """Delete the folder of a validation that is finished."""
    folder = out / CHUNKS
    trash = out / f".{CHUNKS}.{os.getpid()}.partial"
    if folder.is_dir():
        os.replace(folder, trash)  # at once: half a folder would look like unfinished work
    shutil.rmtree(trash, ignore_errors=True)
