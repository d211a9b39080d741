"""R11: when a writer is killed while publishing, readers see the old or the new version; of two writers one wins."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from vhm.storage.s3 import S3Uri
from vhm.storage.versions import fetch, publish

_WRITER = """
import sys
from pathlib import Path
from vhm.errors import CheckFailed
from vhm.storage.s3 import parse_uri
from vhm.storage.versions import publish
try:
    publish(Path(sys.argv[1]), parse_uri(sys.argv[2]))
except CheckFailed:
    sys.exit(1)
"""


def test_a_writer_killed_while_publishing_leaves_the_old_or_the_new_version(proof, bucket: str, tmp_path: Path) -> None:
    kills = proof.size(8, 200)
    rng = random.Random(11)
    uri = S3Uri(bucket, "model")
    folder = tmp_path / "folder"
    folder.mkdir()
    versions = set()
    read = {"old": 0, "new": 0}

    def write(number: int) -> None:
        for name in ("weights", "config"):
            (folder / name).write_bytes(
                random.Random(number).randbytes(300_000) if name == "weights" else b"%d" % number
            )

    write(0)
    current = publish(folder, uri)
    versions.add(current)
    write(1)
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", _WRITER, str(folder), str(uri)], check=True)
    duration = time.monotonic() - start
    for number in range(2, kills + 2):
        write(number)
        child = subprocess.Popen([sys.executable, "-c", _WRITER, str(folder), str(uri)], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.4, 1.3) * duration)
        child.send_signal(signal.SIGKILL)
        child.wait()
        version = fetch(uri, tmp_path / "reader")
        weights, config = ((tmp_path / "reader" / name).read_bytes() for name in ("weights", "config"))
        assert weights == random.Random(int(config)).randbytes(300_000), "a mix of two versions"
        assert int(config) in (number, number - 1)
        read["new" if int(config) == number else "old"] += 1
        if int(config) != number:
            version = publish(folder, uri)
        versions.add(version)
    assert fetch(uri, tmp_path / "reader") == version
    proof.record(
        "R11", f"{kills} kills while publishing: readers saw the old {read['old']}×, the new {read['new']}×, no mix"
    )


def test_of_two_concurrent_writers_one_wins(proof, bucket: str, tmp_path: Path) -> None:
    rounds = proof.size(3, 30)
    lost = won = 0
    for number in range(rounds):
        uri = S3Uri(bucket, f"race{number}")
        children = []
        for writer in "ab":
            folder = tmp_path / f"{number}{writer}"
            folder.mkdir()
            (folder / "who").write_text(f"{number}{writer}")
            children.append(
                subprocess.Popen([sys.executable, "-c", _WRITER, str(folder), str(uri)], env=os.environ | {"N": writer})
            )
        statuses = [child.wait(60) for child in children]
        fetch(uri, tmp_path / f"{number}")
        published = (tmp_path / f"{number}" / "who").read_text()
        winners = [f"{number}{writer}" for writer, status in zip("ab", statuses, strict=True) if status == 0]
        assert set(statuses) <= {0, 1}
        assert published in winners, "readers see the version of a writer that failed"
        # If the two did not overlap, both succeed, one after the other.
        lost += statuses.count(1)
        won += statuses.count(0)
    assert won >= rounds
    proof.record(
        "R11", f"{rounds} races of two writers: {won} published, {lost} refused because another writer was first"
    )
