"""Promoted model → a server that answers the golden questions."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    model: dsl.Input[dsl.Model],
    deployment: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Serve the promoted model and ask it the golden questions.

    Args:
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.
        model: The promoted model.

    Returns:
        deployment: The answers, and one of them drawn on its image.
        report: The answers as a web page.
    """
    from vhm.stages import deploy

    deployment.metadata.update(deploy(recipe, data, model.path, deployment.path, report.path))
