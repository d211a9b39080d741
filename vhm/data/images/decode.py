"""Image files → RGB pixels. No other module opens an image.

    JPEG, MPO                       libjpeg-turbo, or Pillow; an MPO is its first image
    PNG, WebP, BMP, GIF, AVIF       Pillow; an animation is its first image
    HEIC                            pillow-heif, where it is installed (vhm[heif]); the primary image
    TIFF                            Pillow, or GDAL for several bands and deep samples
    JPEG 2000                       GDAL

File size, format, number of frames and dimensions are checked in the header before any pixel is decoded. The limit on
pixels applies to the square that padding would make of the image.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.data.images.options import DEFAULT_OPTIONS, ImageOptions, Stretch
from vhm.data.images.rasters import open_raster
from vhm.errors import BandError, ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Pixels = NDArray[np.uint8]

for _library in ("PIL", "rasterio"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)  # problems are reported as ImageError

FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF", "HEIC", "JPEG 2000")
_PILLOW = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF")  # its reader of JPEG reads MPO
_OF_SEVERAL_IMAGES = ("MPO", "GIF", "WEBP", "TIFF", "AVIF", "HEIF")


@dataclass(frozen=True)
class Limits:
    """Limits on an image: bytes of its file, pixels after padding to a square, pixels of its shorter side."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    min_side: int = 1


DEFAULT_LIMITS = Limits()
_ROWS = 256  # rows that are stretched at a time
_BITS_PER_SAMPLE, _ORIENTATION = 258, 274  # TIFF 6.0 tags
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")  # a JP2 file, a bare codestream
_HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"))  # brands, ISO/IEC 23008-12
_AVIF = frozenset((b"avif", b"avis"))
_DRIVERS = ["GTiff", "COG", "PNG", "JP2OpenJPEG"]  # of GDAL; others follow references to other files
_MAX_SAMPLES = 4  # JPEG 2000 is decoded with all its bands: samples, at most, as a multiple of the limit on pixels


def load_image(
    source: str | Path | bytes,
    limits: Limits = DEFAULT_LIMITS,
    orient: bool = False,
    options: ImageOptions = DEFAULT_OPTIONS,
) -> Image:
    """An image file or its bytes as an RGB PIL image.

    Alpha is dropped; palettes and CMYK are converted. Samples of more than 8 bits and floats are stretched as `options`
    say (by default between the 2nd and 98th percentile of each band), ignoring a TIFF's no-data value. `orient` applies
    the EXIF orientation: for users' images, never for training or evaluation files, whose boxes are in file pixels.
    Raises ImageError with a reason code.
    """
    from PIL import Image as images

    return images.fromarray(load_pixels(source, limits, orient, options))


def load_pixels(
    source: str | Path | bytes,
    limits: Limits = DEFAULT_LIMITS,
    orient: bool = False,
    options: ImageOptions = DEFAULT_OPTIONS,
    at_least: int | None = None,
) -> Pixels:
    """As `load_image`, but as an array: uint8 [height, width, 3].

    `at_least` saves time for large JPEG files that will be reduced: they are decoded at the smallest of the scales
    1/8, 1/4, 3/8 … at which both sides have that many pixels. Raises ImageError.
    """
    content = _read(source, limits)
    where = str(source) if isinstance(source, (str, Path)) else "the image"
    try:
        return _decode(content, where, limits, orient, options, at_least)
    except (ImageError, MemoryError):  # the sizes are within the limits: this machine, not the image, lacks memory
        raise
    except Exception as error:  # decoders raise errors of every kind for damaged files
        raise ImageError("image_truncated", f"{where} cannot be decoded ({type(error).__name__})") from None


def _decode(
    content: bytes, where: str, limits: Limits, orient: bool, options: ImageOptions, at_least: int | None
) -> Pixels:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    if content.startswith(_JPEG2000) or (options.bands is not None and content[:4] in _TIFF):
        return _raster(content, where, limits, options)
    try:
        image = _open(content, where)
    except UnidentifiedImageError:
        if content[:4] in _TIFF:  # several bands, or a sample type without a Pillow mode
            return _raster(content, where, limits, options)
        if _brands(content) & _AVIF:
            raise ImageError("image_truncated", f"{where} is a damaged AVIF image") from None
        raise ImageError("image_unknown", f"{where} is not one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError("image_bomb", f"{where} has too many pixels") from None
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("image_truncated", f"{where} has a damaged header ({type(error).__name__})") from None
    _check_size(image.size, where, limits)
    if getattr(image, "n_frames", 1) > 1 and image.format not in _OF_SEVERAL_IMAGES:
        raise ImageError("image_mode", f"{where} has several frames")
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and not orient:
        pixels = _jpeg(content, image.size, at_least)
        if pixels is not None:
            return pixels
    if image.format == "TIFF" and (_is_deep(image, content) or _is_rotated_by_pillow(image, orient)):
        image = _reread(image, content, where, limits, options.stretch)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError("image_truncated", f"{where} cannot be decoded ({type(error).__name__})") from None
    if image.format == "PNG" and _is_deep(image, content):  # Pillow has verified the checksums
        image = _reread(image, content, where, limits, options.stretch)
    if orient:
        image = ImageOps.exif_transpose(image)
    try:
        return np.asarray(image.convert("RGB"))
    except Exception:
        raise ImageError("image_mode", f"{where} has the unsupported mode {image.mode}") from None


def _open(content: bytes, where: str) -> Image:
    """The image with its header read. Raises UnidentifiedImageError, or what the format's reader raises."""
    from PIL import Image as images
    from PIL import features

    brands = _brands(content)
    if brands & _AVIF and not features.check("avif"):
        raise ImageError("image_unknown", f"{where} is an AVIF image, which this build of Pillow cannot read")
    if brands & _AVIF or not brands & _HEIC:
        return images.open(io.BytesIO(content), formats=_PILLOW)
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("image_unknown", f"{where} is a HEIC image: install vhm[heif] to read it") from None
    opened: Image = pillow_heif.HeifImageFile(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return opened


def _brands(content: bytes) -> set[bytes]:
    """The brands in the first box of an ISO base media file; empty for any other file."""
    if content[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(content[:4], "big"), 256)
    return {content[at : at + 4] for at in (8, *range(16, size - 3, 4))}


def _is_deep(image: Image, content: bytes) -> bool:
    """Whether a TIFF or PNG has more than 8 bits per sample. Pillow would use the upper 8, a dark image."""
    if image.format == "PNG":
        return content[24] > 8  # the bit depth in the header chunk, which is first (PNG specification, 11.2.2)
    bits: tuple[int, ...] = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
    return max(bits) > 8


def _is_rotated_by_pillow(image: Image, orient: bool) -> bool:
    """Whether Pillow would apply the orientation of a TIFF although `orient` is off."""
    return not orient and image.mode in ("L", "RGB", "RGBA") and image.getexif().get(_ORIENTATION, 1) != 1


def _reread(image: Image, content: bytes, where: str, limits: Limits, stretch: Stretch) -> Image:
    """The image as read by rasterio, with the orientation tag of the original, which is not yet applied."""
    from PIL.Image import fromarray

    reread = fromarray(_raster(content, where, limits, ImageOptions(stretch=stretch)))
    reread.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return reread


def _jpeg(content: bytes, size: tuple[int, int], at_least: int | None) -> Pixels | None:
    """Pixels decoded by libjpeg-turbo: the same as Pillow's in half the time. None if it fails; Pillow then decodes."""
    import simplejpeg

    least = 0 if at_least is None or min(size) <= at_least else at_least
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=least, min_width=least)
        return pixels
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


def _raster(content: bytes, where: str, limits: Limits, options: ImageOptions) -> Pixels:
    """Three bands of a TIFF, PNG or JPEG 2000, or its first one, as RGB; bands of more than 8 bits are stretched."""
    import numpy as np
    import rasterio

    most_samples = _MAX_SAMPLES * limits.max_pixels
    try:
        with open_raster(content, _DRIVERS) as raster:
            _check_size((raster.width, raster.height), where, limits)
            if raster.driver == "JP2OpenJPEG" and raster.count * raster.width * raster.height > most_samples:
                raise ImageError("image_bomb", f"{where} has {raster.count} bands of {raster.width}×{raster.height}")
            chosen = options.bands or ((1, 2, 3) if raster.count >= 3 else (1, 1, 1))
            if max(chosen) > raster.count:
                detail = f"{where} has {raster.count} bands: band {max(chosen)} was requested"
                raise BandError(raster.count, detail)
            read = {band: (raster.read(band), raster.nodatavals[band - 1]) for band in set(chosen)}
    except rasterio.errors.RasterioError as error:
        raise ImageError("image_truncated", f"{where} cannot be decoded ({type(error).__name__})") from None
    stretched = {
        band: values if values.dtype == np.uint8 else _stretch(values, nodata, options.stretch)
        for band, (values, nodata) in read.items()
    }
    return np.stack([stretched[band] for band in chosen], -1)


def _stretch(band: NDArray[np.generic], nodata: float | None, stretch: Stretch) -> Pixels:
    """Map the range of `stretch` to 0 to 255; values that are not finite, or equal `nodata`, become 0.

    Complex values (radar) are replaced by their magnitude.
    """
    import numpy as np

    values = np.abs(band) if np.iscomplexobj(band) else band
    values = values.astype(np.int32 if values.dtype.kind in "iu" and values.itemsize <= 2 else np.float64)
    absent = ~np.isfinite(values)
    if nodata is not None:
        absent |= values == nodata
    low, high = stretch.low, stretch.high
    if not stretch.fixed:
        present = values[~absent] if absent.any() else values
        low, high = np.percentile(present, [low, high]) if present.size else (0.0, 1.0)
    stretched = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):  # float64 of a complete scene takes too much memory
        rows = slice(top, top + _ROWS)
        scaled = np.where(absent[rows], low, values[rows]).astype(np.float64)
        scaled = (scaled - low) / max(high - low, 1e-12)
        stretched[rows] = np.round(np.clip(scaled, 0, 1) * 255)
    return stretched
