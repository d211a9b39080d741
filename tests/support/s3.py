"""A real S3 service on loopback (SeaweedFS), and a proxy that simulates an unreliable network."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "vhm-test", "not-a-secret-of-anybody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class SeaweedFS:
    """`weed server` with one identity; a context manager that stops it at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> SeaweedFS:
        for retries in (2, 1, 0):  # another process may take a port between its choice and its use
            try:
                return self._start()
            except RuntimeError:
                self.__exit__()
                shutil.rmtree(self._folder / "data")
                self.port = free_port()
                if not retries:
                    raise
        raise AssertionError("unreachable")

    def _start(self) -> SeaweedFS:
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed"
        keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "test", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self._folder / "data").mkdir()
        self._log = (self._folder / "log").open("w")
        # By default each service also uses its port plus 10,000 for gRPC, which may be taken.
        names = ["master", "volume", "filer"]
        ports = [f"-{name}.port={free_port()}" for name in names]
        grpc = [f"-{name}.port.grpc={free_port()}" for name in [*names, "s3"]]
        ports += [f"-s3.port.{name}={free_port()}" for name in ("iceberg", "lance")]
        self._process = subprocess.Popen(
            [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder / 'data'}", "-filer", "-s3",
             f"-s3.port={self.port}", f"-s3.config={self._folder / 's3.json'}", "-volume.max=1000",
             "-master.volumeSizeLimitMB=1024", *ports, *grpc],
            stdout=self._log, stderr=subprocess.STDOUT, cwd=self._folder,
        )  # fmt: skip
        self._wait()
        return self

    def _wait(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + 90
        while True:
            try:
                client(self.url).create_bucket(Bucket="ready")
                client(self.url).put_object(Bucket="ready", Key="probe", Body=b"1")
                return
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self._folder / "log").read_text()[-2000:]) from None
                time.sleep(0.3)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(2)  # longer, and it would wait for its open connections
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def s3_environment(url: str, cache: Path) -> dict[str, str]:
    """The variables that a user sets: credentials, endpoint, cache directory, timeout."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "VHM_CACHE": str(cache),
        "VHM_S3_TIMEOUT": "20",
    }


def client(url: str):
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
    )  # fmt: skip


@dataclass
class Faults:
    """Shares of requests with each fault. Errors and resets occur before or after the service has acted."""

    error: float = 0.0
    reset: float = 0.0
    truncate: float = 0.0
    flip: float = 0.0
    stall: float = 0.0
    stall_seconds: float = 3.0
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class FaultyProxy:
    """A proxy for an S3 service that injects faults; one connection per request.

    `requests` are the requests so far ("PUT /bucket/key"); `before` is called with each one before it is forwarded.
    While `outage` is set, every connection is reset.
    """

    def __init__(
        self, upstream: int, faults: Faults | None = None, before: Callable[[str], None] = lambda request: None
    ) -> None:
        self._upstream, self.faults, self._before = upstream, faults or Faults(), before
        self.requests: list[str] = []
        self.outage = False
        self._random = random.Random(self.faults.seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    proxy._handle(self.connection, self.rfile)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _draw(self) -> tuple[str, bool, float]:
        with self._lock:
            value, late, position = self._random.random(), self._random.random() < 0.5, self._random.random()
            kind = "none"
            for name in ("error", "reset", "truncate", "flip", "stall"):
                share = getattr(self.faults, name)
                if value < share:
                    kind = name
                    break
                value -= share
            self.faults.counts[kind] += 1
            self.faults.counts["requests"] += 1
            return kind, late, position

    def _handle(self, connection: socket.socket, incoming) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = incoming.readline()
            if not line:
                return
            head += line
        lines = head.decode("latin-1").split("\r\n")
        fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        if fields.get("expect", "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = _body(incoming, fields)
        method, target = lines[0].split(" ")[:2]
        self.requests.append(f"{method} {target}")
        self._before(f"{method} {target}")
        kind, late, position = self._draw()
        if self.outage:
            return self._fail(connection, "reset")
        if kind == "stall":
            time.sleep(self.faults.stall_seconds)
        if kind == "flip" and method == "PUT" and body:
            offset = int(position * len(body))
            body = body[:offset] + bytes([body[offset] ^ 0x10]) + body[offset + 1 :]
        if kind in ("error", "reset") and not late:
            return self._fail(connection, kind)
        kept = [line for line in lines[:-2] if not line.lower().startswith(("connection:", "expect:"))]
        with socket.create_connection(("127.0.0.1", self._upstream), timeout=30) as upstream:
            upstream.sendall("\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1") + body)
            response = b""
            while block := upstream.recv(1 << 20):
                response += block
        if kind in ("error", "reset"):
            return self._fail(connection, kind)
        start = response.find(b"\r\n\r\n") + 4
        if kind == "truncate":
            response = response[: start + (len(response) - start) // 2]
        elif kind == "flip" and method == "GET" and "?" not in target and len(response) > start:
            offset = start + int(position * (len(response) - start))
            response = response[:offset] + bytes([response[offset] ^ 0x10]) + response[offset + 1 :]
        connection.sendall(response)

    def _fail(self, connection: socket.socket, kind: str) -> None:
        if kind == "error":
            message = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>later</Message></Error>"
            connection.sendall(
                b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
                + f"Content-Length: {len(message)}\r\n\r\n".encode() + message
            )  # fmt: skip
        else:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def _body(incoming, fields: dict[str, str]) -> bytes:
    if fields.get("transfer-encoding", "").lower() == "chunked":
        content = b""
        while True:
            line = incoming.readline()
            content += line
            size = int(line.split(b";")[0], 16)
            if size:
                content += incoming.read(size + 2)
                continue
            while (trailer := incoming.readline()) != b"\r\n":
                content += trailer
            return content + b"\r\n"
    return incoming.read(int(fields.get("content-length", "0")))
