"""Pictures → the vision tower's input: the values of the saved processor to the last bit, three times as fast.

`squared` gives 8-bit pixels, small enough to keep; `normalised` turns a batch of them into floats.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vhm.data.images import DEFAULT_LIMITS, Limits, load_pixels
from vhm.data.images.cache import DiskCache
from vhm.data.images.resize import bicubic
from vhm.data.images.stores import ImageStore

if TYPE_CHECKING:
    import torch

PAD_COLOUR = (122, 116, 104)
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def squared(image: Image.Image | NDArray[np.uint8], side: int, pad: bool) -> NDArray[np.uint8]:
    """An RGB image ([H, W, 3] or PIL) as uint8 [3, side, side]: padded to a square or not, shortest side resized
    (bicubic), centre cropped; what CLIP's processor does before it normalises."""
    pixels = np.asarray(image, np.uint8)
    height, width = pixels.shape[:2]
    if pad and height != width:
        longest = max(height, width)
        square = np.full((longest, longest, 3), PAD_COLOUR, np.uint8)
        top, left = (longest - height) // 2, (longest - width) // 2
        square[top : top + height, left : left + width] = pixels
        pixels, height, width = square, longest, longest
    shortest = min(height, width)
    if shortest != side:
        height, width = (side if v == shortest else int(v * (side / shortest)) for v in (height, width))
        pixels = bicubic(pixels, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side].transpose(2, 0, 1))


def normalised(pixels: list[NDArray[np.uint8]]) -> torch.Tensor:
    """uint8 [3, S, S] pictures as one float32 tensor [B, 3, S, S] with CLIP's mean and deviation."""
    import torch

    batch = torch.from_numpy(np.stack(pixels)).float()
    mean = torch.tensor(MEAN, dtype=torch.float32).view(3, 1, 1) * 255
    std = torch.tensor(STD, dtype=torch.float32).view(3, 1, 1) * 255
    return batch.sub_(mean).div_(std)


@dataclass(frozen=True)
class View:
    """How a stage sees pictures: the side of the square, padded to it or cropped; `scaled` decodes huge JPEG tiles
    no larger than needed, which is faster and not equal to the bit."""

    side: int
    pad: bool
    limits: Limits = DEFAULT_LIMITS
    bands: tuple[int, int, int] | None = None
    scaled: bool = False

    def of(self, content: bytes) -> NDArray[np.uint8]:
        """An image file's bytes as uint8 [3, side, side]. Raises ImageError."""
        pixels = load_pixels(content, self.limits, bands=self.bands, at_least=self.side if self.scaled else None)
        return squared(pixels, self.side, self.pad)


class PixelCache:
    """Reads pictures, the most recent ones from memory, older ones from `disk` where there is one; `max_bytes`
    bounds what is kept in memory."""

    def __init__(
        self, root: ImageStore, view: View, max_bytes: int = 512 * 2**20, disk: DiskCache | None = None
    ) -> None:
        self._root, self._view, self._disk = root, view, disk
        self._room = max(1, max_bytes // (3 * view.side**2))
        self._kept: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, name: str) -> NDArray[np.uint8]:
        """The picture's pixels; from several threads at once. Raises ImageError."""
        found = self._kept.get(name)
        if found is None:
            found = self._from_disk(name)
        with self._lock:
            self._kept[name] = found
            self._kept.move_to_end(name)
            if len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return found

    def _from_disk(self, name: str) -> NDArray[np.uint8]:
        content = self._root.read(name)
        if self._disk is None:
            return self._view.of(content)
        key = f"{self._view} {hashlib.sha256(content).hexdigest()}"  # other bytes, or seen otherwise: another entry
        kept = self._disk.get(key)
        if kept is not None:
            return np.frombuffer(kept, np.uint8).reshape(3, self._view.side, self._view.side)
        found = self._view.of(content)
        self._disk.put(key, found.tobytes())
        return found
