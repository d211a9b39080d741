"""KServe's model server with the page, the OpenAI routes and a limit on the size of requests."""

from __future__ import annotations

import asyncio
import logging
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.errors import ServeError
from vhm.recipe import ServingRecipe

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


def serve(model: Path, limits: ServingRecipe, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve the model until SIGTERM or SIGINT; requests already accepted are answered first.

    Raises CheckpointError when the model cannot be loaded, ServeError when the port is taken.
    """
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None

    import kserve.model_server
    from kserve.protocol.rest.server import RESTServer

    from vhm.inference.generator import Generator
    from vhm.inference.scheduler import Scheduler
    from vhm.serve import openai
    from vhm.serve.predictor import Predictor

    scheduler = Scheduler(Generator(model), limits)
    server = kserve.model_server.ModelServer(http_port=port, enable_grpc=False, workers=1)
    server.register_model(Predictor(scheduler))
    app = kserve.model_server.app
    _register_page(app)
    openai.register(app, scheduler)
    _limit_bodies(app, limits)
    _register_busy(app)
    rest = RESTServer(app, server.dataplane, server.model_repository_extension, port, grace_period=30)
    rest.config.host = host  # KServe has no option for it and listens on every address
    log.info("serving %s on http://%s:%d", model, host, port)
    try:
        asyncio.run(rest.start())
    finally:
        scheduler.close()


def _register_page(app: FastAPI) -> None:
    from fastapi.responses import HTMLResponse

    page = resources.files("vhm.serve").joinpath("page.html").read_text()

    headers = {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}

    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    app.add_api_route("/", show_page, methods=["GET"], include_in_schema=False)


def _register_busy(app: FastAPI) -> None:
    """Answer 503 with Retry-After when the queue is full."""
    from fastapi.responses import JSONResponse
    from starlette.requests import Request

    from vhm.inference.scheduler import Busy

    async def busy(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "1"})

    app.add_exception_handler(Busy, busy)


def _limit_bodies(app: FastAPI, limits: ServingRecipe) -> None:
    """Refuse a body that is larger than a full batch of the largest images, before it is read."""
    largest = limits.max_batch * (limits.max_image_bytes * 4 // 3 + 64 * 1024)
    app.add_middleware(_BodyLimit, largest=largest)


class _BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `largest` bytes."""

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self._app, self._largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._largest:
            await _refuse(send, 413, f"the body is larger than {self._largest} bytes")
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._largest:  # a chunked body has no Content-Length
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, receive_counted, send)


async def _refuse(send: Send, status: int, message: str) -> None:
    import orjson

    body = orjson.dumps({"error": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
