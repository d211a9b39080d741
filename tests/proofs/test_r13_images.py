"""R13: mutated images and bombs: no crash, no pixel beyond the limits, little time and memory each."""

from __future__ import annotations

import json
import os
import subprocess
import sys

# Opens each image in one process; prints what came, the longest time and the memory that was added.
OPENER = """
import json, random, sys, time
from tests.support.hostile import mutated, png_header
from vhm.data.images import Limits, load_image
from vhm.errors import ImageError
def memory(name):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(name))
draw = random.Random(13)
limits = Limits(max_pixels=20_000_000)
bombs = [png_header(*draw.choice([(30_000, 1), (1, 99_999), (60_000, 60_000), (2**31 - 1, 2), (9000, 9000)])) for _ in range(50)]
load_image(mutated(random.Random(1)) and open(sys.argv[2], "rb").read())
import rasterio
before, ends, longest, crashed = memory("VmRSS"), {}, 0.0, []
for number, content in enumerate([*bombs, *(mutated(draw) for _ in range(int(sys.argv[1])))]):
    start = time.perf_counter()
    try:
        image = load_image(content, limits)
        assert image.mode == "RGB" and max(image.size) ** 2 <= limits.max_pixels
        end = "read"
        assert number >= len(bombs), "a bomb was opened"
    except ImageError as error:
        end = error.reason
    except Exception as error:
        crashed.append(f"{number}: {type(error).__name__}: {error}")
        end = "crashed"
    longest = max(longest, time.perf_counter() - start)
    ends[end] = ends.get(end, 0) + 1
print(json.dumps({"ends": ends, "crashed": crashed, "longest": longest, "added": memory("VmHWM") - before}))
"""


def test_mutated_images_and_bombs(sample, proof) -> None:
    cases = proof.size(400, 5000)
    picture = next((sample / "images").rglob("*.jpg"))
    done = subprocess.run(
        [sys.executable, "-c", OPENER, str(cases), str(picture)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{os.getcwd()}:{os.getcwd()}/tests"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["crashed"] == []
    assert sum(result["ends"].values()) == cases + 50
    assert result["added"] <= 256
    read = result["ends"].get("read", 0)
    proof.record(
        "R13",
        f"{cases} mutated images and 50 bombs: 0 crashes, {cases + 50 - read} refused with {len(result['ends']) - 1} "
        f"reasons, at most {result['longest']:.2f} s and {result['added']} MB",
    )
