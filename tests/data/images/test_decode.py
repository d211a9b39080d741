"""Decoding images: modes, limits checked in the header, reject reasons, and resizing."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio import Affine

from tests.support.hostile import jp2_header
from vhm.data.images import Limits, load_image, load_pixels
from vhm.data.images.options import ImageOptions, Stretch
from vhm.data.images.resize import bicubic
from vhm.data.images.transform import ImageTransform
from vhm.errors import ImageError


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def header_only_png(width: int, height: int) -> bytes:
    """A PNG whose header has a size and whose data is empty."""

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


def raster(values: np.ndarray, driver: str = "GTiff", **options: Any) -> bytes:
    """[bands, H, W] as a file's bytes."""
    from rasterio.io import MemoryFile

    count, height, width = values.shape
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore")  # the file has no georeference
        with memory.open(driver=driver, count=count, height=height, width=width, dtype=values.dtype, **options) as file:
            file.write(values)
        return memory.read()


def ramps(bands: int, dtype: str = "uint16", low: int = 100, high: int = 2100) -> np.ndarray:
    """Bands that rise from left to right, top to bottom and right to left; 11 of 16 bits, as in sensor data."""
    rise = np.broadcast_to(np.linspace(low, high, 50), (40, 50))
    fall = np.broadcast_to(np.linspace(high, low, 40)[:, None], (40, 50))
    return np.stack([rise, fall, rise[:, ::-1], rise][:bands]).astype(dtype)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "make_file",
    [
        lambda values: raster(values, "PNG"),
        lambda values: raster(values, interleave="pixel"),
        lambda values: raster(values, interleave="band"),
        lambda values: raster(values, interleave="band", compress="deflate"),
        lambda values: raster(values, **({"photometric": "RGB"} if len(values) > 2 else {})),
        lambda values: raster(values, interleave="band", **({"photometric": "RGB"} if len(values) > 2 else {})),
        lambda values: raster(values.astype(np.float32)),
        lambda values: raster(values.astype(np.int16), interleave="band"),
    ],
    ids=["png", "pixel", "band", "deflate", "rgb", "rgb band", "float", "signed"],
)
def test_samples_of_more_than_8_bits_are_stretched_in_any_layout(bands: int, make_file: Any) -> None:
    pixels = load_pixels(make_file(ramps(bands)))
    shown = ramps(bands) if bands > 2 else ramps(1)[[0, 0, 0]]
    low, high = 100 + 0.02 * 2000, 100 + 0.98 * 2000
    expected = np.clip((shown[:3].transpose(1, 2, 0) - low) / (high - low), 0, 1) * 255
    assert pixels.shape == (40, 50, 3)
    assert np.abs(pixels - expected).max() < 6  # the percentiles of so few pixels lie between their values


def test_threads_open_rasters_at_the_same_time() -> None:
    """rasterio's warning of a file without a georeference, an error here, is ignored whatever other threads do."""
    content = raster(ramps(3))
    with ThreadPoolExecutor(8) as pool:
        pixels = list(pool.map(lambda _: load_pixels(content), range(200)))
    assert all(np.array_equal(image, pixels[0]) for image in pixels)


def test_no_data_values_do_not_affect_the_stretch() -> None:
    values = ramps(3, "int16")
    complete = load_pixels(raster(values))
    bordered = np.concatenate([np.full((3, 40, 50), -9999, np.int16), values], axis=2)
    pixels = load_pixels(raster(bordered, nodata=-9999))
    assert np.array_equal(pixels[:, 50:], complete)
    assert not pixels[:, :50].any()


def test_complex_values_are_replaced_by_their_magnitude() -> None:
    values = ramps(1, "float32")
    assert np.array_equal(load_pixels(raster((values * 1j).astype(np.complex64))), load_pixels(raster(values)))


def test_a_damaged_16_bit_image_is_refused() -> None:
    draw = np.random.default_rng(0)
    content = raster(draw.integers(0, 65535, (3, 40, 50), dtype=np.uint16), "PNG")
    for damaged in (content[: len(content) // 2], content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]):
        with pytest.raises(ImageError, match="image_truncated"):
            load_pixels(damaged)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_orientation_of_a_tiff_is_applied_on_request_only(dtype: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(ramps(1, dtype, 0, 250)[0]).save(buffer, "TIFF", tiffinfo={274: 6})  # rotate by 90°
    as_stored = load_pixels(buffer.getvalue())
    assert as_stored.shape == (40, 50, 3)
    assert as_stored[0, 0].max() < as_stored[0, -1].min()
    assert np.array_equal(load_pixels(buffer.getvalue(), orient=True), np.rot90(as_stored, -1))


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
    from vhm.sample.sources import fetch

    image = load_image(fetch("solaris").read("preproc_tutorial/ms1.tif"))
    pixels = np.asarray(image)
    assert image.size == (300, 300)
    assert [int(np.percentile(pixels[..., band], 50)) > 20 for band in range(3)] == [True] * 3
    assert pixels.max() == 255


def test_byte_limit_is_checked_before_decoding() -> None:
    with pytest.raises(ImageError, match="image_bomb"):
        load_image(png(Image.new("RGB", (50, 50))), Limits(max_bytes=20))


def test_exif_orientation_is_applied_on_request_only() -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert load_image(buffer.getvalue()).size == (4, 2)
    assert load_image(buffer.getvalue(), orient=True).size == (2, 4)


def test_jpeg_pixels_equal_pillows() -> None:
    """The fast decoder is bit-identical for every kind of JPEG."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 131, 3), dtype=np.uint8))
    for mode in ("RGB", "L", "CMYK"):
        for options in ({}, {"quality": 30}, {"subsampling": 0}, {"progressive": True}, {"optimize": True}):
            buffer = io.BytesIO()
            noise.convert(mode).save(buffer, "JPEG", **options)
            with Image.open(buffer) as image:
                assert np.array_equal(load_pixels(buffer.getvalue()), np.asarray(image.convert("RGB"))), (mode, options)


def test_scaled_decoding_is_close_to_exact_decoding() -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    smooth.resize((3000, 2000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    content = buffer.getvalue()
    assert load_pixels(content).shape == (2000, 3000, 3)
    assert load_pixels(content, at_least=336).shape == (500, 750, 3), "a quarter: the next smaller step is too small"
    exact, scaled = (ImageTransform(168, scaled_decode=v) for v in (False, True))
    exact, scaled = (t.resize(t.decode(content)).astype(int) for t in (exact, scaled))
    assert np.abs(exact - scaled).mean() < 4


def test_bands_are_selected() -> None:
    from vhm.sample.sources import fetch

    content = fetch("solaris").read("preproc_tutorial/ms1.tif")  # blue, green, red, near infrared
    own, chosen = load_pixels(content), load_pixels(content, options=ImageOptions((3, 2, 1)))
    assert np.array_equal(chosen, own[:, :, ::-1])
    assert not np.array_equal(load_pixels(content, options=ImageOptions((4, 3, 2)))[:, :, 0], own[:, :, 0])
    png_of_three = raster(ramps(3), "PNG")
    assert np.array_equal(load_pixels(png_of_three, options=ImageOptions((4, 3, 2))), load_pixels(png_of_three)), (
        "bands apply to TIFFs only"
    )
    with pytest.raises(ImageError, match="4 bands: band 9"):
        load_pixels(content, options=ImageOptions((9, 1, 1)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_lossless_jpeg_2000_has_the_pixels_of_a_tiff(dtype: str, count: int) -> None:
    """With the same bands, the same stretch, and georeferenced or not."""
    values = ramps(count, dtype, 0, 250)
    tiff = raster(values)
    transform = Affine(10, 0, 500_000, 0, -10, 4_000_000)
    lossless = {"QUALITY": 100, "REVERSIBLE": True}
    for options in ({}, {"crs": "EPSG:32633", "transform": transform}):
        assert np.array_equal(load_pixels(raster(values, "JP2OpenJPEG", **lossless, **options)), load_pixels(tiff))
    if count == 4:
        chosen = ImageOptions((4, 3, 2), Stretch(10, 90))
        content = raster(values, "JP2OpenJPEG", **lossless)
        assert np.array_equal(load_pixels(content, options=chosen), load_pixels(tiff, options=chosen))


def smooth() -> Image.Image:
    """Colours that lossy formats keep to within a few levels."""
    across, down = np.meshgrid(np.linspace(0, 250, 96), np.linspace(0, 250, 64))
    return Image.fromarray(np.stack([across, down, 250 - across], -1).astype(np.uint8))


def encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    if format_ == "HEIC":
        pytest.importorskip("pillow_heif").from_pillow(smooth()).save(buffer, quality=95)
    elif format_ == "MPO":
        smooth().save(buffer, "MPO", save_all=True, append_images=[smooth().rotate(180)], quality=95)
    else:
        smooth().save(buffer, format_, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["AVIF", "HEIC", "MPO"])
def test_other_photograph_formats_are_read(format_: str) -> None:
    """Of an MPO, two photographs of a stereo camera, the first."""
    pixels = load_pixels(encoded(format_))
    assert pixels.shape == (64, 96, 3)
    assert np.abs(pixels.astype(int) - np.asarray(smooth())).mean() < 4
    with pytest.raises(ImageError, match="image_truncated"):
        load_pixels(encoded(format_)[:700])
    with pytest.raises(ImageError, match="image_bomb: the image is 96×64, the limit is 6000 pixels"):
        load_pixels(encoded(format_), Limits(max_pixels=6000))


def test_a_heic_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded("HEIC")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # importing it fails
    with pytest.raises(ImageError, match=r"image_unknown: the image is a HEIC image: install vhm\[heif\] to read it"):
        load_pixels(content)


@pytest.mark.parametrize(("size", "bands"), [((60_000, 60_000), 3), ((9000, 9000), 500), ((30_000, 1), 1)])
def test_the_header_of_a_jpeg_2000_is_checked_before_decoding(size: tuple[int, int], bands: int) -> None:
    with pytest.raises(ImageError, match=r"image_(bomb|thin)"):
        load_pixels(jp2_header(*size, bands))


@pytest.mark.parametrize(
    ("stretch", "low", "high"),
    [(Stretch(0, 100), 100, 2100), (Stretch(10, 50), 300, 1100), (Stretch(0, 10_000, fixed=True), 0, 10_000)],
)
def test_the_stretch_is_between_percentiles_or_fixed_values(stretch: Stretch, low: float, high: float) -> None:
    values = ramps(3)
    pixels = load_pixels(raster(values), options=ImageOptions(stretch=stretch))
    expected = np.clip((values.astype(float).transpose(1, 2, 0) - low) / (high - low), 0, 1) * 255
    step = 2000 / 39 * 255 / (high - low)  # between neighbouring values, where a percentile may lie
    assert np.abs(pixels - expected).max() <= (0.5 if stretch.fixed else step / 2)


def test_samples_of_8_bits_are_never_stretched() -> None:
    values = ramps(3, "uint8", 20, 90)
    options = ImageOptions((3, 2, 1), Stretch(0, 50, fixed=True))
    assert np.array_equal(load_pixels(raster(values), options=options), values[::-1].transpose(1, 2, 0))


@pytest.mark.parametrize("seed", range(40))
def test_resizing_is_bit_identical_to_pillow(seed: int) -> None:
    draw = np.random.default_rng(seed)
    height, width, side = draw.integers(1, 700, 3).tolist()
    scale = side / min(height, width)
    new_height, new_width = (side if v == min(height, width) else min(int(v * scale), 3000) for v in (height, width))
    pixels = draw.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)  # worst for rounding
    expected = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
    assert np.array_equal(bicubic(pixels, new_height, new_width), np.asarray(expected))
