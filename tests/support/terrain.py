"""Random images that resemble aerial views: fractal relief with fields and roads."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def terrain(seed: int, side: int = 256) -> Image.Image:
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    bands = []
    relief = rng.normal(size=(side, side))
    for _ in range(3):
        noise = relief + 0.5 * rng.normal(size=(side, side))
        field = np.fft.ifft2(np.fft.fft2(noise) / frequency ** rng.uniform(0.8, 1.5)).real
        bands.append(rng.uniform(70, 160) + rng.uniform(15, 45) * (field - field.mean()) / field.std())
    image = Image.fromarray(np.clip(np.stack(bands, -1), 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 6))):
        corner, size = rng.integers(0, side, 2), rng.integers(10, side // 3, 2)
        colour = tuple(int(v) for v in rng.integers(40, 220, 3))
        pen.rectangle([*corner.tolist(), *(corner + size).tolist()], fill=colour)
    for _ in range(int(rng.integers(0, 3))):
        ends = rng.integers(0, side, 4).tolist()
        pen.line(ends, fill=(190, 185, 180), width=int(rng.integers(2, 6)))
    return image
