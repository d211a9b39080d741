"""The recipe: the one object that names everything a run needs.

A recipe is a YAML file; those in `vhm/recipe/presets/` are presets, called by their name. Any value can be overridden
with `section.key=value`. An unknown key is an error that names the nearest known key.

base data train evaluate serve storage cluster   one section per module
recipe                                           the sections together, text and hashes
load                                             reading, presets, overrides, the recipe of a model
hints                                            one-line errors
"""

from vhm.recipe.base import BaseParts, BaseRecipe, Licence
from vhm.recipe.cluster import ClusterRecipe
from vhm.recipe.data import DataRecipe, Expectations, SourceRecipe, StretchRecipe
from vhm.recipe.evaluate import CustomTask, EvaluationRecipe, GateRecipe
from vhm.recipe.load import RECIPE_FILE, choose_recipe, load_recipe, parse_recipe, presets
from vhm.recipe.recipe import Recipe
from vhm.recipe.section import ChatTemplate, Stage
from vhm.recipe.serve import ServingRecipe
from vhm.recipe.storage import StorageRecipe
from vhm.recipe.train import StageRecipe, Trainable

__all__ = [
    "RECIPE_FILE",
    "BaseParts",
    "BaseRecipe",
    "ChatTemplate",
    "ClusterRecipe",
    "CustomTask",
    "DataRecipe",
    "EvaluationRecipe",
    "Expectations",
    "GateRecipe",
    "Licence",
    "Recipe",
    "ServingRecipe",
    "SourceRecipe",
    "Stage",
    "StageRecipe",
    "StorageRecipe",
    "StretchRecipe",
    "Trainable",
    "choose_recipe",
    "load_recipe",
    "parse_recipe",
    "presets",
]
