"""Promoted model → a server that answers the golden questions."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE)
def deploy(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    model: dsl.Input[dsl.Model],
    deployment: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
):
    from vhm.stages import deploy

    deployment.metadata.update(deploy(recipe, data, model.path, deployment.path, report.path))
