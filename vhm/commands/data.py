"""Commands that make, check, pack and move datasets."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vhm.commands.options import (
    ImagesOption,
    JsonOption,
    OutOption,
    RecipeImagesOption,
    RecipeOption,
    SetOption,
    print_result,
)
from vhm.errors import InputError

if TYPE_CHECKING:
    from vhm.data.validation.request import ValidationRequest
    from vhm.recipe import Recipe

REPORT = "report.html"

data_app = typer.Typer(help="Datasets: pack into shards, publish in S3, fetch.", no_args_is_help=True)


def sample(out: Annotated[Path, typer.Argument(help="Directory to write.")], json_: JsonOption = False) -> None:
    """Build the embedded sample dataset and the tiny base parts; the same bytes each time."""
    from vhm.sample import build_tracked_sample

    built = build_tracked_sample(out)
    text = f"{built.chips} chips, {built.files} files in {out} (sha256 {built.sha256[:12]})"
    print_result(asdict(built), json_, text)


def validate(
    out: OutOption,
    source: Annotated[
        Optional[list[Path]],
        typer.Argument(
            metavar="[LIST …]", help="List files, or a folder of evaluation files; the recipe's by default."
        ),
    ] = None,
    images: RecipeImagesOption = None,
    kind: Annotated[str, typer.Option(help="pretrain, sft or eval.")] = "sft",
    against: Annotated[
        Optional[list[Path]],
        typer.Option(help="Evaluation list whose images must not occur; the recipe's where LIST is the recipe's."),
    ] = None,
    against_images: Annotated[
        Optional[str],
        typer.Option(help="Image root of the evaluation lists; by default their folder, or --images for a file."),
    ] = None,
    max_rejected: Annotated[
        Optional[float], typer.Option(min=0, max=1, help="Share that may be rejected; the recipe's by default, 0.01.")
    ] = None,
    skip_images: Annotated[bool, typer.Option("--skip-images", help="Check the records only.")] = False,
    split: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Check split I of N, from 0; --merge joins them.")
    ] = "0/1",
    merge: Annotated[
        Optional[list[Path]], typer.Option(help="Output directory of a checked split; give all of them.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete unfinished work on other lists or settings in --out.")
    ] = False,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a list: a manifest of the accepted records, a reason for each rejected one."""
    from vhm.recipe import choose_recipe

    settings = choose_recipe(recipe, set_)
    if skip_images and images is None and recipe is None:
        images = "."  # is not opened
    request = _request(settings, kind, source, images, against, from_recipe=recipe is not None)
    request = replace(request, against_images=against_images, skip_images=skip_images)
    allowed = settings.data.max_rejected if max_rejected is None else max_rejected
    part = _parse_split(split)
    request.require_lists()  # a file that is not a list is refused before anything large is loaded

    from vhm.data.validation.validate import require_passed
    from vhm.data.validation.validate import validate as run

    result = run(request, out, allowed, settings.data.expect, part, merge or (), restart)
    print_result(result.to_dict(), json_, f"{result.summary}: {_report(out)}")
    if part == (0, 1):  # the thresholds apply to the complete list: a single split is not checked against them
        require_passed(result, out)


def _request(
    settings: Recipe,
    kind: str,
    source: list[Path] | None,
    images: str | None,
    against: list[Path] | None,
    from_recipe: bool,
) -> ValidationRequest:
    """The validation request: the arguments, completed from the recipe."""
    from vhm.stages import parse_kind, validation_request

    request = validation_request(settings, parse_kind(kind), Path(settings.data.root))
    if not source and not from_recipe:
        raise InputError("Missing argument 'LIST …': give list files, or a recipe that names them with --recipe")
    if images is None and not from_recipe:
        raise InputError("Missing option '--images': give the image root, or a recipe that names it with --recipe")
    if source or against:
        request = replace(request, against=against or ())
    return replace(request, sources=source or request.sources, images=request.images if images is None else images)


def _report(out: Path) -> Path:
    """Where to read on: the report, or the folder if there is none."""
    return out / REPORT if (out / REPORT).is_file() else out


def _parse_split(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--shard {text!r}: write it as I/N with 0 ≤ I < N")
    return int(index), int(count)


@data_app.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="File or folder in a foreign format.")],
    out: OutOption,
    format_: Annotated[
        Optional[str], typer.Option("--format", help="Name of the format, as coco or ms-swift; else recognised.")
    ] = None,
    images: Annotated[
        Optional[Path], typer.Option(help="Folder that image paths are relative to; found near SRC by default.")
    ] = None,
    boxes: Annotated[
        Optional[str], typer.Option(help="Convention of boxes in text: 0-1, 0-100, 0-1000 or pixels; else guessed.")
    ] = None,
    split: Annotated[
        Optional[str], typer.Option(help="Split of a folder that has several: train, validation or test.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Turn LLaVA, ShareGPT, ms-swift, CSV, Parquet, WebDataset, COCO and benchmark files into lists."""
    from vhm.data.importing.rows import CONVENTIONS
    from vhm.data.importing.run import import_data

    convention = next((known for known in CONVENTIONS if known == boxes), None)
    if boxes is not None and convention is None:
        raise InputError(f"--boxes {boxes!r} is unknown: use one of {', '.join(CONVENTIONS)}")
    report = import_data(source, out, format_, images, convention, split)
    print_result(report.to_dict(), json_, report.text(out))


@data_app.command("pack")
def data_pack(
    manifest: Annotated[Path, typer.Argument(help="manifest.parquet of `vhm validate`.")],
    images: ImagesOption,
    out: OutOption,
    shard_size: Annotated[str, typer.Option(help="Size of a shard, such as 1GB or 500MB.")] = "1GB",
    json_: JsonOption = False,
) -> None:
    """Pack a manifest and its images into tar shards (WebDataset layout)."""
    from vhm.data.shards.pack import pack, parse_size

    packed = pack(manifest, images, out, parse_size(shard_size))
    text = f"{packed.images} images, {packed.records} records in {packed.shards} shards: {out}"
    print_result(asdict(packed), json_, text)


@data_app.command("unpack")
def data_unpack(
    shards: Annotated[Path, typer.Argument(help="Folder of tar shards.")], out: OutOption, json_: JsonOption = False
) -> None:
    """Turn tar shards into a folder of images and a list."""
    from vhm.data.shards.pack import unpack

    files = unpack(shards, out)
    print_result({"files": files, "out": str(out)}, json_, f"{files} images: {out}")


@data_app.command("index")
def data_index(
    shards: Annotated[Path, typer.Argument(help="Folder of tar shards (WebDataset).")], json_: JsonOption = False
) -> None:
    """Index a folder of tar shards, so that it can be used as an image root."""
    from vhm.data.shards.table import index_shards

    images = index_shards(shards)
    print_result({"images": images}, json_, f"{images} images: {shards}")


@data_app.command("push")
def data_push(
    directory: Annotated[Path, typer.Argument(help="A packed dataset, a model, …")],
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://BUCKET/PREFIX; boto3's usual credentials.")],
    keep: Annotated[Optional[int], typer.Option(min=1, help="Number of versions to keep; all by default.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read back what is stored already and compare it.")] = False,
    json_: JsonOption = False,
) -> None:
    """Publish a directory in S3 as its newest version; only what is missing or damaged there is uploaded."""
    from vhm.storage.s3 import parse_uri
    from vhm.storage.versions import publish

    prefix = parse_uri(uri)
    version = publish(directory, prefix, keep, verify)
    print_result({"version": version, "uri": str(prefix / version)}, json_, f"{prefix / version}")


@data_app.command("pull")
def data_pull(
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://BUCKET/PREFIX, or one version below it.")],
    out: OutOption,
    json_: JsonOption = False,
) -> None:
    """Fetch a published directory, by default its newest version; files that are already there are kept."""
    from vhm.storage.s3 import parse_uri
    from vhm.storage.versions import fetch

    version = fetch(parse_uri(uri), out)
    print_result({"version": version, "out": str(out)}, json_, f"version {version}: {out}")
