"""scores.json → promote or stop: thresholds, honest margins, and no regression against what is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vhm.errors import InputError
from vhm.evaluate.tasks import find_task
from vhm.recipe import GateRecipe


@dataclass(frozen=True)
class Check:
    """One question that the gate asks: `value` must reach `least`."""

    name: str
    value: float | None
    least: float

    @property
    def passed(self) -> bool:
        return self.value is not None and self.value >= self.least

    def __str__(self) -> str:
        seen = "missing" if self.value is None else f"{self.value:.3f}"
        return f"{self.name} is {seen}, {'at least' if self.passed else 'must be at least'} {self.least:.3f}"


def gate(candidate: dict[str, Any], settings: GateRecipe, baseline: dict[str, Any] | None = None) -> list[Check]:
    """All checks of `candidate` (a scores.json) in order. The model may be promoted when all have passed.

    Raises InputError when the scores lack their form, or a baseline was scored on other data.
    """
    tasks = _tasks(candidate, "candidate")
    checks = [Check(name, _figure(tasks, name), least) for name, least in settings.thresholds.items()]
    for against, names in (("majority", settings.beat_majority), ("blind", settings.beat_blind)):
        for name in names:
            low = tasks.get(find_task(name).name, {}).get(f"margin_{against}_low")
            checks.append(Check(f"{name}: 95 % low end of the margin over {against}", low, 1e-9))
    if baseline is not None:
        checks += _regressions(tasks, _tasks(baseline, "baseline"), candidate, baseline, settings.max_regression)
    return checks


def _regressions(
    tasks: dict[str, Any], before: dict[str, Any], candidate: dict[str, Any], baseline: dict[str, Any], allowed: float
) -> list[Check]:
    for name in ("data_sha256", "mode"):
        if candidate.get(name) and baseline.get(name) and candidate[name] != baseline[name]:
            raise InputError(f"candidate and baseline differ in {name}: their figures cannot be compared")
    checks = []
    for name, old in before.items():
        figure = old.get("figure")
        if figure:
            checks.append(
                Check(f"{name}.{figure} against the baseline", tasks.get(name, {}).get(figure), old[figure] - allowed)
            )
    return checks


def _figure(tasks: dict[str, Any], name: str) -> float | None:
    task, _, figure = name.partition(".")
    if not figure:
        raise InputError(f"gate threshold {name!r}: write it as TASK.FIGURE")
    return tasks.get(find_task(task).name, {}).get(figure)


def _tasks(scores: dict[str, Any], which: str) -> dict[str, Any]:
    tasks = scores.get("tasks") if isinstance(scores, dict) else None
    if not isinstance(tasks, dict):
        raise InputError(f"the {which} is not a scores.json: it has no 'tasks'")
    return tasks
