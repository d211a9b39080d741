"""`evaluation` and `gate`: what is generated and scored, and what a model must reach to be promoted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vhm.recipe.section import Name, PositiveInt, Section, Share


class CustomTask(Section):
    """A task of your own; its name is the key, and stands wherever the name of a published task does."""

    file: Name = Field(description="name of a JSON file in the evaluation directory")
    type: Name = Field(description="answer type, which says how answers are scored: mc, presence, vqa, bbox, …")
    tag: Literal["CLS", "VQA", "VG", "IDK", "IT"] = Field("VQA", description="what the prompt has in braces")
    deceptive: bool = Field(False, description="the questions rest on a false premise, which an honest model denies")


class EvaluationRecipe(Section):
    """What is generated and how it is scored."""

    tasks: Annotated[list[Name], Field(min_length=1)] | Literal["all"] = Field(
        "all", description='task names; "all": every task whose file is in the evaluation directory'
    )
    custom_tasks: dict[Name, CustomTask] = Field(default_factory=dict, description="tasks of your own, by name")
    blind: list[Name] = Field(default_factory=list, description="tasks that are also asked without the image")
    splits: PositiveInt = Field(1, description="number of splits of the questions, answered in parallel")
    batch_size: PositiveInt = Field(16, description="questions per batch")
    max_new_tokens: PositiveInt = Field(512, description="tokens of an answer, at most")
    mode: Literal["strict", "rsevalkit"] = Field("strict", description="scoring profile")
    bootstrap: PositiveInt = Field(2000, description="resamples of a bootstrap interval")


class GateRecipe(Section):
    """What a model must reach to be promoted.

    A margin's 95 % interval over a baseline must exclude zero.
    """

    thresholds: dict[str, float] = Field(default_factory=dict, description="lowest value of each TASK.METRIC")
    beat_majority: list[Name] = Field(default_factory=list, description="tasks that must beat the majority class")
    beat_blind: list[Name] = Field(default_factory=list, description="tasks that must beat the blind model")
    max_regression: Share = Field(0.05, description="how much a primary metric may fall below the baseline's")
