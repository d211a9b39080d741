"""Predictions files: `predictions/TASK.jsonl` of an evaluation, one JSON object per line, and `predictions/run.json`.

    {"index": 0, "filename": "P0003.png", "size": [512, 512], "query": "…", "answer": "yes", "pred": "Yes."}

`index` is the question's position in the task's file; `pred` is null where generation failed, and `error` says why.
run.json names the model, data and settings that the folder was generated with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vhm.errors import InputError
from vhm.evaluate.answer_types.base import Row
from vhm.evaluate.tasks import Task
from vhm.io import read_json_object, read_jsonl, write_json


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file. `size` is the image's [width, height] as the file has it, unchecked."""

    index: int
    filename: str
    size: object
    query: str
    answer: str
    pred: str | None
    error: str | None = None

    def row(self) -> Row:
        """The part of the prediction that a scorer reads."""
        return Row(self.query, self.answer, self.pred or "", self.size)

    def to_json(self) -> dict[str, object]:
        """The JSON object of the line; `error` only if there is one."""
        line: dict[str, object] = asdict(self)
        if self.error is None:
            del line["error"]
        return line


@dataclass(frozen=True)
class RunKey:
    """What a predictions folder was generated with. `split` is (i, n): every n-th question from the i-th on."""

    model: str
    data: str
    max_new_tokens: int
    split: tuple[int, int]


def parse_predictions(rows: Sequence[Mapping[str, object]]) -> list[Prediction]:
    """Typed rows. Raises InputError, which names the row that lacks a field or has text of another type."""
    return [_parse(number, row) for number, row in enumerate(rows, start=1)]


def read_predictions(path: Path) -> list[Prediction]:
    """The rows of a predictions file. Raises InputError, which names the row that is unusable."""
    return parse_predictions(read_jsonl(path))


def predictions_file(folder: Path, task: Task, blind: bool = False) -> Path:
    return folder / f"{task.name}{'.blind' if blind else ''}.jsonl"


def write_run_key(folder: Path, key: RunKey) -> None:
    write_json(folder / "run.json", asdict(key))


def read_run_key(folder: Path) -> RunKey:
    """The key of a predictions folder. Raises InputError when run.json is absent or lacks a field."""
    path = folder / "run.json"
    content = read_json_object(path)
    try:
        index, count = content["split"]
        return RunKey(
            str(content["model"]), str(content["data"]), int(content["max_new_tokens"]), (int(index), int(count))
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} lacks model, data, max_new_tokens or split: generate the predictions again") from None


def _parse(number: int, row: Mapping[str, object]) -> Prediction:
    missing = [name for name in ("query", "answer", "pred") if name not in row]
    if missing:
        raise InputError(f"row {number} lacks {', '.join(missing)}")
    query, pred, index, error = row["query"], row["pred"], row.get("index"), row.get("error")
    if not isinstance(query, str) or not isinstance(pred, str | None):
        raise InputError(f"row {number}: 'query' and 'pred' must be text")
    return Prediction(
        index=index if isinstance(index, int) else number - 1,
        filename=str(row.get("filename", "")),
        size=row.get("size"),
        query=query,
        answer=str(row["answer"]),
        pred=pred,
        error=None if error is None else str(error),
    )
