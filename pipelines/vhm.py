"""The pipeline: three lists are validated in parallel, each in splits; a model is warm-started, trained twice,
evaluated in splits and scored; it is deployed if the gate promotes it. The same definition runs on a laptop and on a
cluster."""

from pathlib import Path
from typing import NamedTuple

from kfp import compiler, dsl

from components.check_data import check_data
from components.deploy import deploy
from components.evaluate import evaluate, score
from components.gate import gate
from components.train import train
from components.validate_data import validate_data
from components.warm_start import warm_start

KINDS = ["pretrain", "sft", "eval"]


class Outputs(NamedTuple):
    """The results of a run: the fine-tuned model, its evaluation, and the gate's verdict."""

    model: dsl.Model
    evaluation: dsl.Artifact
    verdict: dsl.Artifact
    passed: bool


@dsl.pipeline(name="vhm", description="Validate, warm-start, pretrain, fine-tune, evaluate, gate, deploy.")
def vhm(
    recipe: str,
    data: str,
    data_hash: str,
    code: str,
    data_splits: list[int] = [0],
    evaluation_splits: list[int] = [0, 1],
) -> Outputs:
    """Validate, warm-start, pretrain, fine-tune, evaluate, gate, deploy.

    Args:
        recipe: The resolved recipe as YAML.
        data: Path of the data root.
        data_hash: Content hash of the data, for the cache key.
        code: Hash of code, installed packages and image, for the cache key.
        data_splits: Numbers of the splits that each list is checked in.
        evaluation_splits: Numbers of the splits that the evaluation questions are answered in.
    """
    common = {"recipe": recipe, "data": data, "data_hash": data_hash, "code": code}
    with dsl.ParallelFor(KINDS, name="kinds") as kind:
        with dsl.ParallelFor(data_splits, name="data-splits") as split:
            checked = check_data(kind=kind, split=split, **common)
        validated = validate_data(kind=kind, splits=dsl.Collected(checked.outputs["chunks"]), **common)
    manifests = validated.outputs["manifest"]  # each consumer collects them anew: KFP cannot share a Collected

    started = warm_start(manifests=dsl.Collected(manifests), **common)
    pretrained = train(stage="pretrain", manifests=dsl.Collected(manifests), model=started.outputs["model"], **common)
    pretrained.set_display_name("pretrain")
    tuned = train(stage="sft", manifests=dsl.Collected(manifests), model=pretrained.outputs["trained"], **common)
    tuned.set_display_name("sft")
    model = tuned.outputs["trained"]

    with dsl.ParallelFor(evaluation_splits, name="evaluation-splits") as split:
        predicted = evaluate(split=split, model=model, **common)
    scored = score(model=model, splits=dsl.Collected(predicted.outputs["predictions"]), **common)
    gated = gate(recipe=recipe, code=code, evaluation=scored.outputs["evaluation"])
    with dsl.If(gated.outputs["Output"] == True, name="passed"):  # noqa: E712 - KFP builds the condition
        deploy(model=model, **common)

    return Outputs(
        model=model,
        evaluation=scored.outputs["evaluation"],
        verdict=gated.outputs["verdict"],
        passed=gated.outputs["Output"],
    )


def compile_pipeline(out: Path) -> None:
    """Write the pipeline as KFP IR YAML."""
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(vhm, str(out))
