"""Checked shards of a list → validated manifest."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE)
def validate_data(
    kind: str,
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    parts: dsl.Input[list[dsl.Artifact]],
    manifest: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
):
    from vhm.stages import validate_data

    found = validate_data(
        kind, [p.path for p in parts], recipe, data, manifest.path, report.path, summary.path, metrics.path
    )
    manifest.metadata.update(found)
    metrics.metadata.update(found)
