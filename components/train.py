"""Model and manifest → trained model."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
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
) -> None:
    """Train one stage with DeepSpeed on the manifest of its kind.

    Args:
        stage: The stage of the recipe: pretrain or sft.
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.
        manifests: The validated manifests.
        model: The model to start from.

    Returns:
        trained: The trained model, a Hugging Face directory.
        curve: The loss by step.
        metrics: Samples, steps, first and last loss.
    """
    from vhm.stages import train_stage

    paths = [manifest.path for manifest in manifests]
    result = train_stage(stage, recipe, data, paths, model.path, trained.path, curve.path, metrics.path)
    trained.metadata.update(framework="transformers", stage=stage)
    metrics.metadata.update(result)
