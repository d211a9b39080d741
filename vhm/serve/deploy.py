"""Putting a promoted model in front of people: an InferenceService on a cluster, a server on this machine."""

from __future__ import annotations

import io
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vhm.data.images import load_image
from vhm.data.records import image_name
from vhm.data.roots import open_root
from vhm.errors import InputError, ServeError
from vhm.evaluate import parse
from vhm.io import read_json, write_bytes, write_json
from vhm.recipe import Recipe
from vhm.serve.client import ask, local_server

log = logging.getLogger(__name__)

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"


@dataclass(frozen=True)
class Golden:
    """A golden question as the deployed model answered it."""

    family: str
    image: str
    question: str
    truth: str
    answer: str


def inference_service(model_uri: str, recipe: Recipe, canary: int | None = None) -> dict[str, Any]:
    """The InferenceService for the model at `model_uri` (s3://…, pvc://…), as the manifests' runtime serves it.

    With `canary`, that per cent of the traffic goes to it and the rest to what was promoted before.
    """
    if "://" not in model_uri:
        raise InputError(f"model URI {model_uri!r} has no scheme: give s3://…, pvc://… or another storage URI")
    if canary is not None and not 0 <= canary <= 100:
        raise InputError(f"--canary {canary}: give a percentage from 0 to 100")
    resources = {"cpu": recipe.cluster.cpu, "memory": recipe.cluster.memory}
    if recipe.cluster.gpus:
        resources["nvidia.com/gpu"] = str(recipe.cluster.gpus)
    predictor: dict[str, Any] = {
        "model": {
            "modelFormat": {"name": "vhm"},
            "runtime": "vhm",
            "protocolVersion": "v2",
            "storageUri": model_uri,
            "resources": {"requests": resources, "limits": resources},
        },
        "minReplicas": 1,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    if canary is not None:
        predictor["canaryTrafficPercent"] = canary
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "InferenceService",
        "metadata": {"name": recipe.serving.name, "namespace": recipe.cluster.namespace},
        "spec": {"predictor": predictor},
    }


def apply(service: dict[str, Any]) -> str:
    """Create or update the InferenceService in the current cluster; "created" or "configured"."""
    from kubernetes import client, config
    from kubernetes.client.rest import ApiException

    try:
        config.load_kube_config()
    except config.ConfigException:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            raise ServeError("no Kubernetes cluster is configured: set KUBECONFIG, or use --dry-run") from None
    objects = client.CustomObjectsApi()
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    try:
        try:
            objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, service)
            return "created"
        except ApiException as error:
            if error.status != 409:
                raise
            objects.patch_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name, service)
            return "configured"
    except ApiException as error:
        raise ServeError(f"the cluster refused InferenceService {namespace}/{name}: {error.reason}") from None
    except Exception as error:
        raise ServeError(f"the cluster does not answer ({type(error).__name__})") from None


def try_locally(model: Path, data: Path, golden: Path, recipe_file: Path, out: Path) -> list[Golden]:
    """Serve `model` on this machine, ask the golden questions over HTTP, and write what it answered.

    Writes deployment.json and answer.png, the grounding answer drawn on its picture (true box green, said
    box red). Raises ServeError when the server does not come up or refuses a question;
    whether the answers are good enough was the gate's to say.
    """
    root = open_root(data)
    answers = []
    with local_server(model, recipe_file) as url:
        for entry in read_json(golden):
            name = image_name(entry)
            if name is None:
                raise InputError(f"{golden}: a golden question names no image")
            answer = ask(url, root.read(name), entry["question"])
            truth = entry["conversations"][1]["value"]
            answers.append(Golden(entry["family"], name, entry["question"], truth, answer))
            log.info("asked %s: %s → %s (true: %s)", name, entry["question"], answer, truth)
    write_json(out / "deployment.json", {"url": "local", "golden": [asdict(a) for a in answers]})
    grounded = [a for a in answers if parse.box(a.truth)]
    shown = next((a for a in grounded if parse.box(a.answer)), (grounded or answers)[0])
    write_bytes(out / "answer.png", draw_answer(root.read(shown.image), shown))
    return answers


def draw_answer(picture: bytes, golden: Golden, side: int = 480) -> bytes:
    """A PNG of the picture with the true box (pixels) green, the said box (thousandths) red, and the words."""
    from PIL import Image, ImageDraw

    image = load_image(picture)
    scale = side / image.width
    sheet = Image.new("RGB", (side, round(image.height * scale) + 56), (24, 28, 34))
    sheet.paste(image.resize((side, round(image.height * scale))), (0, 0))
    draw = ImageDraw.Draw(sheet)
    true, said = parse.box(golden.truth), parse.box(golden.answer)
    if true:
        draw.rectangle([v * scale for v in true], outline=(40, 200, 90), width=3)
    if said:
        width, height = side / 1000, image.height * scale / 1000
        draw.rectangle(
            [said[0] * width, said[1] * height, said[2] * width, said[3] * height], outline=(255, 77, 61), width=3
        )
    draw.text((8, sheet.height - 50), golden.question[:76], fill=(220, 226, 232))
    draw.text((8, sheet.height - 28), f"said {golden.answer[:40]}   true {golden.truth[:30]}", fill=(255, 150, 140))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
