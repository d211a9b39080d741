"""KServe's model server with the page, the OpenAI routes and limits on what a request may bring."""

from __future__ import annotations

import asyncio
import logging
from importlib import resources
from pathlib import Path
from typing import Any

from vhm.errors import ServeError
from vhm.recipe import ServingRecipe

log = logging.getLogger(__name__)

_POLICY = (
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

    engine = Scheduler(Generator(model), limits)
    server = kserve.model_server.ModelServer(http_port=port, enable_grpc=False, workers=1)
    server.register_model(Predictor(engine, limits))
    app = kserve.model_server.app
    _register_page(app)
    openai.register(app, engine, limits)
    _limit_bodies(app, limits)
    _answer_busy(app)
    rest = RESTServer(app, server.dataplane, server.model_repository_extension, port, grace_period=30)
    rest.config.host = host  # KServe listens on every address; ours says which
    log.info("serving %s on http://%s:%d", model, host, port)
    try:
        asyncio.run(rest.start())
    finally:
        engine.close()


def _register_page(app: Any) -> None:
    from fastapi.responses import HTMLResponse

    page = resources.files("vhm.serve").joinpath("page.html").read_text()

    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    app.add_api_route("/", show, methods=["GET"], include_in_schema=False)


def _answer_busy(app: Any) -> None:
    from fastapi.responses import JSONResponse
    from starlette.requests import Request

    from vhm.inference.scheduler import Busy

    async def busy(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "1"})

    app.add_exception_handler(Busy, busy)


def _limit_bodies(app: Any, limits: ServingRecipe) -> None:
    """Refuse a body that is larger than a full batch of the largest images, before it is read."""
    largest = limits.max_batch * (limits.max_image_bytes * 4 // 3 + 64 * 1024)
    app.add_middleware(_BodyLimit, largest=largest)


class _BodyLimit:
    def __init__(self, app: Any, largest: int) -> None:
        self._app, self._largest = app, largest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._largest:
            await _refuse(send, 413, f"the body is larger than {self._largest} bytes")
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._largest:  # a chunked body says no length beforehand
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)


async def _refuse(send: Any, status: int, message: str) -> None:
    import orjson

    body = orjson.dumps({"error": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
