"""Pictures that look like ground from above: fractal relief with fields and roads, drawn from a seed."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def terrain(seed: int, side: int = 256) -> Image.Image:
    draw = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    bands = []
    relief = draw.normal(size=(side, side))
    for _ in range(3):
        noise = relief + 0.5 * draw.normal(size=(side, side))
        field = np.fft.ifft2(np.fft.fft2(noise) / frequency ** draw.uniform(0.8, 1.5)).real
        bands.append(draw.uniform(70, 160) + draw.uniform(15, 45) * (field - field.mean()) / field.std())
    image = Image.fromarray(np.clip(np.stack(bands, -1), 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(draw.integers(0, 6))):
        corner, size = draw.integers(0, side, 2), draw.integers(10, side // 3, 2)
        colour = tuple(int(v) for v in draw.integers(40, 220, 3))
        pen.rectangle([*corner.tolist(), *(corner + size).tolist()], fill=colour)
    for _ in range(int(draw.integers(0, 3))):
        ends = draw.integers(0, side, 4).tolist()
        pen.line(ends, fill=(190, 185, 180), width=int(draw.integers(2, 6)))
    return image
