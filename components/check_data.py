"""One split of a list → checked records, for `validate_data` to merge."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_data(
    kind: str,
    split: int,
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    chunks: dsl.Output[dsl.Artifact],
) -> None:
    """Check one split of the lists of a kind, record by record.

    Args:
        kind: What the lists are for: pretrain, sft or eval.
        split: Number of the split, from 0.
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.

    Returns:
        chunks: The checked records in chunks, accepted and rejected.
    """
    from vhm.stages import check_data

    check_data(kind, split, recipe, data, chunks.path)
