"""Base model and projector → the model that pretraining starts from."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def warm_start(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    manifests: dsl.Input[list[dsl.Dataset]],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Put a trained projector into the base model; train one by `align` when the recipe names none.

    Args:
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.
        manifests: The validated manifests; `align` reads the one for pretraining.

    Returns:
        model: The model that pretraining starts from, a Hugging Face directory.
        metrics: Difference of the model's image features from the projector's source, or the metrics of `align`.
    """
    from vhm.stages import warm_start

    result = warm_start(recipe, data, [manifest.path for manifest in manifests], model.path, metrics.path)
    model.metadata.update(framework="transformers", stage="warm-start")
    metrics.metadata.update(result)
