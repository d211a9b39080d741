"""Images of the report: read through the image stores, reduced, and embedded as data URIs of limited size."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vhm.data.images import load_pixels
from vhm.data.images.stores import ImageStore, open_store
from vhm.data.validation.evaluation_images import store_locations
from vhm.data.validation.report.words import reason_title
from vhm.data.validation.request import ValidationRequest
from vhm.errors import ImageError
from vhm.progress import track

SIDE = 288  # pixels of a thumbnail's longest side
MAX_BYTES = 14_000
# Longest side in pixels and JPEG quality: the first that is small enough. Only noise needs the last ones.
_ENCODINGS = ((SIDE, 82), (SIDE, 70), (SIDE, 55), (SIDE, 40), (200, 40), (144, 40))
_THREADS, _REMOTE_THREADS = 2, 16  # to hide the latency of a disk, and of a network


@dataclass(frozen=True)
class ImageRef:
    """An image by its name in the training lists' image store, or in those of the evaluation lists.

    The bands and the stretch it is shown with are those of the record's source.
    """

    name: str
    source: str = ""
    evaluation: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI with its (width, height) on the page; without one, `note` says why."""

    uri: str = ""
    size: tuple[int, int] = (SIDE, SIDE)
    note: str = ""


def thumbnails(images: Iterable[ImageRef], request: ValidationRequest) -> dict[ImageRef, Thumbnail]:
    """A thumbnail of each image, read once. Raises StorageError or InputError when a store does not answer."""
    wanted = list(dict.fromkeys(images))
    if request.skip_images:
        return dict.fromkeys(wanted, Thumbnail(note="Images were not checked"))
    training = [open_store(request.images)]
    evaluation = list(map(open_store, store_locations(request)))

    def thumbnail(image: ImageRef) -> Thumbnail:
        return _thumbnail(image, evaluation if image.evaluation else training, request)

    remote = any(store.remote for store in (*training, *evaluation))
    with ThreadPoolExecutor(_REMOTE_THREADS if remote else _THREADS) as threads:
        made = track(threads.map(thumbnail, wanted), "images of the report", len(wanted))
        return dict(zip(wanted, made, strict=True))


def _thumbnail(image: ImageRef, stores: Sequence[ImageStore], request: ValidationRequest) -> Thumbnail:
    """The image from the first store that has it."""
    note = "no image"
    for store in stores:
        try:
            return _encode(store.read(image.name), image.source, request)
        except ImageError as error:
            note = reason_title(error.reason)
    return Thumbnail(note=note)


def _encode(content: bytes, source: str, request: ValidationRequest) -> Thumbnail:
    from PIL import Image

    options = request.image_options.of(source)
    pixels = load_pixels(content, request.limits, options=options, at_least=2 * SIDE)
    picture = Image.fromarray(pixels)
    encoded = b""
    for side, quality in _ENCODINGS:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        encoded = buffer.getvalue()
        if len(encoded) <= MAX_BYTES:
            break
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}", picture.size)
