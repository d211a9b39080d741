"""Options that several commands have, and how results are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

RecipeOption = Annotated[
    Optional[str],
    typer.Option("--recipe", help="A preset's name or a YAML file; by default the recipe's own defaults."),
]
ModelRecipeOption = Annotated[
    Optional[str],
    typer.Option("--recipe", help="A preset's name or a YAML file; by default the recipe in the model directory."),
]
PresetOption = Annotated[str, typer.Option("--recipe", help="A preset's name or a YAML file.")]
SetOption = Annotated[
    Optional[list[str]], typer.Option("--set", help="Override of the recipe, as stages.sft.learning_rate=1e-5.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
OutOption = Annotated[Path, typer.Option("--out", help="Directory to write.")]
ModelOption = Annotated[Path, typer.Option("--model", help="A Hugging Face LLaVA directory.")]

IMAGES_HELP = "Image root: a folder, packed shards, or s3://… of either"
ImagesOption = Annotated[str, typer.Option(help=f"{IMAGES_HELP}.")]
RecipeImagesOption = Annotated[Optional[str], typer.Option("--images", help=f"{IMAGES_HELP}; the recipe's by default.")]


def print_result(content: object, as_json: bool, text: str) -> None:
    """Print a command's result: `content` as one JSON object, or `text`."""
    typer.echo(json.dumps(content, default=str) if as_json else text)
