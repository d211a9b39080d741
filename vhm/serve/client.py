"""A client for an endpoint, and a context manager that runs a server on this machine."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

from vhm.errors import ServeError


def ask(url: str, image: bytes, question: str, name: str = "vhm", timeout: float = 120) -> str:
    """The answer of the endpoint at `url` over the V1 protocol. Raises ServeError with the server's message."""
    body = {"instances": [{"image": {"b64": base64.b64encode(image).decode()}, "question": question}]}
    try:
        response = httpx.post(f"{url}/v1/models/{name}:predict", json=body, timeout=timeout)
    except httpx.HTTPError as error:
        raise ServeError(f"{url} does not answer ({error})") from None
    if response.status_code != 200:
        raise ServeError(f"{url} answered {response.status_code}: {response.text[:200]}")
    return str(response.json()["predictions"][0]["answer"])


@contextmanager
def local_server(model: Path, recipe: Path | None = None, timeout: float = 120) -> Iterator[str]:
    """Run `vhm serve` on this machine during the block, and yield its URL.

    Raises ServeError when it is not ready within `timeout` seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vhm.cli", "serve", "--model", str(model), "--port", str(port)]
    command += ["--recipe", str(recipe)] if recipe else []
    with tempfile.TemporaryFile("w+") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_ready(url, server, timeout, output)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(timeout=35)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_ready(url: str, server: subprocess.Popen[bytes], timeout: float, output: IO[str]) -> None:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if server.poll() is not None:
            output.seek(0)
            lines = [line for line in output.read().splitlines() if line.strip()]
            raise ServeError(f"the server ended during startup: {lines[-1] if lines else 'no output'}")
        try:
            if httpx.get(f"{url}/v2/health/ready", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise ServeError(f"the server was not ready within {timeout:.0f} s")
