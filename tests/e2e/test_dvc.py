"""DVC: the sample is the version that data.dvc names, and a remote in S3 transfers it to another machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vhm.io import sha256_tree

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def checkout(folder: Path) -> Path:
    """A git repository with the files of DVC that a fresh clone has."""
    (folder / ".dvc").mkdir(parents=True)
    for name in ("data.dvc", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, folder / name)
    run(folder, "git", "init", "-q")
    return folder


def test_vhm_sample_builds_the_data_that_data_dvc_names(tmp_path: Path) -> None:
    here = checkout(tmp_path / "here")
    named = (here / "data.dvc").read_bytes()
    run(here, "vhm", "sample", "data")
    assert run(here, "dvc", "status") == "Data and pipelines are up to date.\n"
    assert (here / "data.dvc").read_bytes() == named
    (here / "data" / "golden.json").write_text("[]")
    assert "modified" in run(here, "dvc", "status"), "changed data are reported"


def test_the_stages_name_no_file_of_the_data() -> None:
    """Lists, images, base and projector come from the recipe, so that another recipe trains on its own data."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    commands = [stage["cmd"] for name, stage in stages.items() if name != "gate"]
    assert len(commands) == 7
    assert all("--recipe ${recipe} --set data.root=${data}" in command for command in commands)
    words = {word for command in commands for word in command.split() if "/" in word}
    assert {word for word in words if not word.startswith("${out}/")} == set()


def test_a_remote_transfers_the_data(sample: Path, bucket: str, tmp_path: Path) -> None:
    """The remote is configured by the environment and --local settings, which git ignores."""
    clones = []
    for name in ("here", "there"):
        clone = checkout(tmp_path / name)
        run(clone, "dvc", "remote", "add", "--local", "--default", "storage", f"s3://{bucket}/dvc")
        run(clone, "dvc", "remote", "modify", "--local", "storage", "endpointurl", os.environ["AWS_ENDPOINT_URL"])
        run(clone, "dvc", "remote", "modify", "--local", "storage", "verify", "true")
        clones.append(clone)
    here, there = clones
    shutil.copytree(sample, here / "data")
    run(here, "dvc", "commit", "--quiet", "--force", "data.dvc")
    run(here, "dvc", "push", "--quiet")
    run(there, "dvc", "pull", "--quiet")
    assert sha256_tree(there / "data") == sha256_tree(sample)
    assert run(there, "dvc", "status") == "Data and pipelines are up to date.\n"
    for clone in clones:
        assert "config.local" not in run(clone, "git", "status", "--porcelain", "--untracked-files=all")
        for path in (clone / ".dvc").rglob("config*"):
            assert os.environ["AWS_SECRET_ACCESS_KEY"] not in path.read_text()
