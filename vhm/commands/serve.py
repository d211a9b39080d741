"""Commands that serve a model, ask it, and deploy it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from vhm.commands.options import JsonOption, ModelOption, ModelRecipeOption, RecipeOption, SetOption, print_result
from vhm.errors import InputError


def serve(
    model: ModelOption,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    recipe: ModelRecipeOption = None,
    set_: SetOption = None,
) -> None:
    """Serve a model: KServe V1 and V2, OpenAI chat completions, and a web page at /."""
    from vhm.recipe import choose_recipe
    from vhm.serve.server import serve as run

    run(model, choose_recipe(recipe, set_, model).serving, host, port)


def ask(
    image: Annotated[Path, typer.Argument(help="An image file, GeoTIFF included.")],
    question: Annotated[str, typer.Argument(help="The question about the image.")],
    model: ModelOption,
    max_new_tokens: Annotated[
        Optional[int], typer.Option(min=1, help="Tokens of the answer; serving.max_new_tokens by default.")
    ] = None,
    recipe: ModelRecipeOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Answer one question about an image in the terminal."""
    from vhm.data.records import IMAGE_MARKER
    from vhm.inference.generator import Generator, Question, Sampling
    from vhm.recipe import choose_recipe

    if not image.exists():  # checked before the model is loaded, which takes long
        raise InputError(f"{image} does not exist")
    limit = max_new_tokens or choose_recipe(recipe, set_, model).serving.max_new_tokens
    generator = Generator(model)
    pixels = generator.transform.decode(image, orient=True)
    answer = generator.generate([Question(pixels, question.replace(IMAGE_MARKER, "").strip())], Sampling(limit))[0].text
    print_result({"answer": answer}, json_, answer)


def deploy(
    model_uri: Annotated[str, typer.Option(help="URI of the promoted model: s3://…, pvc://….")],
    canary: Annotated[Optional[int], typer.Option(min=0, max=100, help="Per cent of the traffic.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest only.")] = False,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Apply, or print, the InferenceService."""
    import yaml

    from vhm.cluster.inference_service import apply, inference_service
    from vhm.recipe import choose_recipe

    service = inference_service(model_uri, choose_recipe(recipe, set_), canary)
    if dry_run:
        print_result(service, json_, yaml.safe_dump(service, sort_keys=False).rstrip())
        return
    result = apply(service)
    print_result({"result": result}, json_, f"inferenceservice {service['metadata']['name']} {result}")
