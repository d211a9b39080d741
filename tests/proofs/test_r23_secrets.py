"""R23: secrets of the environment occur in nothing that is written, printed, compiled or uploaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.planted import PLANTED, contents, hits
from tests.support.s3 import SECRET_KEY, SeaweedFS, client


def test_planted_secrets_do_not_leak(
    proof, cut: Path, cut_recipe: Path, bucket: str, s3_server: SeaweedFS, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    environment = os.environ | PLANTED
    lists = ["--images", str(cut / "images"), "--kind", "sft"]
    secret_uri = f"s3://someone:{SECRET_KEY}@bucket/x"
    calls = [
        (0, ["pipeline", "compile", "--out", "compiled.yaml"]),
        (0, ["validate", str(cut / "sft/list_sft.json"), *lists, "--out", "manifest"]),
        (0, ["data", "pack", "manifest", "--images", str(cut / "images"), "--out", "packed"]),
        (0, ["data", "push", "packed", f"s3://{bucket}/data"]),
        (0, ["data", "pull", f"s3://{bucket}/data", "--out", "pulled"]),
        (0, ["deploy", "--model-uri", f"s3://{bucket}/model", "--dry-run"]),
        (
            0,
            ["warm-start", "--base", str(cut / "base"), "--projector", str(cut / "mm_projector.bin"), "--out", "model"],
        ),
        (2, ["data", "push", "packed", "s3://no-such-bucket/x"]),
        (2, ["--debug", "data", "pull", f"s3://{bucket}/nothing", "--out", "x"]),
        (2, ["data", "push", "packed", secret_uri]),
        (2, ["train", "sft", "--model", "model", "--data", "manifest", "--images", secret_uri, "--out", "trained"]),
        (2, ["pipeline", "run", "--recipe", str(cut_recipe), "--set", f"storage.models={secret_uri}", "--out", "run"]),
    ]
    printed = b""
    for status, arguments in calls:
        command = [sys.executable, "-m", "vhm.cli", *arguments]
        process = subprocess.run(command, cwd=work, env=environment, capture_output=True, timeout=300)
        assert process.returncode == status, (arguments, process.stderr.decode()[-800:])
        printed += process.stdout + process.stderr
    outputs = {"printed": printed} | contents(work)
    s3 = client(s3_server.url)
    for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        outputs[entry["Key"]] = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
    assert hits(outputs) == []
    assert any("compiled.yaml" in name for name in outputs)
    size = sum(map(len, outputs.values())) / 1e6
    proof.record(
        "R23", f"{1 + len(PLANTED)} planted secrets: 0 hits in {len(outputs)} files and outputs ({size:.0f} MB)"
    )
