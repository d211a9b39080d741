"""Checked splits of a list → validated manifest."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate_data(
    kind: str,
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    splits: dsl.Input[list[dsl.Artifact]],
    manifest: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Merge the checked splits of the lists of a kind; fail when too many records are rejected.

    Args:
        kind: What the lists are for: pretrain, sft or eval.
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.
        splits: The checked splits, all of them.

    Returns:
        manifest: The manifest of the accepted records, and the rejected records with their reasons.
        report: Counts, reasons and expectations as a web page.
        summary: The same as Markdown.
        metrics: Accepted and rejected records, and the share of refusals.
    """
    from vhm.stages import validate_data

    paths = [split.path for split in splits]
    result = validate_data(kind, paths, recipe, data, manifest.path, report.path, summary.path, metrics.path)
    manifest.metadata.update(result)
    metrics.metadata.update(result)
