"""KServe's two protocols over the engine.

V1   POST /v1/models/vhm:predict   {"instances": [{"image": {"b64": "…"}, "question": "…"}]}
                                   → {"predictions": [{"answer": "…"}]}
V2   POST /v2/models/vhm/infer     BYTES inputs `image` and `question` → BYTES output `answer`
                                   (Open Inference Protocol)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import uuid
from typing import Any

import orjson
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from vhm.data.images import Limits
from vhm.errors import ImageError
from vhm.inference.generator import Question, Sampling
from vhm.inference.scheduler import Scheduler
from vhm.recipe import ServingRecipe

MAX_QUESTION = 4000


class Predictor(Model):
    """The model that KServe's server registers."""

    def __init__(self, engine: Scheduler, limits: ServingRecipe) -> None:
        super().__init__(limits.name)
        self.engine = engine
        self.limits = limits
        self.ready = True

    async def predict(self, payload: dict[str, Any] | bytes | InferRequest, headers: Any = None, *_: Any) -> Any:
        if isinstance(payload, InferRequest):
            return await self._infer(payload)
        if isinstance(payload, bytes):  # a request without a JSON content type
            try:
                payload = orjson.loads(payload)
            except orjson.JSONDecodeError:
                raise InvalidInput("the body is not JSON") from None
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or not instances:
            raise InvalidInput('"instances" must be a list of {"image": {"b64": …}, "question": …}')
        asked = [self._instance(number, instance) for number, instance in enumerate(instances)]
        return {"predictions": [{"answer": text} for text in await self._answer(asked)]}

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("image", "question")]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [{"name": "answer", "datatype": "BYTES", "shape": [-1]}]

    def _instance(self, number: int, instance: Any) -> Question:
        image = instance.get("image") if isinstance(instance, dict) else None
        if not isinstance(image, dict) or not isinstance(image.get("b64"), str):
            raise InvalidInput(f'instance {number}: "image" must be {{"b64": base64 text}}')
        return question(image["b64"], instance.get("question"), self.engine, f"instance {number}")

    async def _infer(self, request: InferRequest) -> InferResponse:
        inputs = {given.name: given for given in request.inputs}
        missing = [name for name in ("image", "question") if name not in inputs]
        if missing:
            raise InvalidInput(f"input {missing[0]!r} is missing: send BYTES inputs image and question")
        values = {name: _flat(inputs[name]) for name in ("image", "question")}
        if len(values["image"]) != len(values["question"]) or not values["image"]:
            raise InvalidInput("inputs image and question must have the same, non-zero number of elements")
        asked = [
            question(picture, text, self.engine, f"element {number}")
            for number, (picture, text) in enumerate(zip(values["image"], values["question"], strict=True))
        ]
        answers = await self._answer(asked)
        output = InferOutput("answer", [len(answers)], "BYTES", data=answers)
        return InferResponse(request.id or str(uuid.uuid4()), self.name, [output])

    async def _answer(self, asked: list[Question]) -> list[str]:
        sampling = Sampling(self.limits.max_new_tokens)
        answers = await asyncio.gather(*(self.engine.ask(item, sampling) for item in asked))
        return [answer.text for answer in answers]


def question(image: str | bytes, text: Any, engine: Scheduler, where: str) -> Question:
    """A picture (base64 text, data URI or file bytes) and its question. InvalidInput says what is wrong."""
    limits = engine.limits
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f'{where}: "question" must be text')
    if len(text) > MAX_QUESTION:
        raise InvalidInput(f"{where}: the question has {len(text)} characters, the limit is {MAX_QUESTION}")
    if any(token in text for token in engine.generator.special_tokens):
        raise InvalidInput(f"{where}: the question holds a special token")
    content = image_bytes(image, where)
    if len(content) > limits.max_image_bytes:
        raise InvalidInput(f"{where}: the image has {len(content)} bytes, the limit is {limits.max_image_bytes}")
    costs = Limits(limits.max_image_bytes, limits.max_pixels)
    try:
        return Question(engine.generator.transform.decode(content, costs, orient=True), text.strip())
    except ImageError as error:
        raise InvalidInput(f"{where}: {error.detail}") from None


def image_bytes(image: str | bytes, where: str) -> bytes:
    """File bytes of base64 text or a data URI; bytes that are no base64 are taken as the file itself.

    Addresses are refused: the server opens no connection on anybody's behalf.
    """
    if isinstance(image, bytes):
        try:
            text = image.decode("ascii")
        except UnicodeDecodeError:
            return image
    else:
        text = image
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidInput(f"{where}: the data URI must be base64")
    elif "://" in text[:32]:
        raise InvalidInput(f"{where}: addresses are not opened: send the image itself, as base64 or a data URI")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{where}: the image is not valid base64") from None


def _flat(given: Any) -> list[Any]:
    values = given.as_numpy().flatten().tolist() if given._raw_data is not None else list(given.data)
    return [value for group in values for value in (group if isinstance(group, list) else [group])]
