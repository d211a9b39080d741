"""Model and evaluation files → predictions of one split; all splits → scores and report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    split: int,
    model: dsl.Input[dsl.Model],
    predictions: dsl.Output[dsl.Artifact],
) -> None:
    """Answer one split of the evaluation questions.

    Args:
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.
        split: Number of the split, from 0.
        model: The model to evaluate.

    Returns:
        predictions: The predictions, one file per task.
    """
    from vhm.stages import predict

    predictions.metadata.update(predict(recipe, data, model.path, split, predictions.path))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def score(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    model: dsl.Input[dsl.Model],
    splits: dsl.Input[list[dsl.Artifact]],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Merge the predictions of all splits and score them.

    Args:
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.
        model: The model that was evaluated.
        splits: The predictions of all splits.

    Returns:
        evaluation: Predictions, scores.json and report.html.
        report: The report as a web page.
        metrics: The primary metric of each task, and their mean.
    """
    from vhm.stages import score

    paths = [split.path for split in splits]
    metrics.metadata.update(score(recipe, data, model.path, paths, evaluation.path, report.path, metrics.path))
