"""OpenAI chat completions over the engine: one picture as a data URI, one question, streamed or not.

KServe's own OpenAI layer needs vLLM, which does not read several feature layers; the routes are ours.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

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
from vhm.serve.predictor import question


class _Message(BaseModel):
    role: Literal["system", "user", "assistant", "developer"]
    content: str | list[dict[str, Any]]


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


def register(app: FastAPI, engine: Scheduler, limits: ServingRecipe) -> None:
    """Add /openai/v1/models and /openai/v1/chat/completions to the app."""
    router = APIRouter(prefix="/openai/v1")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        entry = {"id": limits.name, "object": "model", "created": 0, "owned_by": "vhm"}
        return {"object": "list", "data": [entry]}

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        try:
            asked, sampling, stream = _read(await request.body(), engine)
            if stream:
                return await _streamed(engine, asked, sampling, limits.name)
            answer = await engine.ask(asked, sampling)
        except InvalidInput as error:
            return _error(400, str(error.reason), "invalid_request_error")
        except _UnknownModel as error:
            return _error(404, str(error), "invalid_request_error")
        except Busy as error:
            return _error(503, str(error), "server_error", {"Retry-After": "1"})
        except ServeError as error:
            return _error(500, str(error), "server_error")
        return JSONResponse(_completion(answer, limits.name))

    app.include_router(router)


class _UnknownModel(Exception):
    pass


def _read(body: bytes, engine: Scheduler) -> tuple[Question, Sampling, bool]:
    limits = engine.limits
    try:
        chat = _ChatRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError:
        raise InvalidInput("the body is not JSON") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if chat.model != limits.name:
        raise _UnknownModel(f"model {chat.model!r} does not exist: this endpoint serves {limits.name!r}")
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    sampling = Sampling(
        min(chat.max_completion_tokens or chat.max_tokens or limits.max_new_tokens, limits.max_new_tokens),
        chat.temperature,
        chat.top_p,
        chat.seed,
        tuple(s for s in stop if s),
    )
    return _question(chat.messages, engine), sampling, chat.stream


def _question(messages: list[_Message], engine: Scheduler) -> Question:
    """The last user message's picture and text. Earlier turns are refused: answers are to one question."""
    if any(message.role == "assistant" for message in messages):
        raise InvalidInput("messages: one question a request; earlier answers are not taken into account")
    users = [message for message in messages if message.role == "user"]
    if len(users) != 1:
        raise InvalidInput(f"messages: exactly one user message is needed, not {len(users)}")
    content = users[0].content
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = [part["text"] for part in parts if part.get("type") == "text" and isinstance(part.get("text"), str)]
    images = [part.get("image_url") for part in parts if part.get("type") == "image_url"]
    if len(images) != 1:
        raise InvalidInput(f"messages: exactly one image_url is needed, not {len(images)}")
    url = images[0].get("url") if isinstance(images[0], dict) else images[0]
    if not isinstance(url, str) or not url.startswith("data:"):
        raise InvalidInput("messages: image_url must be a data URI (data:image/jpeg;base64,…)")
    return question(url, "\n".join(texts), engine, "messages")


def _completion(answer: Generation, model: str) -> dict[str, Any]:
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


async def _streamed(engine: Scheduler, asked: Question, sampling: Sampling, model: str) -> Response:
    pieces = engine.stream(asked, sampling)
    first = await anext(pieces)  # a refusal must become a status, not a broken stream
    start = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}

    def event(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + orjson.dumps(start | {"model": model, "choices": [choice]}) + b"\n\n"

    async def events() -> AsyncIterator[bytes]:
        yield event({"role": "assistant", "content": ""})
        piece: str | Generation = first
        try:
            while isinstance(piece, str):
                yield event({"content": piece})
                piece = await anext(pieces)
            yield event({}, piece.finish_reason)
        except ServeError as error:
            yield b"data: " + orjson.dumps({"error": {"message": str(error), "type": "server_error"}}) + b"\n\n"
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status_code=status, headers=headers)
