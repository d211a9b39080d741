"""KServe's two protocols over the scheduler.

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
from collections.abc import Mapping

import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from vhm.data.images import Limits
from vhm.errors import ImageError
from vhm.inference.generator import Question, Sampling
from vhm.inference.scheduler import Scheduler

MAX_QUESTION = 4000
_INPUTS = ("image", "question")


class Predictor(Model):  # type: ignore[misc]  # KServe has no types
    """The model that KServe's server registers."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler.limits.name)
        self.scheduler = scheduler
        self.ready = True

    async def predict(
        self, payload: object, headers: Mapping[str, str] | None = None, *_: object
    ) -> dict[str, object] | InferResponse:
        """Answer a V1 body (parsed, or bytes without a JSON content type) or a V2 request."""
        if isinstance(payload, InferRequest):
            return await self._infer(payload)
        if isinstance(payload, bytes):
            try:
                payload = orjson.loads(payload)
            except orjson.JSONDecodeError:
                raise InvalidInput("the body is not JSON") from None
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or not instances:
            raise InvalidInput('"instances" must be a list of {"image": {"b64": …}, "question": …}')
        questions = [self._read_instance(number, instance) for number, instance in enumerate(instances)]
        return {"predictions": [{"answer": text} for text in await self._answer(questions)]}

    def get_input_types(self) -> list[dict[str, object]]:
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in _INPUTS]

    def get_output_types(self) -> list[dict[str, object]]:
        return [{"name": "answer", "datatype": "BYTES", "shape": [-1]}]

    def _read_instance(self, number: int, instance: object) -> Question:
        image = instance.get("image") if isinstance(instance, dict) else None
        if not isinstance(instance, dict) or not isinstance(image, dict) or not isinstance(image.get("b64"), str):
            raise InvalidInput(f'instance {number}: "image" must be {{"b64": base64 text}}')
        return read_question(image["b64"], instance.get("question"), self.scheduler, f"instance {number}")

    async def _infer(self, request: InferRequest) -> InferResponse:
        inputs = {tensor.name: tensor for tensor in request.inputs}
        missing = [name for name in _INPUTS if name not in inputs]
        if missing:
            raise InvalidInput(f"input {missing[0]!r} is missing: send BYTES inputs image and question")
        images, texts = (_elements(inputs[name]) for name in _INPUTS)
        if len(images) != len(texts) or not images:
            raise InvalidInput("inputs image and question must have the same, non-zero number of elements")
        questions = [
            read_question(image, text, self.scheduler, f"element {number}")
            for number, (image, text) in enumerate(zip(images, texts, strict=True))
        ]
        answers = await self._answer(questions)
        output = InferOutput("answer", [len(answers)], "BYTES", data=answers)
        return InferResponse(request.id or str(uuid.uuid4()), self.name, [output])

    async def _answer(self, questions: list[Question]) -> list[str]:
        sampling = Sampling(self.scheduler.limits.max_new_tokens)
        answers = await asyncio.gather(*(self.scheduler.ask(question, sampling) for question in questions))
        return [answer.text for answer in answers]


def read_question(image: object, text: object, scheduler: Scheduler, where: str) -> Question:
    """A request's image (base64 text, data URI or file bytes) and text, checked against the limits.

    Raises InvalidInput, which KServe answers with status 400.
    """
    limits = scheduler.limits
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f'{where}: "question" must be text')
    if len(text) > MAX_QUESTION:
        raise InvalidInput(f"{where}: the question has {len(text)} characters, the limit is {MAX_QUESTION}")
    if any(token in text for token in scheduler.generator.special_tokens):
        raise InvalidInput(f"{where}: the question contains a special token")
    content = _read_image_bytes(image, where)
    if len(content) > limits.max_image_bytes:
        raise InvalidInput(f"{where}: the image has {len(content)} bytes, the limit is {limits.max_image_bytes}")
    image_limits = Limits(limits.max_image_bytes, limits.max_pixels)
    try:
        return Question(scheduler.generator.transform.decode(content, image_limits, orient=True), text.strip())
    except ImageError as error:
        raise InvalidInput(f"{where}: {error.detail}") from None


def _read_image_bytes(image: object, where: str) -> bytes:
    """File bytes of base64 text or a data URI; bytes that are not ASCII are the file itself.

    URLs are refused: the server makes no outgoing requests.
    """
    if isinstance(image, bytes):
        if not image.isascii():
            return image
        image = image.decode("ascii")
    if not isinstance(image, str):
        raise InvalidInput(f"{where}: the image must be base64 text, a data URI or file bytes")
    if image.startswith("data:"):
        head, comma, image = image.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidInput(f"{where}: the data URI must be base64")
    elif "://" in image[:32]:
        raise InvalidInput(f"{where}: URLs are not opened: send the image itself, as base64 or a data URI")
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{where}: the image is not valid base64") from None


def _elements(tensor: InferInput) -> list[object]:
    """The elements of a BYTES input, sent as binary data or as JSON (nested by one level at most)."""
    values = tensor.as_numpy().flatten().tolist() if tensor._raw_data is not None else list(tensor.data)
    return [value for group in values for value in (group if isinstance(group, list) else [group])]
