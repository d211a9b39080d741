"""Commands that make and train models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vhm.commands.options import (
    JsonOption,
    ModelOption,
    ModelRecipeOption,
    OutOption,
    RecipeImagesOption,
    SetOption,
    print_result,
)
from vhm.errors import InputError


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Checkpoint to convert.")],
    out: Annotated[Path, typer.Argument(metavar="DST", help="Directory to write.")],
    to: Annotated[str, typer.Option(help="hf or reference.")] = "hf",
    vision_tower: Annotated[Optional[Path], typer.Option(help="The ViT, if it is not in SRC/vision_tower.")] = None,
    allow_nan: Annotated[bool, typer.Option("--allow-nan", help="Convert weights that hold NaN, too.")] = False,
    json_: JsonOption = False,
) -> None:
    """Convert a reference VHM checkpoint into a Hugging Face LLaVA directory, or back."""
    from vhm.model.convert import convert as run

    moved = run(source, out, to, vision_tower, allow_nan)
    kept = sum(m.target is not None for m in moved)
    text = f"{kept} of {len(moved)} tensors: {out}"
    print_result({"tensors": len(moved), "written": kept, "out": str(out)}, json_, text)


def assemble(
    vision_tower: Annotated[Path, typer.Option(help="A CLIP directory.")],
    language_model: Annotated[Path, typer.Option(help="A Llama-type directory, or a GGUF file.")],
    out: OutOption,
    feature_layers: Annotated[
        str, typer.Option(metavar="LAYER,…", help="Hidden states that are concatenated.")
    ] = "8,16,24",
    template: Annotated[str, typer.Option(help="Chat format: v1 (Vicuna) or chatml (SmolLM2).")] = "v1",
    json_: JsonOption = False,
) -> None:
    """Assemble a base model from a vision tower and an LLM, with an untrained projector."""
    from vhm.data.encode import CHAT_TEMPLATES
    from vhm.model.assemble import assemble_base

    if template not in CHAT_TEMPLATES:
        raise InputError(f"--template {template!r} is unknown: use {' or '.join(CHAT_TEMPLATES)}")
    assemble_base(vision_tower, language_model, out, _parse_layers(feature_layers), template)
    print_result({"out": str(out)}, json_, f"{out}")


def warm_start(
    out: OutOption,
    base: Annotated[Optional[Path], typer.Option(help="The model to start from; the recipe's by default.")] = None,
    projector: Annotated[
        Optional[Path],
        typer.Option(help="mm_projector.bin, .safetensors, or a LLaVA directory; the recipe's by default."),
    ] = None,
    source_layer: Annotated[
        Optional[int], typer.Option(help="Feature layer whose block gets the projector's weights.")
    ] = None,
    feature_layers: Annotated[
        Optional[str], typer.Option(metavar="LAYER,…", help="Feature layers to read instead of the base's.")
    ] = None,
    data: Annotated[
        Optional[list[str]], typer.Option(help="Manifest for `align`, when the recipe names no projector.")
    ] = None,
    recipe: Annotated[
        Optional[str],
        typer.Option("--recipe", help="A preset's name or a YAML file that names the base and the projector."),
    ] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Put a trained single-layer projector into a model that reads several feature layers, exactly."""
    layers = None if feature_layers is None else _parse_layers(feature_layers)
    if recipe is not None:
        from vhm.recipe import load_recipe
        from vhm.stages import start_model

        settings = load_recipe(recipe, set_)
        root = Path(settings.data.root)
        start = start_model(settings, root, data or [], out, base, projector, source_layer, layers)
    else:
        from vhm.model.warm_start import warm_start as run

        if base is None:
            raise InputError("Missing option '--base': give the model to start from, or a recipe with --recipe")
        if data or set_:
            raise InputError("--data and --set belong to a recipe: give it with --recipe, or leave them out")
        start = run(base, out, projector, source_layer, layers)
    if start is None:
        print_result({"projector": "align", "out": str(out)}, json_, f"{out}: projector trained by align")
        return
    text = "no projector given"
    if start.projector is not None:
        exact = start.projector.exactness
        text = f"differs by {exact.float64:.1e} (float64), {exact.float32:.1e} (float32)"
    print_result(start.to_json(), json_, f"{out}: {text}")


def train(
    stage: Annotated[str, typer.Argument(help="align, pretrain or sft.")],
    model: ModelOption,
    data: Annotated[list[str], typer.Option(help="manifest.parquet of `vhm validate`; several are mixed.")],
    out: OutOption,
    images: RecipeImagesOption = None,
    recipe: ModelRecipeOption = None,
    set_: SetOption = None,
    nproc: Annotated[
        Optional[int], typer.Option(min=1, help="Processes on this machine; the recipe's by default.")
    ] = None,
    resume: Annotated[str, typer.Option(help="auto or never.")] = "auto",
    json_: JsonOption = False,
) -> None:
    """Train one stage with DeepSpeed; a run that was stopped resumes from its newest checkpoint."""
    from vhm.recipe import choose_recipe
    from vhm.stages import image_root
    from vhm.train import train as run
    from vhm.train.launch import weights_hash

    if resume not in ("auto", "never"):
        raise InputError(f"--resume {resume!r} is unknown: use auto or never")
    settings = choose_recipe(recipe, set_, model)
    root = image_root(settings, settings.data.root) if images is None else images
    run(stage, settings, model, data, root, out, nproc, resume == "auto")
    weights = weights_hash(out)
    print_result({"out": str(out), "weights_sha256": weights}, json_, f"{out}: weights {weights[:12]}")


def _parse_layers(text: str) -> list[int]:
    try:
        return [int(layer) for layer in text.split(",")]
    except ValueError:
        raise InputError(f"--feature-layers {text!r}: write layers separated by commas, as 8,16,24") from None
