"""Questions → predictions/TASK.jsonl: in batches, kept as they come, resumed where they stopped.

A shard (i, n) takes every n-th question; the rows carry their place, so that shards merge into the
file that one run would have written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from vhm.artifacts.lineage import content_hash
from vhm.data.encode import IMAGE_MARKER
from vhm.data.images import load_image
from vhm.data.images.stores import ImageStore, open_store
from vhm.data.records import check_turns, image_name
from vhm.errors import CheckpointError, ImageError, InputError, RecordError
from vhm.evaluate.tasks import Task
from vhm.inference.generator import Failure, Generation, Generator, Question, Sampling
from vhm.io import jsonl, read_json, read_jsonl, sha256_tree, write_bytes, write_json
from vhm.progress import track
from vhm.recipe import EvaluationRecipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskQuestion:
    """`index` is its place in the task's file; `image` its picture's name below the directory."""

    index: int
    image: str
    text: str
    answer: str
    size: list[int]


def questions(task: Task, directory: Path) -> list[TaskQuestion]:
    """The task's questions. InputError names the record that is unusable."""
    file = directory / task.file
    records = read_json(file)
    if not isinstance(records, list):
        raise InputError(f"{file} is not a JSON array of records")
    root = open_store(directory)
    made = []
    for index, record in enumerate(records):
        try:
            (_, text), (_, answer), *_ = check_turns(record)
            image = image_name(record)
        except RecordError as error:
            raise InputError(f"{file} record {index}: {error}") from None
        if image is None:
            raise InputError(f"{file} record {index} names no image")
        text = text.replace(IMAGE_MARKER, "").strip()
        made.append(
            TaskQuestion(index, image, text, answer, record.get("size") or list(load_image(root.read(image)).size))
        )
    return made


def predict(
    model: Path,
    directory: Path,
    out: Path,
    tasks: list[Task],
    settings: EvaluationRecipe,
    shard: tuple[int, int] = (0, 1),
    resume: bool = False,
) -> None:
    """Write `out`/predictions/TASK.jsonl for each task, and …/TASK.blind.jsonl for the blind ones.

    With `resume`, rows already there are kept when they come from the same model, data and settings; otherwise CheckpointError. A question that fails leaves a row with `pred` null and an `error`.
    """
    folder = out / "predictions"
    key = {
        "model": content_hash(model),
        "data": sha256_tree(directory),
        "max_new_tokens": settings.max_new_tokens,
        "shard": list(shard),
    }
    _prepare(folder, key, resume)
    blind = {task.name for task in tasks if task.name in settings.blind or task.key in settings.blind}
    work = [(task, False) for task in tasks] + [(task, True) for task in tasks if task.name in blind]
    generator = Generator(model)
    store = open_store(directory)
    for number, (task, without_picture) in enumerate(work, start=1):
        path = predictions_file(folder, task, without_picture)
        done = {row["index"] for row in read_jsonl(path)} if path.exists() else set()
        own = questions(task, directory)[shard[0] :: shard[1]]
        left = [question for question in own if question.index not in done]
        batches = [left[i : i + settings.batch_size] for i in range(0, len(left), settings.batch_size)]
        what = f"{task.name}{' without the picture' if without_picture else ''}"
        log.info("evaluate %d of %d: %s, %d questions", number, len(work), what, len(left))
        with path.open("ab") as file:
            for batch in track(batches, what):
                for row in _answer(generator, store, task, batch, settings.max_new_tokens, without_picture):
                    file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())


def merge_predictions(shards: list[Path], out: Path) -> None:
    """Shards' predictions as one run would have written them. InputError when they differ in what they ran."""
    rows: dict[str, list[dict[str, Any]]] = {}
    keys = []
    for shard in shards:
        folder = shard / "predictions"
        keys.append(read_json(folder / "run.json"))
        for path in sorted(folder.glob("*.jsonl")):
            rows.setdefault(path.name, []).extend(read_jsonl(path))
    bare = [{name: value for name, value in key.items() if name != "shard"} for key in keys]
    if any(key != bare[0] for key in bare):
        raise InputError("the shards were made from different models, data or settings: run them again together")
    for name, found in rows.items():
        found.sort(key=lambda row: row["index"])
        if len({row["index"] for row in found}) != len(found):
            raise InputError(f"{name}: two shards answered the same question")
        write_bytes(out / "predictions" / name, jsonl(found))
    write_json(out / "predictions" / "run.json", bare[0] | {"shard": [0, 1]})


def predictions_file(folder: Path, task: Task, blind: bool = False) -> Path:
    return folder / f"{task.name}{'.blind' if blind else ''}.jsonl"


def _prepare(folder: Path, key: dict[str, Any], resume: bool) -> None:
    record = folder / "run.json"
    if resume and record.exists():
        if read_json(record) != key:
            raise CheckpointError(
                f"{folder} holds predictions of another model, data or setting: use another --out or drop --resume"
            )
        for path in folder.glob("*.jsonl"):
            _drop_torn_line(path)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.jsonl"):
        path.unlink()
    write_json(record, key)


def _drop_torn_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_bytes(path, whole)


def _answer(
    generator: Generator,
    store: ImageStore,
    task: Task,
    batch: list[TaskQuestion],
    max_new_tokens: int,
    blind: bool,
) -> Iterator[dict[str, Any]]:
    """The batch's rows. One bad image or one failing question does not affect the others."""
    results: dict[int, Generation | Failure] = {}
    questions: dict[int, Question] = {}
    for question in batch:
        try:
            image = generator.transform.decode(store.read(question.image))
        except ImageError as error:
            results[question.index] = Failure(str(error))
            continue
        if blind:
            image = np.full_like(image, generator.transform.fill)
        questions[question.index] = Question(image, task.prompt(question.text))
    answers = generator.generate_each(list(questions.values()), Sampling(max_new_tokens))
    results |= zip(questions, answers, strict=True)
    for question in batch:
        result = results[question.index]
        row = {
            "index": question.index,
            "filename": question.image.rpartition("/")[2],
            "size": question.size,
            "query": question.text,
            "answer": question.answer,
            "pred": result.text if isinstance(result, Generation) else None,
        }
        yield row | ({"error": result.reason} if isinstance(result, Failure) else {})
