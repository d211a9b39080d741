"""Opening images: modes, limits before pixels exist, reasons; the fast pixels equal the processor's."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vhm.data.images import Limits, load_image
from vhm.data.pixels import normalised, squared
from vhm.errors import ImageError


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that says its size and carries next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_become_rgb(mode: str) -> None:
    assert load_image(png(Image.new("RGB", (7, 5), (200, 30, 90)).convert(mode))).mode == "RGB"


def test_sixteen_bits_are_stretched_not_clipped() -> None:
    ramp = np.linspace(1000, 9000, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = np.asarray(load_image(png(Image.fromarray(ramp))))
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert 100 < pixels.mean() < 155


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image_empty"),
        (b"hello", "image_unknown"),
        (png(Image.new("RGB", (50, 50), (1, 2, 3)))[:-40], "image_truncated"),
        (header_only_png(30_000, 1), "image_thin"),
        (header_only_png(20_000, 20_000), "image_bomb"),
    ],
)
def test_bad_bytes_are_refused_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(content)
    assert caught.value.reason == reason


def test_a_four_band_float_geotiff_is_stretched_band_by_band() -> None:
    from vhm.data.sample.sources import fetch

    image = load_image(fetch("solaris").read("preproc_tutorial/ms1.tif"))
    pixels = np.asarray(image)
    assert image.size == (300, 300)
    assert [int(np.percentile(pixels[..., band], 50)) > 20 for band in range(3)] == [True] * 3
    assert pixels.max() == 255


def test_byte_limit_is_checked_before_decoding() -> None:
    with pytest.raises(ImageError, match="image_bomb"):
        load_image(png(Image.new("RGB", (50, 50))), Limits(max_bytes=20))


def test_orientation_is_applied_only_when_asked() -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert load_image(buffer.getvalue()).size == (4, 2)
    assert load_image(buffer.getvalue(), orient=True).size == (2, 4)


@pytest.mark.parametrize("size", [(336, 336), (120, 120), (301, 211), (77, 500), (1, 40), (168, 200)])
@pytest.mark.parametrize("pad", [True, False])
def test_fast_pixels_equal_the_saved_processors(base, size: tuple[int, int], pad: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = base[1].image_processor(image, do_pad=pad, return_tensors="pt")["pixel_values"]
    assert float((normalised([squared(image, 168, pad)]) - expected).abs().max()) <= 1e-6
