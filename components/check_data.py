"""One shard of a list → checked records, for `validate_data` to join."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE)
def check_data(
    kind: str,
    shard: int,
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    part: dsl.Output[dsl.Artifact],
):
    from vhm.stages import check_data

    check_data(kind, shard, recipe, data, part.path)
