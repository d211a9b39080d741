"""Secrets planted in the environment, and the encodings in which they could leak."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

from tests.support.s3 import SECRET_KEY

PLANTED = {
    "AWS_SESSION_TOKEN_UNUSED": "canary-session-5f1c",
    "HF_TOKEN": "hf_canary9d2e",
    "WANDB_API_KEY": "canary-wandb-77ab",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-31cd",
}


def contents(folder: Path) -> dict[str, bytes]:
    """The contents of all files below a folder by path; gzip files are decompressed."""
    files = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            files[str(path)] = gzip.decompress(content) if path.suffix == ".gz" else content
    return files


def hits(contents: dict[str, bytes]) -> list[tuple[str, str]]:
    """(name, secret) of each content that contains a planted secret, plain or encoded."""
    secrets = [SECRET_KEY, *PLANTED.values()]
    return [(name, secret) for name, content in contents.items() for secret in secrets if _contains(content, secret)]


def _contains(content: bytes, secret: str) -> bool:
    return any(encoded in content for encoded in _encodings(secret))


def _encodings(secret: str) -> list[bytes]:
    raw = secret.encode()
    return [raw, base64.b64encode(raw)[:-2], raw.hex().encode(), raw[::-1]]
