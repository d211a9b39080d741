"""The recipe: the one object that names everything a run needs."""

from vhm.recipe.schema import *  # noqa: F403
