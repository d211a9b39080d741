"""The runners of a local run: mounts and user of a container, and errors before a run starts."""

from __future__ import annotations

import os
from pathlib import Path

import docker
import pytest

from components import IMAGE
from pipelines.local import image_id, make_runner
from pipelines.run import run_pipeline
from vhm.errors import InputError
from vhm.recipe import load_recipe


def test_a_container_reads_the_data_and_writes_as_the_user(tmp_path: Path) -> None:
    arguments = make_runner("docker", tmp_path).container_run_args
    [mount] = arguments["mounts"]
    assert (mount["Source"], mount["Target"], mount["ReadOnly"]) == (str(tmp_path), str(tmp_path), True)
    assert arguments["user"] == f"{os.getuid()}:{os.getgid()}"
    assert arguments["entrypoint"] == ""
    assert arguments["environment"] == {"VHM_COMPONENT": "1"}
    assert "volumes" not in arguments


def test_without_docker_the_error_says_how_to_build_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise docker.errors.DockerException("no daemon\nmore")

    monkeypatch.setattr(docker, "from_env", refuse)
    with pytest.raises(InputError) as error:
        image_id("docker")
    assert str(error.value) == f"image {IMAGE} cannot be used (no daemon): build it with `make image`"


def test_an_unknown_runner_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--runner 'podman' is unknown: use subprocess or docker"):
        run_pipeline(load_recipe("tiny", [f"data.root={tmp_path / 'data'}"]), tmp_path / "out", "podman")
    assert list(tmp_path.iterdir()) == []


def test_absent_data_are_an_error_unless_the_recipe_builds_the_sample(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", [f"data.root={tmp_path / 'data'}", "data.sample=false"])
    with pytest.raises(InputError, match=r"data root .*/data does not exist: set data.root"):
        run_pipeline(recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
