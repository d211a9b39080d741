"""Model and manifest → trained model; `stage` is pretrain or sft."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE)
def train(
    stage: str,
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    manifests: dsl.Input[list[dsl.Dataset]],
    model: dsl.Input[dsl.Model],
    trained: dsl.Output[dsl.Model],
    curve: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    from vhm.stages import train_stage

    found = train_stage(
        stage, recipe, data, [m.path for m in manifests], model.path, trained.path, curve.path, metrics.path
    )
    trained.metadata.update(framework="transformers", stage=stage)
    metrics.metadata.update(found)
