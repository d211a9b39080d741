"""Pictures → the vision tower's input, the same values as the saved processor's, faster.

`squared` gives 8-bit pixels, small enough to keep; `normalised` turns a batch of them into floats.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vhm.data.images import Limits, load_image
from vhm.data.roots import ImageRoot

if TYPE_CHECKING:
    import torch

PAD_COLOUR = (122, 116, 104)
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def squared(image: Image.Image, side: int, pad: bool) -> NDArray[np.uint8]:
    """An RGB image as uint8 [3, side, side]: padded to a square or not, shortest side resized (bicubic),
    centre cropped; what CLIP's processor does before it normalises."""
    if pad and image.width != image.height:
        longest = max(image.size)
        square = Image.new("RGB", (longest, longest), PAD_COLOUR)
        square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        image = square
    if min(image.size) != side or image.width != image.height:
        scale = side / min(image.size)
        size = tuple(side if v == min(image.size) else int(v * scale) for v in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC)  # type: ignore[arg-type]
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def normalised(pixels: list[NDArray[np.uint8]]) -> torch.Tensor:
    """uint8 [3, S, S] pictures as one float32 tensor [B, 3, S, S] with CLIP's mean and deviation."""
    import torch

    batch = torch.from_numpy(np.stack(pixels)).float()
    mean = torch.tensor(MEAN, dtype=torch.float32).view(3, 1, 1) * 255
    std = torch.tensor(STD, dtype=torch.float32).view(3, 1, 1) * 255
    return (batch - mean) / std


class PixelCache:
    """Reads pictures as `squared`, the most recent ones from memory; `max_bytes` bounds what is kept."""

    def __init__(self, root: ImageRoot, side: int, pad: bool, limits: Limits, max_bytes: int = 512 * 2**20) -> None:
        self._root, self._side, self._pad, self._limits = root, side, pad, limits
        self._room = max(1, max_bytes // (3 * side * side))
        self._kept: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def read(self, name: str) -> NDArray[np.uint8]:
        """The picture's pixels. Raises ImageError."""
        found = self._kept.get(name)
        if found is None:
            found = squared(load_image(self._root.read(name), self._limits), self._side, self._pad)
        self._kept[name] = found
        self._kept.move_to_end(name)
        if len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return found
