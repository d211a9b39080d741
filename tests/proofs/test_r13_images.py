"""R13: mutated images and decompression bombs cause no crash, no image beyond the limits, and take little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

# Opens all images in one process; prints the outcomes, the longest duration and the additional memory.
OPENER = """
import json, random, sys, time
from tests.support.hostile import box_header, jp2_header, mutated, png_header
from vhm.data.images import Limits, load_image
from vhm.errors import ImageError
def memory(name):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(name))
rng = random.Random(13)
limits = Limits(max_pixels=20_000_000)
sizes = [(30_000, 1), (1, 99_999), (60_000, 60_000), (2**31 - 1, 2), (9000, 9000)]
bombs = [png_header(*rng.choice(sizes)) for _ in range(30)]
bombs += [jp2_header(*rng.choice(sizes)) for _ in range(5)] + [jp2_header(4000, 4000, 900) for _ in range(5)]
bombs += [box_header(format_, *rng.choice(sizes)) for format_ in ("AVIF", "HEIC") for _ in range(5)]
load_image(mutated(random.Random(1)) and open(sys.argv[2], "rb").read())
import rasterio
before, outcomes, longest, crashed = memory("VmRSS"), {}, 0.0, []
for number, content in enumerate([*bombs, *(mutated(rng) for _ in range(int(sys.argv[1])))]):
    start = time.perf_counter()
    try:
        image = load_image(content, limits)
        assert image.mode == "RGB" and max(image.size) ** 2 <= limits.max_pixels
        outcome = "read"
        assert number >= len(bombs), "a bomb was opened"
    except ImageError as error:
        outcome = error.reason
    except Exception as error:
        crashed.append(f"{number}: {type(error).__name__}: {error}")
        outcome = "crashed"
    longest = max(longest, time.perf_counter() - start)
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(json.dumps({"outcomes": outcomes, "crashed": crashed, "longest": longest, "added": memory("VmHWM") - before}))
"""


def test_mutated_images_and_bombs_cause_no_crash(sample, proof) -> None:
    cases = proof.size(400, 5000)
    valid = next((sample / "images").rglob("*.jpg"))
    process = subprocess.run(
        [sys.executable, "-c", OPENER, str(cases), str(valid)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{os.getcwd()}:{os.getcwd()}/tests"},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["crashed"] == []
    assert sum(result["outcomes"].values()) == cases + 50
    assert result["added"] <= 256
    read = result["outcomes"].get("read", 0)
    proof.record(
        "R13",
        f"{cases} mutated images and 50 bombs: 0 crashes, {cases + 50 - read} rejected "
        f"with {len(result['outcomes']) - 1} reasons, at most {result['longest']:.2f} s and {result['added']} MB",
    )
