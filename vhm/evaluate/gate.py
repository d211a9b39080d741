"""scores.json → promote or stop: thresholds, margins over the baselines, no regression against the deployed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vhm.errors import InputError
from vhm.evaluate.answer_types import find_answer_type
from vhm.evaluate.tasks import TASKS, Task, find_task, find_type
from vhm.recipe import GateRecipe


@dataclass(frozen=True)
class Check:
    """One condition of promotion: `value` must reach `least`; it is None if the scores lack it."""

    name: str
    value: float | None
    least: float

    @property
    def passed(self) -> bool:
        return self.value is not None and self.value >= self.least

    def __str__(self) -> str:
        value = "missing" if self.value is None else f"{self.value:.3f}"
        return f"{self.name} is {value}, {'at least' if self.passed else 'must be at least'} {self.least:.3f}"


def gate(
    candidate: object, settings: GateRecipe, baseline: object = None, tasks: Sequence[Task] = TASKS
) -> list[Check]:
    """All checks of `candidate` (a scores.json) in order. The model may be promoted when all have passed.

    `tasks` are those that the settings may name.

    Raises InputError when a scores.json has the wrong form, or a baseline was scored on other data.
    """
    scores = _Scores.parse(candidate, "candidate")
    checks = [_threshold(scores, name, least, tasks) for name, least in settings.thresholds.items()]
    for against, names in (("majority", settings.beat_majority), ("blind", settings.beat_blind)):
        for name in names:
            low = scores.metric(find_task(name, tasks).name, f"margin_{against}_low")
            checks.append(Check(f"{name}: 95 % low end of the margin over {against}", low, 1e-9))
    if baseline is not None:
        checks += _regressions(scores, _Scores.parse(baseline, "baseline"), settings.max_regression, tasks)
    return checks


@dataclass(frozen=True)
class _Scores:
    """The content of a scores.json that the gate uses: data, profile, and the fields of each task."""

    conditions: Mapping[str, object]
    tasks: Mapping[str, Mapping[str, object]]

    @classmethod
    def parse(cls, content: object, role: str) -> _Scores:
        tasks = content.get("tasks") if isinstance(content, dict) else None
        if not (isinstance(content, dict) and isinstance(tasks, dict)):
            raise InputError(f"the {role} is not a scores.json: it has no 'tasks'")
        unusable = [name for name, fields in tasks.items() if not isinstance(fields, dict)]
        if unusable:
            raise InputError(f"the {role} is not a scores.json: its task {unusable[0]!r} is not an object")
        return cls({name: content.get(name) for name in ("data_sha256", "mode")}, tasks)

    def metric(self, task: str, name: str) -> float | None:
        value = self.tasks.get(task, {}).get(name)
        return value if isinstance(value, int | float) else None


def _threshold(scores: _Scores, name: str, least: float, tasks: Sequence[Task]) -> Check:
    task, _, metric = name.partition(".")
    if not metric:
        raise InputError(f"gate threshold {name!r}: write it as TASK.METRIC")
    return Check(name, scores.metric(find_task(task, tasks).name, metric), least)


def _regressions(candidate: _Scores, baseline: _Scores, allowed: float, tasks: Sequence[Task]) -> list[Check]:
    """For each task of the baseline: the primary metric may be lower by `allowed` at most."""
    for name, value in baseline.conditions.items():
        if value and candidate.conditions[name] and candidate.conditions[name] != value:
            raise InputError(f"candidate and baseline differ in {name}: their metrics cannot be compared")
    checks = []
    for task, fields in baseline.tasks.items():
        metric = find_answer_type(find_type(str(fields.get("type", task)), tasks)).primary_metric
        before = baseline.metric(task, metric)
        if before is not None:
            name = f"{task}.{metric} against the baseline"
            checks.append(Check(name, candidate.metric(task, metric), before - allowed))
    return checks
