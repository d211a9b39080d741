"""Shared fixtures: the built sample, a reduced one for training in seconds, an S3 service."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.s3 import SeaweedFS, client, s3_environment

if TYPE_CHECKING:
    from tests.support.training import Workshop

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded sample, built once; tests only read it."""
    from vhm.sample import build_sample

    out = tmp_path_factory.mktemp("sample") / "data"
    build_sample(out)
    return out


@pytest.fixture(scope="session")
def cut(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with few records of each kind, so that every stage is short."""
    out = tmp_path_factory.mktemp("cut") / "data"
    shutil.copytree(sample, out)
    for name, step in (("pretrain/list_pretrain.json", 12), ("sft/list_sft.json", 24)):
        path = out / name
        path.write_text(json.dumps(json.loads(path.read_text())[::step]))
    for path in (out / "eval").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text())[:4]))
    golden = out / "golden.json"
    golden.write_text(json.dumps(json.loads(golden.read_text())[::3]))
    return out


@pytest.fixture(scope="session")
def cut_recipe(cut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe for the reduced sample: one epoch, and a gate that every model passes."""
    import yaml

    values = yaml.safe_load((ROOT / "vhm" / "recipe" / "presets" / "tiny.yaml").read_text())
    values["name"] = "cut"
    values["data"] = {"root": str(cut), "max_rejected": 0.01}
    for stage in values["stages"].values():
        stage |= {"epochs": 1, "save_every": 2}
    values["evaluation"] |= {"max_new_tokens": 12, "blind": ["presence"]}
    values["gate"] = {"thresholds": {"presence.accuracy": 0.0}}
    path = tmp_path_factory.mktemp("recipe") / "cut.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def base(sample: Path):
    """The tiny base model and its processor."""
    from vhm.model import load_model

    return load_model(sample / "base")


@pytest.fixture(scope="session")
def manifests(cut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validated manifests of the reduced sample, one folder per kind."""
    from tests.support.lists import validate

    out = tmp_path_factory.mktemp("manifests")
    for kind, name in (("pretrain", "pretrain/list_pretrain.json"), ("sft", "sft/list_sft.json")):
        result = validate(cut / name, cut / "images", out / kind, kind)  # type: ignore[arg-type]
        assert result.passed, result.failures
    return out


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A model of a few thousand parameters and records with and without images; tests only read them."""
    from tests.support.training import make_workshop

    return make_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 service on loopback."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The name of a new bucket; the environment is set so that boto3 finds its service."""
    for name, value in s3_environment(s3_server.url, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    name = f"b{uuid.uuid4().hex[:12]}"
    client(s3_server.url).create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def llama_pieces():
    """(piece, score) pairs of the real Llama 2 vocabulary in order of id."""
    from tests.support.slow_llama import llama_pieces
    from vhm.io import cache_directory

    pieces = llama_pieces(cache_directory() / "packages")
    if pieces is None:
        pytest.skip("npm, which downloads the Llama vocabulary, is not installed")
    return pieces


@pytest.fixture
def reference(llama_pieces, tmp_path: Path) -> Path:
    """A small checkpoint in the reference layout with the real vocabulary."""
    from tests.support.reference_checkpoint import write_reference

    return write_reference(tmp_path / "reference", llama_pieces)
