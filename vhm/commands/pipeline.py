"""Commands that run, compile and submit the Kubeflow pipeline."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Optional

import typer

import vhm
from vhm.commands.options import JsonOption, PresetOption, SetOption, print_result
from vhm.errors import CheckFailed

pipeline_app = typer.Typer(help="The Kubeflow pipeline: run here, compile, submit.", no_args_is_help=True)


@pipeline_app.command("run")
def pipeline_run(
    recipe: PresetOption = "tiny",
    set_: SetOption = None,
    runner: Annotated[str, typer.Option(help="subprocess or docker.")] = "subprocess",
    out: Annotated[Optional[Path], typer.Option(help="Directory to write; runs/RECIPE by default.")] = None,
    json_: JsonOption = False,
) -> None:
    """Run the complete pipeline on this machine."""
    from vhm.recipe import load_recipe

    resolved = load_recipe(recipe, set_)
    result = _pipelines("run").run_pipeline(resolved, out or Path("runs") / resolved.name, runner)
    print_result(result.to_dict(), json_, result.table)
    if result.refusal is not None:
        raise CheckFailed(result.refusal)


@pipeline_app.command("compile")
def pipeline_compile(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("pipelines/vhm.yaml"),
) -> None:
    """Write the pipeline as KFP IR YAML."""
    _pipelines("vhm").compile_pipeline(out)
    typer.echo(f"{out}")


@pipeline_app.command("submit")
def pipeline_submit(
    host: Annotated[str, typer.Option(help="URL of the Kubeflow Pipelines API.")],
    data: Annotated[str, typer.Option(help="URI of the data root that the cluster's pods read.")] = "/mnt/data",
    data_version: Annotated[
        Optional[str],
        typer.Option(help="Version of the data, such as DVC's hash; by default read from the data, if accessible."),
    ] = None,
    recipe: PresetOption = "vhm-7b",
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Submit the pipeline to a cluster."""
    from vhm.recipe import load_recipe

    run_id = _pipelines("run").submit(load_recipe(recipe, set_), host, data, data_version)
    print_result({"run_id": run_id}, json_, f"run {run_id}")


def _pipelines(module: str) -> ModuleType:
    """A module of the pipelines package: of the checkout if this is one, else as shipped inside the wheel."""
    package = Path(vhm.__file__).parent
    folder = package.parent if (package.parent / "pipelines" / "vhm.py").is_file() else package / "_bundled"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(f"pipelines.{module}")
