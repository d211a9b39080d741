"""DVC: the sample is the version that data.dvc names, and a remote in S3 brings it elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vhm.io import sha256_tree

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def checkout(folder: Path) -> Path:
    """What a fresh clone has of DVC."""
    (folder / ".dvc").mkdir(parents=True)
    for name in ("data.dvc", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, folder / name)
    run(folder, "git", "init", "-q")
    return folder


def test_a_fresh_machine_is_up_to_date_after_vhm_sample(tmp_path: Path) -> None:
    here = checkout(tmp_path / "here")
    named = (here / "data.dvc").read_bytes()
    run(here, "vhm", "sample", "data")
    assert run(here, "dvc", "status") == "Data and pipelines are up to date.\n"
    assert (here / "data.dvc").read_bytes() == named
    (here / "data" / "golden.json").write_text("[]")
    assert "modified" in run(here, "dvc", "status"), "other bytes are seen"


def test_a_remote_brings_the_data(sample: Path, bucket: str, tmp_path: Path) -> None:
    """Configured by the environment and --local settings, which git does not see."""
    places = []
    for name in ("here", "there"):
        place = checkout(tmp_path / name)
        run(place, "dvc", "remote", "add", "--local", "--default", "storage", f"s3://{bucket}/dvc")
        run(place, "dvc", "remote", "modify", "--local", "storage", "endpointurl", os.environ["AWS_ENDPOINT_URL"])
        run(place, "dvc", "remote", "modify", "--local", "storage", "verify", "true")
        places.append(place)
    here, there = places
    shutil.copytree(sample, here / "data")
    run(here, "dvc", "commit", "--quiet", "--force", "data.dvc")
    run(here, "dvc", "push", "--quiet")
    run(there, "dvc", "pull", "--quiet")
    assert sha256_tree(there / "data") == sha256_tree(sample)
    assert run(there, "dvc", "status") == "Data and pipelines are up to date.\n"
    for place in places:
        assert "config.local" not in run(place, "git", "status", "--porcelain", "--untracked-files=all")
        for path in (place / ".dvc").rglob("config*"):
            assert os.environ["AWS_SECRET_ACCESS_KEY"] not in path.read_text()
