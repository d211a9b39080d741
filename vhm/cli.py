"""`vhm …`: parses arguments, calls one function, prints.

Exit status: 0 done; 1 a check or the gate said no; 2 the call was wrong. Errors are one line on stderr;
`--debug` shows where they come from. `--json` prints one object on stdout and nothing else there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from vhm.errors import CheckFailed, InputError, VhmError

app = typer.Typer(
    name="vhm",
    help="Train, evaluate and serve a versatile and honest vision-language model for remote sensing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Datasets: pack into shards, publish in S3, fetch.", no_args_is_help=True)
pipeline_app = typer.Typer(help="The Kubeflow pipeline: run here, compile, submit.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(pipeline_app, name="pipeline")

RecipeOption = Annotated[str, typer.Option("--recipe", help="A preset's name or a YAML file.")]
SetOption = Annotated[Optional[list[str]], typer.Option("--set", help="Override, as stages.sft.learning_rate=1e-5.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ImagesOption = Annotated[str, typer.Option(help="Image root: a folder, packed shards, or s3://… of either.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where the result goes.")]
ModelOption = Annotated[Path, typer.Option("--model", help="A Hugging Face LLaVA directory.")]


@app.command()
def sample(out: Annotated[Path, typer.Argument(help="Directory to write.")], json_: JsonOption = False) -> None:
    """Build the embedded sample dataset and the tiny base parts; the same bytes each time."""
    from vhm.sample import build_tracked_sample

    built = build_tracked_sample(out)
    _say(asdict(built), json_, f"{built.chips} chips, {built.files} files in {out} (sha256 {built.sha256[:12]})")


@app.command()
def validate(
    source: Annotated[
        list[Path], typer.Argument(metavar="LIST …", help="List files, or a folder of evaluation files.")
    ],
    images: ImagesOption,
    out: OutOption,
    kind: Annotated[str, typer.Option(help="pretrain, sft or eval.")] = "sft",
    against: Annotated[Optional[list[Path]], typer.Option(help="Evaluation list to look for leaks from.")] = None,
    against_images: Annotated[Optional[str], typer.Option(help="Image root of the evaluation lists.")] = None,
    max_rejected: Annotated[
        Optional[float], typer.Option(min=0, max=1, help="Share that may be rejected; the recipe's by default, 0.01.")
    ] = None,
    skip_images: Annotated[bool, typer.Option("--skip-images", help="Check the records alone.")] = False,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Check the I-th of N parts, from 0; --merge judges them.")
    ] = "0/1",
    merge: Annotated[
        Optional[list[Path]], typer.Option(help="Join the results of all shards, checking nothing.")
    ] = None,
    recipe: RecipeOption = "tiny",
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a list: manifest of what is accepted, a reason for everything else."""
    from vhm.data.images import Limits
    from vhm.data.validation.chunks import ValidationRequest
    from vhm.data.validation.validate import require_passed
    from vhm.data.validation.validate import validate as run
    from vhm.recipe import load_recipe

    if kind not in ("pretrain", "sft", "eval"):
        raise InputError(f"--kind {kind!r} is unknown: use pretrain, sft or eval")
    settings = load_recipe(recipe, set_).data
    limits = Limits(max_pixels=settings.max_pixels)
    request = ValidationRequest(
        source,
        images,
        kind,  # type: ignore[arg-type]
        against or (),
        against_images,
        settings.max_text,
        limits,
        skip_images,
        settings.bands,
    )
    allowed = settings.max_rejected if max_rejected is None else max_rejected
    part = _shard(shard)
    result = run(request, out, allowed, settings.expect, part, merge or ())
    words = ", ".join(f"{count} {reason}" for reason, count in result.reasons.items())
    _say(
        result.to_dict(), json_, f"{result.accepted} of {result.total} accepted{f' ({words})' if words else ''}: {out}"
    )
    if part == (0, 1):  # a part is not the whole: `--merge` judges it
        require_passed(result, out)


@data_app.command("pack")
def data_pack(
    manifest: Annotated[Path, typer.Argument(help="manifest.parquet of `vhm validate`.")],
    images: ImagesOption,
    out: OutOption,
    shard_size: Annotated[str, typer.Option(help="Such as 1GB or 500MB.")] = "1GB",
    json_: JsonOption = False,
) -> None:
    """Pack a manifest and its images into tar shards (WebDataset layout)."""
    from vhm.data.shards.pack import pack, parse_size

    packed = pack(manifest, images, out, parse_size(shard_size))
    _say(vars(packed), json_, f"{packed.images} images, {packed.records} records in {packed.shards} shards: {out}")


@data_app.command("unpack")
def data_unpack(
    shards: Annotated[Path, typer.Argument(help="Folder of tar shards.")], out: OutOption, json_: JsonOption = False
) -> None:
    """Turn tar shards into a folder of images and a list."""
    from vhm.data.shards.pack import unpack

    files = unpack(shards, out)
    _say({"files": files, "out": str(out)}, json_, f"{files} images: {out}")


@data_app.command("index")
def data_index(
    shards: Annotated[Path, typer.Argument(help="Folder of tar shards (WebDataset).")], json_: JsonOption = False
) -> None:
    """Make a folder of tar shards from elsewhere an image root."""
    from vhm.data.shards.table import index_shards

    images = index_shards(shards)
    _say({"images": images}, json_, f"{images} images: {shards}")


@data_app.command("push")
def data_push(
    directory: Annotated[Path, typer.Argument(help="A packed dataset, a model, …")],
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://BUCKET/PREFIX; credentials as boto3 finds them.")],
    keep: Annotated[Optional[int], typer.Option(min=1, help="How many versions stay; all by default.")] = None,
    json_: JsonOption = False,
) -> None:
    """Publish a directory in S3 as its newest version; what is there already is not sent again."""
    from vhm.storage.s3 import parse_uri
    from vhm.storage.versions import publish

    place = parse_uri(uri)
    version = publish(directory, place, keep)
    _say({"version": version, "uri": str(place / version)}, json_, f"{place / version}")


@data_app.command("pull")
def data_pull(
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://BUCKET/PREFIX, or one version below it.")],
    out: OutOption,
    json_: JsonOption = False,
) -> None:
    """Fetch a published directory, the newest version unless one is named; what is there already is kept."""
    from vhm.storage.s3 import parse_uri
    from vhm.storage.versions import fetch

    version = fetch(parse_uri(uri), out)
    _say({"version": version, "out": str(out)}, json_, f"version {version}: {out}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint to convert.")],
    out: Annotated[Path, typer.Argument(metavar="DST", help="Directory to write.")],
    to: Annotated[str, typer.Option(help="hf or reference.")] = "hf",
    vision_tower: Annotated[Optional[Path], typer.Option(help="The ViT, where it is not in SRC/vision_tower.")] = None,
    allow_nan: Annotated[bool, typer.Option("--allow-nan", help="Go on when weights hold NaN.")] = False,
    json_: JsonOption = False,
) -> None:
    """Convert a reference VHM checkpoint into a Hugging Face LLaVA directory, or back."""
    from vhm.model.convert import convert as run

    moved = run(source, out, to, vision_tower, allow_nan)
    kept = sum(m.target is not None for m in moved)
    _say({"tensors": len(moved), "written": kept, "out": str(out)}, json_, f"{kept} of {len(moved)} tensors: {out}")


@app.command()
def assemble(
    vision_tower: Annotated[Path, typer.Option(help="A CLIP directory.")],
    language_model: Annotated[Path, typer.Option(help="A Llama-type directory, or a GGUF file.")],
    out: OutOption,
    feature_layers: Annotated[str, typer.Option(metavar="LAYER,…", help="Hidden states that are joined.")] = "8,16,24",
    template: Annotated[str, typer.Option(help="Chat format: v1 (Vicuna) or chatml (SmolLM2).")] = "v1",
    json_: JsonOption = False,
) -> None:
    """Put a base model together from a vision tower and an LLM; its projector is yet to be trained."""
    from vhm.data.encode import CHAT_TEMPLATES
    from vhm.model.assemble import assemble_base

    if template not in CHAT_TEMPLATES:
        raise InputError(f"--template {template!r} is unknown: use {' or '.join(CHAT_TEMPLATES)}")
    assemble_base(vision_tower, language_model, out, _layers(feature_layers) or [], template)
    _say({"out": str(out)}, json_, f"{out}")


@app.command("warm-start")
def warm_start(
    base: Annotated[Path, typer.Option(help="The model to start from.")],
    out: OutOption,
    projector: Annotated[
        Optional[Path], typer.Option(help="mm_projector.bin, .safetensors, or a LLaVA directory.")
    ] = None,
    source_layer: Annotated[Optional[int], typer.Option(help="Feature layer that gets the weights.")] = None,
    feature_layers: Annotated[
        Optional[str], typer.Option(metavar="LAYER,…", help="Layers to read instead of the base's.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Put a trained single-layer projector into a model that reads several feature layers, exactly."""
    from vhm.model.warm_start import warm_start as run

    report = run(base, out, projector, source_layer, _layers(feature_layers))
    exact = report.projector.exactness if report.projector else None
    words = (
        f"differs by {exact.float64:.1e} (float64), {exact.float32:.1e} (float32)" if exact else "no projector given"
    )
    _say(report.to_json(), json_, f"{out}: {words}")


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help="align, pretrain or sft.")],
    model: ModelOption,
    data: Annotated[list[str], typer.Option(help="manifest.parquet of `vhm validate`; several are mixed.")],
    images: ImagesOption,
    out: OutOption,
    recipe: RecipeOption = "tiny",
    set_: SetOption = None,
    nproc: Annotated[Optional[int], typer.Option(min=1, help="Processes on this machine.")] = None,
    resume: Annotated[str, typer.Option(help="auto or never.")] = "auto",
    json_: JsonOption = False,
) -> None:
    """Train one stage with DeepSpeed; goes on where an earlier run was stopped."""
    from vhm.recipe import load_recipe
    from vhm.train import train as run
    from vhm.train.launch import weights_hash

    if resume not in ("auto", "never"):
        raise InputError(f"--resume {resume!r} is unknown: use auto or never")
    run(stage, load_recipe(recipe, set_), model, data, images, out, nproc, resume == "auto")
    weights = weights_hash(out)
    _say({"out": str(out), "weights_sha256": weights}, json_, f"{out}: weights {weights[:12]}")


@app.command()
def evaluate(
    model: ModelOption,
    data: Annotated[Path, typer.Option(help="Folder of the evaluation files.")],
    out: OutOption,
    tasks: Annotated[Optional[str], typer.Option(help="all, or names separated by commas.")] = None,
    recipe: RecipeOption = "tiny",
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep answers that are there already.")] = False,
    json_: JsonOption = False,
) -> None:
    """Generate answers, score them, and write the report."""
    from vhm.evaluate import evaluate as run
    from vhm.evaluate.results import scores_json
    from vhm.recipe import load_recipe

    wanted = tasks.split(",") if tasks and tasks != "all" else tasks
    evaluation = run(model, data, out, load_recipe(recipe, set_), wanted, resume)
    lines = [
        f"{task.name:36} n {result.n:5}  {result.primary.name:18} {100 * result.primary.value:5.1f} %"
        for task, result in evaluation.tasks.items()
        if result.primary is not None
    ]
    _say(scores_json(evaluation), json_, "\n".join([*lines, f"report: {out / 'report.html'}"]))


@app.command()
def score(
    task: Annotated[str, typer.Argument(help="A task or an answer type.")],
    predictions: Annotated[Path, typer.Argument(help="JSON lines of filename, size, query, answer, pred.")],
    mode: Annotated[str, typer.Option(help="strict or rsevalkit.")] = "strict",
    json_: JsonOption = False,
) -> None:
    """Score a predictions file without a model."""
    from vhm.evaluate.metrics import score_file as run
    from vhm.evaluate.tasks import find_type

    kind = find_type(task)
    metrics = {"task": task, "type": kind, "mode": mode} | run(kind, predictions, mode)  # type: ignore[arg-type]
    _say(metrics, json_, "\n".join(f"{name:24} {value}" for name, value in metrics.items()))


@app.command()
def gate(
    candidate: Annotated[Path, typer.Option(help="scores.json of the model to promote.")],
    baseline: Annotated[Optional[Path], typer.Option(help="scores.json of what is deployed.")] = None,
    recipe: RecipeOption = "tiny",
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say which thresholds or regressions block promotion; exit 1 when any does."""
    from vhm.evaluate.gate import gate as run
    from vhm.io import read_json
    from vhm.recipe import load_recipe

    settings = load_recipe(recipe, set_).gate
    checks = run(read_json(candidate), settings, read_json(baseline) if baseline else None)
    blocking = [check for check in checks if not check.passed]
    listed = [vars(check) | {"passed": check.passed} for check in checks]
    lines = [f"{'pass' if check.passed else 'FAIL'}  {check}" for check in checks]
    _say({"passed": not blocking, "checks": listed}, json_, "\n".join(lines))
    if blocking:
        more = f" and {len(blocking) - 1} more" if len(blocking) > 1 else ""
        raise CheckFailed(f"not promoted: {blocking[0]}{more}")


@app.command()
def serve(
    model: ModelOption,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    recipe: RecipeOption = "tiny",
    set_: SetOption = None,
) -> None:
    """Serve a model: KServe V1 and V2, OpenAI chat completions, and a page at /."""
    from vhm.recipe import load_recipe
    from vhm.serve.server import serve as run

    run(model, load_recipe(recipe, set_).serving, host, port)


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="A picture, GeoTIFF included.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    json_: JsonOption = False,
) -> None:
    """One answer in the terminal."""
    from vhm.inference.generator import Generator, Question, Sampling

    generator = Generator(model)
    pixels = generator.transform.decode(image, orient=True)
    answer = generator.generate([Question(pixels, question)], Sampling(max_new_tokens))[0].text
    _say({"answer": answer}, json_, answer)


@app.command()
def deploy(
    model_uri: Annotated[str, typer.Option(help="s3://…, pvc://… of the promoted model.")],
    canary: Annotated[Optional[int], typer.Option(min=0, max=100, help="Per cent of the traffic.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest only.")] = False,
    recipe: RecipeOption = "tiny",
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Apply, or print, the InferenceService."""
    import yaml

    from vhm.cluster.inference_service import apply, inference_service
    from vhm.recipe import load_recipe

    service = inference_service(model_uri, load_recipe(recipe, set_), canary)
    if dry_run:
        _say(service, json_, yaml.safe_dump(service, sort_keys=False).rstrip())
        return
    done = apply(service)
    _say({"result": done}, json_, f"inferenceservice {service['metadata']['name']} {done}")


@pipeline_app.command("run")
def pipeline_run(
    recipe: RecipeOption = "tiny",
    set_: SetOption = None,
    runner: Annotated[str, typer.Option(help="subprocess or docker.")] = "subprocess",
    out: Annotated[Optional[Path], typer.Option(help="Where the result goes; runs/RECIPE by default.")] = None,
    json_: JsonOption = False,
) -> None:
    """Run the whole pipeline on this machine."""
    from vhm.recipe import load_recipe

    resolved = load_recipe(recipe, set_)
    result = _pipelines().run.run_pipeline(resolved, out or Path("runs") / resolved.name, runner)
    _say(result, json_, result["table"])


@pipeline_app.command("compile")
def pipeline_compile(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("pipelines/vhm.yaml"),
) -> None:
    """Write the pipeline as KFP IR YAML."""
    _pipelines().vhm.compile_pipeline(out)
    typer.echo(f"{out}")


@pipeline_app.command("submit")
def pipeline_submit(
    host: Annotated[str, typer.Option(help="URL of the Kubeflow Pipelines API.")],
    data: Annotated[str, typer.Option(help="URI of the data root that the cluster's pods read.")] = "/mnt/data",
    data_version: Annotated[
        Optional[str], typer.Option(help="What names these very data, such as DVC's hash; looked up where possible.")
    ] = None,
    recipe: RecipeOption = "vhm-7b",
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Submit the pipeline to a cluster."""
    from vhm.recipe import load_recipe

    run_id = _pipelines().run.submit(load_recipe(recipe, set_), host, data, data_version)
    _say({"run_id": run_id}, json_, f"run {run_id}")


def _layers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--feature-layers {text!r}: write layers separated by commas, as 8,16,24") from None


def main() -> None:
    """Entry point: turns errors into one line and an exit status."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    _set_up(debug)
    try:
        status = app(args=arguments, prog_name="vhm", standalone_mode=False)
    except VhmError as error:
        status = _fail(str(error), error.exit_code, debug)
    except (typer.Abort, KeyboardInterrupt):
        status = _fail("interrupted", 130, debug)
    except OSError as error:
        status = _fail(f"{error.strerror or error}: {error.filename or 'input or output'}", 2, debug)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            sys.exit(2)
        if hasattr(error, "format_message"):  # typer's usage errors, whose class is private to it
            sys.exit(_fail(f"{error.format_message()}{_usage(error)}", 2, debug))
        hint = "this is a bug: run again with --debug and report it"
        status = _fail(f"{type(error).__name__}: {' '.join(str(error).split())} ({hint})", 2, debug)
    sys.exit(status if isinstance(status, int) else 0)


def _set_up(debug: bool) -> None:
    # Other libraries speak only of errors: their warnings are not what the user asked for.
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vhm").setLevel(logging.DEBUG if debug else logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched from a hub behind the user's back
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import warnings

    warnings.filterwarnings("ignore")


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"vhm: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"; see `{context.command_path} --help`" if context else ""


def _say(content: Any, as_json: bool, words: str) -> None:
    typer.echo(json.dumps(content, default=str) if as_json else words)


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise InputError(f"--shard {text!r}: write it as I/N with 0 ≤ I < N")
    return int(index), int(count)


def _pipelines() -> Any:
    """The pipelines package: of the checkout where there is one, else as shipped inside the wheel."""
    import importlib

    package = Path(__file__).parent
    beside = package.parent if (package.parent / "pipelines" / "vhm.py").is_file() else package / "_bundled"
    if str(beside) not in sys.path:
        sys.path.insert(0, str(beside))
    for name in ("run", "vhm"):
        importlib.import_module(f"pipelines.{name}")
    return importlib.import_module("pipelines")


if __name__ == "__main__":
    main()
