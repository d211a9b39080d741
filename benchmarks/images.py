"""JPEG bytes → the vision tower's input, and validation of a list with images, compared with the decoder alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from benchmarks.timing import compare


def jpeg(side: int, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pixels(side: int) -> str:
    """JPEG bytes → 3×336×336 float, compared with PIL and Hugging Face's PIL processor."""
    import simplejpeg
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    from vhm.data.images.resize import bicubic
    from vhm.data.images.transform import ImageTransform

    transform = ImageTransform(336)
    content = jpeg(side)
    size = {"height": 336, "width": 336}
    processor = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 336}, crop_size=size)

    def ours() -> torch.Tensor:
        return transform.normalise([transform.resize(transform.decode(content))])

    def baseline() -> torch.Tensor:
        return processor(Image.open(io.BytesIO(content)).convert("RGB"), return_tensors="pt")["pixel_values"]

    assert torch.allclose(ours(), baseline(), rtol=0, atol=1e-6)
    comparison = compare(f"JPEG {side}² → 3×336×336", "PIL + Hugging Face's processor", ours, baseline)
    limit = compare("", "", lambda: bicubic(simplejpeg.decode_jpeg(content), 336, 336), ours)
    return f"{comparison}; {limit.ours / limit.baseline:.0%} of decoder + resize alone"


def images(few: int = 4_000, many: int = 20_000, side: int = 1024) -> Iterator[str]:
    """`vhm validate` of a list with images, compared with the decoder alone on the same files and all cores.

    Measures the difference of two lists, because starting processes and Great Expectations take a constant time.
    """
    with tempfile.TemporaryDirectory(prefix="vhm-bench-") as folder:
        image_folder = Path(folder) / "images"
        image_folder.mkdir()
        contents = [jpeg(side, seed) for seed in range(40)]
        for number in range(many):
            path = image_folder / f"{number}.jpg"
            if number < len(contents):
                path.write_bytes(contents[number])
            else:
                os.link(image_folder / f"{number % len(contents)}.jpg", path)
        seconds = [_validate(Path(folder), image_folder, count) for count in (few, many)]
        ours = (many - few) / (seconds[1] - seconds[0])
        paths = [str(image_folder / f"{number}.jpg") for number in range(many - few)]
        with ProcessPoolExecutor() as processes:
            list(processes.map(_decode, paths[:64], chunksize=8))
            start = time.perf_counter()
            list(processes.map(_decode, paths, chunksize=64))
            decoded = len(paths) / (time.perf_counter() - start)
        yield (
            f"validating with images of {side}² {ours:13.0f} images/s, {ours / decoded:.0%} of the decoder alone "
            f"({decoded:.0f}/s on {os.cpu_count()} cores)"
        )


def _validate(folder: Path, image_folder: Path, count: int) -> float:
    """Seconds of `vhm validate` for a list of `count` records."""
    turns = [{"from": "human", "value": "<image>\nDescribe."}]
    records = [
        {
            "id": f"{n}",
            "image": f"{n}.jpg",
            "conversations": [*turns, {"from": "gpt", "value": f"A caption about {n}."}],
        }
        for n in range(count)
    ]
    (folder / "list.json").write_text(json.dumps(records))
    command = [sys.executable, "-m", "vhm.cli", "validate", str(folder / "list.json"), "--images", str(image_folder)]
    start = time.perf_counter()
    subprocess.run([*command, "--out", str(folder / f"out{count}")], check=True, capture_output=True)
    return time.perf_counter() - start


def _decode(path: str) -> int:
    import simplejpeg

    return int(simplejpeg.decode_jpeg(Path(path).read_bytes()).nbytes)
