"""R10: S3 over a failing network: no file is lost or corrupted, no upload is left incomplete."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.s3 import Faults, FaultyProxy, SeaweedFS, client
from vhm.storage.s3 import S3Uri
from vhm.storage.versions import fetch, publish


def test_transfers_survive_a_failing_network(
    proof, bucket: str, s3_server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = proof.size(60, 2000)
    rng = random.Random(10)
    folder = tmp_path / "folder"
    for number in range(count):
        path = folder / f"{number % 7}" / f"{number:05d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Most objects are small, as in practice; a few are large enough for multipart uploads and ranged reads.
        size = 2 ** rng.uniform(10, 20 if number % 25 else 24)
        path.write_bytes(rng.randbytes(int(size) if number % 30 else 20 * 2**20))
    monkeypatch.setenv("VHM_S3_TIMEOUT", "2")
    requests = []
    for name, faults in (
        ("calm", Faults()),
        ("storm", Faults(error=0.2, reset=0.05, truncate=0.02, flip=0.01, stall=0.002, stall_seconds=3)),
    ):
        with FaultyProxy(s3_server.port, faults) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            uri = S3Uri(bucket, name)
            version = publish(folder, uri)
            assert fetch(uri, tmp_path / name) == version
            requests.append(faults.counts["requests"])
    for path in folder.rglob("*.bin"):
        assert (tmp_path / "storm" / path.relative_to(folder)).read_bytes() == path.read_bytes()
    incomplete = client(s3_server.url).list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert not incomplete, "a multipart upload was neither completed nor aborted"
    ratio = requests[1] / requests[0]
    assert ratio <= 2.5
    faults_met = ", ".join(f"{faults.counts[kind]} {kind}" for kind in ("error", "reset", "truncate", "flip", "stall"))
    proof.record(
        "R10", f"{count} objects up and down through {faults_met}: 0 lost, 0 corrupt, 0 orphans, {ratio:.2f}× requests"
    )
