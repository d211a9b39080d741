"""OpenAI chat completions over the scheduler: one image as a data URI and one question, streamed or not.

KServe's own OpenAI routes need vLLM, which does not support several vision feature layers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from kserve.errors import InvalidInput
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from vhm.errors import ServeError
from vhm.inference.generator import Generation, Question, Sampling
from vhm.inference.scheduler import Busy, Scheduler
from vhm.recipe import ServingRecipe
from vhm.serve.predictor import read_question


class _Message(BaseModel):
    role: Literal["system", "user", "assistant", "developer"]
    content: str | list[dict[str, object]]


class _ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    max_completion_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    stream: bool = False
    n: Literal[1] = 1


def register(app: FastAPI, scheduler: Scheduler) -> None:
    """Add /openai/v1/models and /openai/v1/chat/completions to the app."""
    name = scheduler.limits.name
    router = APIRouter(prefix="/openai/v1")

    @router.get("/models")
    async def models() -> dict[str, object]:
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "vhm"}
        return {"object": "list", "data": [entry]}

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        try:
            chat = _parse_request(await request.body(), name)
            question, sampling = _read_question(chat.messages, scheduler), _sampling(chat, scheduler.limits)
            if chat.stream:
                return await _streamed(scheduler, question, sampling)
            return JSONResponse(_completion(await scheduler.ask(question, sampling), name))
        except InvalidInput as error:
            return _error(400, str(error.reason), "invalid_request_error")
        except _UnknownModel as error:
            return _error(404, str(error), "invalid_request_error")
        except Busy as error:
            return _error(503, str(error), "server_error", {"Retry-After": "1"})
        except ServeError as error:
            return _error(500, str(error), "server_error")

    app.include_router(router)


class _UnknownModel(Exception):
    pass


def _parse_request(body: bytes, model: str) -> _ChatRequest:
    try:
        chat = _ChatRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError:
        raise InvalidInput("the body is not JSON") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if chat.model != model:
        raise _UnknownModel(f"model {chat.model!r} does not exist: this endpoint serves {model!r}")
    return chat


def _sampling(chat: _ChatRequest, limits: ServingRecipe) -> Sampling:
    requested = chat.max_completion_tokens or chat.max_tokens or limits.max_new_tokens
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    return Sampling(
        min(requested, limits.max_new_tokens),
        chat.temperature,
        chat.top_p,
        chat.seed,
        tuple(string for string in stop if string),
    )


def _read_question(messages: list[_Message], scheduler: Scheduler) -> Question:
    """The user message's image and text. Conversations of several turns are refused."""
    if any(message.role == "assistant" for message in messages):
        raise InvalidInput("messages: send one question per request; earlier answers are not supported")
    users = [message for message in messages if message.role == "user"]
    if len(users) != 1:
        raise InvalidInput(f"messages: exactly one user message is needed, not {len(users)}")
    content = users[0].content
    parts: list[dict[str, object]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = [text for part in parts if part.get("type") == "text" and isinstance(text := part.get("text"), str)]
    images = [part.get("image_url") for part in parts if part.get("type") == "image_url"]
    if len(images) != 1:
        raise InvalidInput(f"messages: exactly one image_url is needed, not {len(images)}")
    url = images[0].get("url") if isinstance(images[0], dict) else images[0]
    if not isinstance(url, str) or not url.startswith("data:"):
        raise InvalidInput("messages: image_url must be a data URI (data:image/jpeg;base64,…)")
    return read_question(url, "\n".join(texts), scheduler, "messages")


def _completion(answer: Generation, model: str) -> dict[str, object]:
    message = {"role": "assistant", "content": answer.text}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
    }


async def _streamed(scheduler: Scheduler, question: Question, sampling: Sampling) -> Response:
    chunks = scheduler.stream(question, sampling)
    first = await anext(chunks)  # before the response begins, so that an error can still set its status
    return StreamingResponse(_events(first, chunks, scheduler.limits.name), media_type="text/event-stream")


async def _events(
    chunk: str | Generation, chunks: AsyncGenerator[str | Generation, None], model: str
) -> AsyncIterator[bytes]:
    """Server-sent events of a chat completion whose first chunk is `chunk`."""
    start = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}

    def event(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + orjson.dumps(start | {"model": model, "choices": [choice]}) + b"\n\n"

    try:
        yield event({"role": "assistant", "content": ""})
        while isinstance(chunk, str):
            yield event({"content": chunk})
            chunk = await anext(chunks)
        yield event({}, chunk.finish_reason)
    except ServeError as error:
        yield b"data: " + orjson.dumps({"error": {"message": str(error), "type": "server_error"}}) + b"\n\n"
    finally:
        await chunks.aclose()
    yield b"data: [DONE]\n\n"


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status_code=status, headers=headers)
