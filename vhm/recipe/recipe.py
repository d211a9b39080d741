"""The complete recipe: all sections, the checks across them, its text and its hashes."""

from __future__ import annotations

import hashlib

import yaml
from pydantic import Field, model_validator

from vhm.errors import RecipeError
from vhm.recipe.base import BaseRecipe, Licence
from vhm.recipe.cluster import ClusterRecipe
from vhm.recipe.data import DataRecipe
from vhm.recipe.evaluate import EvaluationRecipe, GateRecipe
from vhm.recipe.section import Name, PositiveInt, Section, Stage
from vhm.recipe.serve import ServingRecipe
from vhm.recipe.storage import StorageRecipe
from vhm.recipe.train import StageRecipe


class Recipe(Section):
    """Everything that a run needs. Every section has defaults; `stages` has none."""

    name: Name = Field("default", description="shown in reports; the default output directory is runs/NAME")
    seed: int = Field(0, ge=0, description="seed of the sample order and of new weights")
    processes: PositiveInt = Field(1, description="training processes on one machine")
    base: BaseRecipe = BaseRecipe()
    licences: list[Licence] = Field(default_factory=list, description="terms of the base model, or of all data")
    data: DataRecipe = DataRecipe()
    stages: dict[Stage, StageRecipe] = Field(default_factory=dict, description="align, pretrain, sft")
    evaluation: EvaluationRecipe = EvaluationRecipe()
    gate: GateRecipe = GateRecipe()
    serving: ServingRecipe = ServingRecipe()
    storage: StorageRecipe = StorageRecipe()
    cluster: ClusterRecipe = ClusterRecipe()

    @model_validator(mode="after")
    def _check_batches(self) -> Recipe:
        for name, stage in self.stages.items():
            if stage.global_batch % stage.micro_batch:
                raise ValueError(
                    f"stages.{name}.global_batch={stage.global_batch} is no multiple of micro_batch={stage.micro_batch}"
                )
        return self

    def stage(self, name: str) -> StageRecipe:
        """The stage `name`. Raises RecipeError when the recipe has no such stage."""
        for key, stage in self.stages.items():
            if key == name:
                return stage
        known = f"it has {', '.join(self.stages)}" if self.stages else "it has no stages"
        raise RecipeError(f"recipe {self.name} has no stage {name!r}: {known}; give another with --recipe")

    def text(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def hash(self, *sections: str) -> str:
        """A content hash of the complete recipe, or of the seed and some sections, such as `stages.sft`."""
        values: dict[str, object] = self.model_dump(mode="json")
        if sections:
            values = {"seed": self.seed} | {section: _value_at(values, section) for section in sections}
        return hashlib.sha256(yaml.safe_dump(values, sort_keys=True).encode()).hexdigest()


def _value_at(values: object, dotted: str) -> object:
    for key in dotted.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values
