"""Model and evaluation files → predictions of one shard; shards → scores and report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE)
def evaluate(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    shard: int,
    model: dsl.Input[dsl.Model],
    predictions: dsl.Output[dsl.Artifact],
):
    from vhm.stages import predict

    predictions.metadata.update(predict(recipe, data, model.path, shard, predictions.path))


@dsl.component(base_image=IMAGE)
def score(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    model: dsl.Input[dsl.Model],
    shards: dsl.Input[list[dsl.Artifact]],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    from vhm.stages import score

    metrics.metadata.update(
        score(recipe, data, model.path, [s.path for s in shards], evaluation.path, report.path, metrics.path)
    )
