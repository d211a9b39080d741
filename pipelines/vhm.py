"""The pipeline: three lists validated side by side, each in shards, a model warm-started, trained twice, evaluated in
shards, judged, and deployed if it passed. The same definition runs on a laptop and on a cluster."""

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
    """What a run gives: the fine-tuned model, its evaluation, and the gate's verdict."""

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
    parts: list = [0],
    shards: list = [0, 1],
) -> Outputs:
    common = {"recipe": recipe, "data": data, "data_hash": data_hash, "code": code}
    with dsl.ParallelFor(KINDS, name="lists") as kind:
        with dsl.ParallelFor(parts, name="parts") as part:
            checked = check_data(kind=kind, shard=part, **common)
        validated = validate_data(kind=kind, parts=dsl.Collected(checked.outputs["part"]), **common)
    manifests = validated.outputs["manifest"]  # each consumer collects them anew: KFP cannot share a Collected

    started = warm_start(manifests=dsl.Collected(manifests), **common)
    pretrained = train(stage="pretrain", manifests=dsl.Collected(manifests), model=started.outputs["model"], **common)
    pretrained.set_display_name("pretrain")
    tuned = train(stage="sft", manifests=dsl.Collected(manifests), model=pretrained.outputs["trained"], **common)
    tuned.set_display_name("sft")
    model = tuned.outputs["trained"]

    with dsl.ParallelFor(shards, name="shards") as shard:
        answered = evaluate(shard=shard, model=model, **common)
    scored = score(model=model, shards=dsl.Collected(answered.outputs["predictions"]), **common)
    judged = gate(recipe=recipe, code=code, evaluation=scored.outputs["evaluation"])
    with dsl.If(judged.outputs["Output"] == True, name="passed"):  # noqa: E712 - KFP builds the condition
        deploy(model=model, **common)

    return Outputs(
        model=model,
        evaluation=scored.outputs["evaluation"],
        verdict=judged.outputs["verdict"],
        passed=judged.outputs["Output"],
    )


def compile_pipeline(out: Path) -> None:
    """Write the pipeline as KFP IR YAML."""
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(vhm, str(out))
