"""Questions → predictions/TASK.jsonl: in batches, each written as soon as it is generated, resumed where it stopped.

A split (i, n) takes every n-th question from the i-th on. Rows carry the question's index, so that splits merge into
the file that one run would have written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson

from vhm.artifacts.lineage import content_hash
from vhm.data.images import load_image
from vhm.data.images.stores import ImageStore, open_store
from vhm.data.records import IMAGE_MARKER, check_turns, image_name, source_name
from vhm.errors import CheckpointError, ImageError, InputError, RecordError
from vhm.evaluate.predictions import (
    Prediction,
    RunKey,
    predictions_file,
    read_predictions,
    read_run_key,
    write_run_key,
)
from vhm.evaluate.tasks import Task, find_task, task_table
from vhm.inference.generator import Failure, Generation, Generator, Question, Sampling
from vhm.io import jsonl, read_json, sha256_tree, write_bytes
from vhm.progress import track
from vhm.recipe import EvaluationRecipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskQuestion:
    """One record of a task's file: `index` is its position there, `image` the image's name in the image store.

    `source` is the record's source, which may have its own image options.
    """

    index: int
    image: str
    source: str
    text: str
    answer: str
    size: object


@dataclass(frozen=True)
class _Job:
    """A task to generate answers for, with the images or (`blind`) with blank ones."""

    task: Task
    blind: bool

    def __str__(self) -> str:
        return f"{self.task.name}{' without the image' if self.blind else ''}"


def questions(task: Task, directory: Path) -> list[TaskQuestion]:
    """The task's questions. Raises InputError, which names the record that is unusable."""
    file = directory / task.file
    records = read_json(file)
    if not isinstance(records, list):
        raise InputError(f"{file} is not a JSON array of records")
    store = open_store(directory)
    return [_question(record, index, file, store) for index, record in enumerate(records)]


def predict(
    model: Path,
    directory: Path,
    out: Path,
    tasks: list[Task],
    settings: EvaluationRecipe,
    split: tuple[int, int] = (0, 1),
    resume: bool = False,
) -> None:
    """Write `out`/predictions/TASK.jsonl for each task, and …/TASK.blind.jsonl for the blind ones.

    With `resume`, existing rows are kept when they come from the same model, data and settings; otherwise
    CheckpointError. A question that fails leaves a row with `pred` null and an `error`.
    """
    folder = out / "predictions"
    _prepare(folder, RunKey(content_hash(model), sha256_tree(directory), settings.max_new_tokens, split), resume)
    blind = {find_task(name, task_table(settings)) for name in settings.blind}
    jobs = [_Job(task, False) for task in tasks] + [_Job(task, True) for task in tasks if task in blind]
    generator = Generator(model)
    store = open_store(directory)
    for number, job in enumerate(jobs, start=1):
        path = predictions_file(folder, job.task, job.blind)
        done = {prediction.index for prediction in read_predictions(path)} if path.exists() else set()
        own = questions(job.task, directory)[split[0] :: split[1]]
        remaining = [question for question in own if question.index not in done]
        log.info("evaluate %d of %d: %s, %d questions", number, len(jobs), job, len(remaining))
        batches = [remaining[i : i + settings.batch_size] for i in range(0, len(remaining), settings.batch_size)]
        with path.open("ab") as file:
            for batch in track(batches, str(job)):
                for prediction in _generate(generator, store, job, batch, settings.max_new_tokens):
                    file.write(orjson.dumps(prediction.to_json(), option=orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())


def merge_predictions(splits: list[Path], out: Path) -> None:
    """The splits' predictions as one run would have written them. Raises InputError when their runs differ."""
    predictions: dict[str, list[Prediction]] = {}
    keys = []
    for split in splits:
        folder = split / "predictions"
        keys.append(replace(read_run_key(folder), split=(0, 1)))
        for path in sorted(folder.glob("*.jsonl")):
            predictions.setdefault(path.name, []).extend(read_predictions(path))
    if any(key != keys[0] for key in keys):
        raise InputError("the splits were generated from different models, data or settings: run all of them again")
    for name, rows in predictions.items():
        rows.sort(key=lambda row: row.index)
        if len({row.index for row in rows}) != len(rows):
            raise InputError(f"{name}: two splits answered the same question")
        write_bytes(out / "predictions" / name, jsonl([row.to_json() for row in rows]))
    write_run_key(out / "predictions", keys[0])


def _question(record: dict[str, object], index: int, file: Path, store: ImageStore) -> TaskQuestion:
    try:
        (_, text), (_, answer), *_ = check_turns(record)
        image = image_name(record)
    except RecordError as error:
        raise InputError(f"{file} record {index}: {error}") from None
    if image is None:
        raise InputError(f"{file} record {index} names no image")
    size = record.get("size") or list(load_image(store.read(image)).size)
    return TaskQuestion(index, image, source_name(record), text.replace(IMAGE_MARKER, "").strip(), answer, size)


def _prepare(folder: Path, key: RunKey, resume: bool) -> None:
    """Create an empty folder for `key`; with `resume`, keep the rows of an interrupted run with the same key."""
    if resume and (folder / "run.json").exists():
        if read_run_key(folder) != key:
            raise CheckpointError(
                f"{folder} holds predictions of another model, data or setting: use another --out or drop --resume"
            )
        for path in folder.glob("*.jsonl"):
            _drop_torn_line(path)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.jsonl"):
        path.unlink()
    write_run_key(folder, key)


def _drop_torn_line(path: Path) -> None:
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if complete != content:
        write_bytes(path, complete)


def _generate(
    generator: Generator, store: ImageStore, job: _Job, batch: Sequence[TaskQuestion], max_new_tokens: int
) -> Iterator[Prediction]:
    """The batch's predictions. One bad image or one failing question does not affect the others."""
    results: dict[int, Generation | Failure] = {}
    questions: dict[int, Question] = {}
    for question in batch:
        try:
            image = generator.transform.decode(store.read(question.image), source=question.source)
        except ImageError as error:
            results[question.index] = Failure(str(error))
            continue
        if job.blind:
            image = np.full_like(image, generator.transform.fill)
        questions[question.index] = Question(image, job.task.prompt(question.text))
    answers = generator.generate_each(list(questions.values()), Sampling(max_new_tokens))
    results |= zip(questions, answers, strict=True)
    for question in batch:
        yield _prediction(question, results[question.index])


def _prediction(question: TaskQuestion, result: Generation | Failure) -> Prediction:
    return Prediction(
        index=question.index,
        filename=question.image.rpartition("/")[2],
        size=question.size,
        query=question.text,
        answer=question.answer,
        pred=result.text if isinstance(result, Generation) else None,
        error=result.reason if isinstance(result, Failure) else None,
    )
