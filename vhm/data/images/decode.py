"""The only place where an image is opened.

What an image may cost is known before its pixels exist: bytes, format, frames and size are checked on
the header, and the limit counts the square that padding would make of it.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Bands = tuple[int, int, int]

for _library in ("PIL", "rasterio"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)  # what they have to say of a file is in the reason

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")


@dataclass(frozen=True)
class Limits:
    """What an image may cost: file size in bytes, and pixels after padding to a square."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    min_side: int = 1


DEFAULT_LIMITS = Limits()
_ROWS = 256  # stretched at a time
_BITS_PER_SAMPLE, _ORIENTATION = 258, 274  # tags of TIFF 6.0
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def load_image(
    source: str | Path | bytes, limits: Limits = DEFAULT_LIMITS, orient: bool = False, bands: Bands | None = None
) -> Image:
    """An image file's or bytes' pixels as an RGB PIL image.

    Alpha is dropped, palettes and CMYK are converted; pixels of more than 8 bits and floats are stretched between
    the 2nd and 98th percentile of each band, what a TIFF declares as no data left out. `orient` applies the EXIF orientation: for users' pictures, never for
    training or evaluation files, whose boxes are in file pixels. `bands` are those of a TIFF to show as red,
    green and blue, counted from 1; its first three by default. Raises ImageError with a reason code.
    """
    from PIL import Image as images

    return images.fromarray(load_pixels(source, limits, orient, bands))


def load_pixels(
    source: str | Path | bytes,
    limits: Limits = DEFAULT_LIMITS,
    orient: bool = False,
    bands: Bands | None = None,
    at_least: int | None = None,
) -> NDArray[np.uint8]:
    """As `load_image`, the pixels alone: uint8 [height, width, 3].

    `at_least` is for huge JPEG tiles that will be made smaller: it decodes the smallest of 1/8, 1/4, 3/8 … of the
    size whose sides have that many pixels. Raises ImageError.
    """
    content = _read(source, limits)
    where = str(source) if isinstance(source, (str, Path)) else "the image"
    try:
        return _decode(content, where, limits, orient, bands, at_least)
    except ImageError:
        raise
    except Exception as error:  # decoders meet damaged files with errors of every kind
        raise ImageError("image_truncated", f"{where} cannot be decoded ({type(error).__name__})") from None


def _decode(
    content: bytes, where: str, limits: Limits, orient: bool, bands: Bands | None, at_least: int | None
) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    image: Image.Image
    if bands is not None and content[:4] in _TIFF:
        return _raster(content, where, limits, bands)
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if content[:4] in _TIFF:  # several bands, or a sample type that Pillow has no mode for
            return _raster(content, where, limits, bands)
        raise ImageError("image_unknown", f"{where} is not one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError("image_bomb", f"{where} has too many pixels") from None
    except Exception as error:
        raise ImageError("image_truncated", f"{where} has a damaged header ({type(error).__name__})") from None
    _check_size(image.size, where, limits)
    if getattr(image, "n_frames", 1) > 1 and image.format not in ("GIF", "WEBP", "TIFF"):
        raise ImageError("image_mode", f"{where} has several frames")
    if image.format == "JPEG" and image.mode in ("RGB", "L") and not orient:
        pixels = _jpeg(content, image.size, at_least)
        if pixels is not None:
            return pixels
    if image.format == "TIFF" and (_is_deep(image, content) or _is_turned_on_load(image, orient)):
        image = _read_again(image, content, where, limits)
    try:
        image.load()
    except Exception as error:
        raise ImageError("image_truncated", f"{where} cannot be decoded ({type(error).__name__})") from None
    if image.format == "PNG" and _is_deep(image, content):  # it is whole: Pillow has checked its sums
        image = _read_again(image, content, where, limits)
    if orient:
        image = ImageOps.exif_transpose(image)
    try:
        return np.asarray(image.convert("RGB"))
    except Exception:
        raise ImageError("image_mode", f"{where} has the unsupported mode {image.mode}") from None


def _is_deep(image: Image, content: bytes) -> bool:
    """Whether a TIFF or PNG has more than 8 bits a sample: Pillow would take the upper 8, and show a dark picture."""
    if image.format == "PNG":
        return content[24] > 8  # of the header, which is first (PNG specification, 11.2.2)
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8  # type: ignore[attr-defined]


def _is_turned_on_load(image: Image, orient: bool) -> bool:
    """Whether Pillow would turn a TIFF that is to stay as it is stored."""
    return not orient and image.mode in ("L", "RGB", "RGBA") and image.getexif().get(_ORIENTATION, 1) != 1


def _read_again(image: Image, content: bytes, where: str, limits: Limits) -> Image:
    """The picture as rasterio reads it; it keeps its orientation, which nobody has applied yet."""
    from PIL.Image import fromarray

    again = fromarray(_raster(content, where, limits, None))
    again.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return again


def _jpeg(content: bytes, size: tuple[int, int], at_least: int | None) -> NDArray[np.uint8] | None:
    """libjpeg-turbo without Pillow's detours: the same pixels in half the time. None where it has objections,
    for Pillow to judge."""
    import simplejpeg

    least = 0 if at_least is None or min(size) <= at_least else at_least
    try:
        return simplejpeg.decode_jpeg(content, "RGB", min_height=least, min_width=least)
    except (ValueError, RuntimeError):
        return None


def _read(source: str | Path | bytes, limits: Limits) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        where = "the image"
    else:
        path = Path(source)
        where = str(path)
        try:
            size = path.stat().st_size
        except OSError:
            raise ImageError("image_missing", f"{where} does not exist") from None
        if size > limits.max_bytes:
            raise ImageError("image_bomb", f"{where} has {size} bytes, the limit is {limits.max_bytes}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ImageError("image_missing", f"{where} cannot be read ({error.strerror})") from None
    if not content:
        raise ImageError("image_empty", f"{where} has no bytes")
    if len(content) > limits.max_bytes:
        raise ImageError("image_bomb", f"{where} has {len(content)} bytes, the limit is {limits.max_bytes}")
    return content


def _check_size(size: tuple[int, int], where: str, limits: Limits) -> None:
    width, height = size
    if min(size) < limits.min_side:
        raise ImageError("image_size", f"{where} is {width}×{height}")
    if width * height > limits.max_pixels:
        raise ImageError("image_bomb", f"{where} is {width}×{height}, the limit is {limits.max_pixels} pixels")
    if max(size) ** 2 > limits.max_pixels:
        raise ImageError("image_thin", f"{where} is {width}×{height}: padded to a square it exceeds the limit")


def _raster(content: bytes, where: str, limits: Limits, bands: Bands | None) -> NDArray[np.uint8]:
    """Three bands of a TIFF or PNG (or its first one) as RGB, each stretched by its percentiles unless 8-bit."""
    import warnings

    import numpy as np
    import rasterio

    try:
        with warnings.catch_warnings(), rasterio.MemoryFile(content) as file, file.open() as raster:
            warnings.simplefilter("ignore")
            _check_size((raster.width, raster.height), where, limits)
            chosen = bands or ((1, 2, 3) if raster.count >= 3 else (1, 1, 1))
            if max(chosen) > raster.count:
                raise ImageError("image_mode", f"{where} has {raster.count} bands: band {max(chosen)} was asked for")
            found = {band: (raster.read(band), raster.nodatavals[band - 1]) for band in set(chosen)}
    except rasterio.errors.RasterioError as error:
        raise ImageError("image_truncated", f"{where} cannot be decoded ({type(error).__name__})") from None
    shown = {
        band: read if read.dtype == np.uint8 else _stretched(read, nodata) for band, (read, nodata) in found.items()
    }
    return np.stack([shown[band] for band in chosen], -1)


def _stretched(band: NDArray[Any], nodata: float | None) -> NDArray[np.uint8]:
    """Values between the 2nd and the 98th percentile of those that are finite and not `nodata`, as 0 to 255.

    Complex values (radar) are shown by their magnitude.
    """
    import numpy as np

    values = np.abs(band) if np.iscomplexobj(band) else band
    values = values.astype(np.int32 if values.dtype.kind in "iu" and values.itemsize <= 2 else np.float64)
    absent = ~np.isfinite(values)
    if nodata is not None:
        absent |= values == nodata
    present = values[~absent] if absent.any() else values
    low, high = np.percentile(present, [2, 98]) if present.size else (0.0, 1.0)
    shown = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):  # eight bytes a pixel of a whole scene are too many
        rows = slice(top, top + _ROWS)
        scaled = np.where(absent[rows], low, values[rows]).astype(np.float64)
        scaled = (scaled - low) / max(high - low, 1e-12)
        shown[rows] = np.round(np.clip(scaled, 0, 1) * 255)
    return shown
