"""Base model and projector → the model that pretraining starts from."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE)
def warm_start(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    manifests: dsl.Input[list[dsl.Dataset]],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    from vhm.stages import warm_start

    found = warm_start(recipe, data, [m.path for m in manifests], model.path, metrics.path)
    model.metadata.update(framework="transformers", stage="warm-start")
    metrics.metadata.update(found)
