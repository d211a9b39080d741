"""Scores → promote or stop."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(recipe: str, code: str, evaluation: dsl.Input[dsl.Artifact], verdict: dsl.Output[dsl.Artifact]) -> bool:
    """Decide whether the model is promoted.

    Args:
        recipe: The resolved recipe as YAML.
        code: Hash of code, installed packages and image, for the cache key.
        evaluation: The scores of the model.

    Returns:
        verdict: Every check with its value and its threshold.
        Output: Whether all checks passed.
    """
    from vhm.stages import gate

    return gate(recipe, evaluation.path, verdict.path)
