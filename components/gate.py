"""Scores → promote or stop."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE)
def gate(recipe: str, code: str, evaluation: dsl.Input[dsl.Artifact], verdict: dsl.Output[dsl.Artifact]) -> bool:
    from vhm.stages import gate

    return gate(recipe, evaluation.path, verdict.path)
