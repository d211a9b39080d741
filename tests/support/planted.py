"""Secrets that are planted in the environment, and the forms in which they could come out."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable
from pathlib import Path

from tests.support.s3 import SECRET_KEY

PLANTED = {
    "AWS_SESSION_TOKEN_UNUSED": "canary-session-5f1c",
    "HF_TOKEN": "hf_canary9d2e",
    "WANDB_API_KEY": "canary-wandb-77ab",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-31cd",
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, unpacked where it is compressed."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found[str(path)] = gzip.decompress(content) if path.suffix == ".gz" else content
    return found


def hits(looked_at: dict[str, bytes]) -> list[tuple[str, str]]:
    """Where a planted secret is, as it is or in a form in which it may hide."""
    secrets = [SECRET_KEY, *PLANTED.values()]
    return [(name, s) for name, content in looked_at.items() for s in secrets if _any(_forms(s), content)]


def _any(forms: Iterable[bytes], content: bytes) -> bool:
    return any(form in content for form in forms)


def _forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    return [raw, base64.b64encode(raw)[:-2], raw.hex().encode(), raw[::-1]]
