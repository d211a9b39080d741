"""Random malformed records and images. To add a class, add a line: name: (allowed reasons, generator)."""

from __future__ import annotations

import functools
import io
import json
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Record = dict[str, Any]


def good(rng: random.Random, number: int) -> Record:
    """A record that must be accepted: several rounds; Unicode, boxes, brackets and quotes in its text."""
    words = [
        "river",
        "Häuser",
        "图",
        "🛰️",
        'a "quoted" word',
        "[10, 20, 300, 400]",
        "C:\\dir",
        "x < y",
        "tab\there",
        "{}",
        "[1, 2, 3] and [0, 0, 1, 1]",
        "[[10, 20], [30, 20], [30.5, 999.9]]",
        "[2019]",
        "which letter?",
        "not able to park",
    ]
    text = lambda: " ".join(rng.choice(words) for _ in range(rng.randrange(1, 9)))  # noqa: E731
    turns = []
    for turn in range(rng.randrange(1, 4)):
        turns.append({"from": "human", "value": ("<image>\n" if turn == 0 else "") + text()})
        turns.append({"from": "gpt", "value": f"{text()} {number}"})
    return {"id": f"r{number}", "source_dataset": "src", "image": f"good{number % 20}.jpg", "conversations": turns}


def _inserted(rng: random.Random, record: Record, turn: int, text: str) -> Record:
    """The record with `text` at the end of the question (turn 0), or at a random offset in the answer (turn 1)."""
    value = record["conversations"][turn]["value"]
    offset = rng.randrange(len(value) + 1) if turn else len(value)
    record["conversations"][turn]["value"] = value[:offset] + text + value[offset:]
    return record


def _raw(change: Callable[[random.Random, str], str | bytes]) -> Callable[[random.Random, Record], bytes]:
    def make(rng: random.Random, record: Record) -> bytes:
        changed = change(rng, json.dumps(record, ensure_ascii=False))
        return changed if isinstance(changed, bytes) else changed.encode()

    return make


def _set(**values: Any) -> Callable[[random.Random, Record], Record]:
    return lambda rng, record: record | values


def _without(*keys: str) -> Callable[[random.Random, Record], Record]:
    return lambda rng, record: {k: v for k, v in record.items() if k not in keys}


def _turns(change: Callable[[list[Any]], Any]) -> Callable[[random.Random, Record], Record]:
    return lambda rng, record: record | {"conversations": change(record["conversations"])}


def _insert(turn: int, *texts: str) -> Callable[[random.Random, Record], Record]:
    return lambda rng, record: _inserted(rng, record, turn, rng.choice(texts))


def _replaced(record: Record, turn: int, text: str) -> Record:
    record["conversations"][turn]["value"] = text
    return record


RECORDS: dict[str, tuple[str, Callable[[random.Random, Record], Any]]] = {
    "a number": ("not_object", lambda rng, record: rng.randrange(99)),
    "a string": ("not_object", lambda rng, record: "record"),
    "null": ("not_object", lambda rng, record: None),
    "a list": ("not_object", lambda rng, record: [record]),
    "empty": ("missing_field", lambda rng, record: {}),
    "no conversations": ("missing_field", _without("conversations")),
    "conversations of the wrong type": ("wrong_type", _set(conversations="Q and A")),
    "no turns": ("wrong_type", _set(conversations=[])),
    "a turn that is text": ("wrong_type", _turns(lambda turns: [*turns, "text"])),
    "an unknown speaker": ("wrong_type", _turns(lambda turns: [*turns, {"from": "system", "value": "x"}])),
    "a turn without value": ("wrong_type", _turns(lambda turns: [*turns, {"from": "human"}])),
    "a turn of null": ("wrong_type", _turns(lambda turns: [*turns[:1], {"from": "gpt", "value": None}])),
    "a turn of a number": ("wrong_type", _turns(lambda turns: [*turns[:1], {"from": "gpt", "value": 3}])),
    "only answers": ("no_human_turn", _turns(lambda turns: [turns[1]])),
    "two questions": ("alternation", _turns(lambda turns: [turns[0], *turns])),
    "two answers": ("alternation", _turns(lambda turns: [*turns, turns[-1]])),
    "a question without answer": ("alternation", _turns(lambda turns: [*turns, {"from": "human", "value": "more?"}])),
    "an empty answer": ("empty_answer", _turns(lambda turns: [*turns[:-1], {"from": "gpt", "value": ""}])),
    "an answer of spaces": ("empty_answer", _turns(lambda turns: [*turns[:-1], {"from": "gpt", "value": " \n\t "}])),
    "no marker": ("image_count", lambda rng, record: json.loads(json.dumps(record).replace("<image>", ""))),
    "no image": ("image_count", _without("image")),
    "markers in two turns": ("image_count", _turns(lambda t: [*t, {"from": "human", "value": "<image>"}, t[1]])),
    "a marker in an answer": ("special_token", _insert(1, "<image>")),
    "nested markers": ("special_token", _insert(0, "<ima<image>ge>")),
    "an end of sequence": ("special_token", _insert(1, "</s>", "<s>", "<unk>")),
    "a chat token": ("special_token", _insert(0, "<|im_end|>", "<|im_start|>", "<|endoftext|>")),
    "a marker of other media": ("unknown_media", _insert(0, "<video>", "<audio>", "<img>", "<image_2>")),
    "other media": ("unknown_media", _set(video="a.mp4")),
    "several images": ("unknown_media", _set(images=["good0.jpg", "good1.jpg"])),
    "tools": ("tool_call", _set(tools=[{"name": "zoom"}])),
    "a call of a tool": ("tool_call", _turns(lambda turns: [*turns, {"from": "function_call", "value": "{}"}])),
    "a system message that is no text": ("wrong_type", _set(system=["Be brief."])),
    "a chat token in a system message": ("special_token", _set(system="Be brief.<|im_end|>")),
    "a control character": ("control_character", _insert(1, "\x00", "\x07", "\x1b[31m", "\x7f")),
    "a lone surrogate": ("bad_unicode", _raw(lambda rng, text: text[:-1] + ', "x": "\\ud83d"}')),
    "invalid UTF-8": ("bad_unicode", _raw(lambda rng, text: text.encode()[:-1] + b', "x": "\xc3\x28"}')),
    "an overlong UTF-8 form": ("bad_unicode", _raw(lambda rng, text: text.encode()[:-1] + b', "x": "\xc0\xaf"}')),
    "NaN": ("bad_number", _raw(lambda rng, text: text[:-1] + ', "x": NaN}')),
    "infinity": ("bad_number", _raw(lambda rng, text: text[:-1] + ', "x": -Infinity}')),
    "a number too large": ("bad_number", _raw(lambda rng, text: text[:-1] + ', "x": 1e400}')),
    "duplicate keys": ("duplicate_key", _raw(lambda rng, text: text[:-1] + ', "id": "other"}')),
    "duplicate keys inside": (
        "duplicate_key",
        _raw(lambda rng, text: text.replace('"from": "gpt"', '"from": "gpt", "from" : "gpt"', 1)),
    ),
    "nested deeply": ("bad_json", _raw(lambda rng, text: text[:-1] + ', "x": ' + "[" * 20_000 + "]" * 20_000 + "}")),
    "single quotes": ("bad_json", _raw(lambda rng, text: "{'id': 1}")),
    "a trailing comma": ("bad_json", _raw(lambda rng, text: text[:-1] + ",}")),
    "a missing colon": ("bad_json", _raw(lambda rng, text: text.replace('"id":', '"id"', 1))),
    "a comment": ("bad_json", _raw(lambda rng, text: text[:-1] + " /* no */ }")),
    "a bare word": ("bad_json", _raw(lambda rng, text: text[:-1] + ', "x": undefined}')),
    "no content": ("bad_json", _raw(lambda rng, text: " ")),
    "long text": ("too_long", lambda rng, record: _inserted(rng, record, 1, "word " * rng.randrange(5_000, 9_000))),
    "an absolute path": ("bad_path", _set(image="/etc/passwd")),
    "a path with ..": ("bad_path", _set(source_dataset="../../etc", image="passwd")),
    "a path with .. inside": ("bad_path", _set(image="a/../../outside.jpg")),
    "a URL": ("bad_path", _set(image="https://example.org/a.jpg")),
    "a file URL": ("bad_path", _set(image="file:///etc/passwd")),
    "a backslash path": ("bad_path", _set(image="..\\outside.jpg")),
    "a nul in the path": ("bad_path", _set(image="good0.jpg\0.png")),
    "a link out of the image store": ("bad_path", _set(image="link.jpg")),
    "a missing image": ("image_missing", _set(image="absent.jpg")),
    "a folder as image": ("image_unknown", _set(image=".")),
    "an image of the wrong type": ("wrong_type", _set(image=["good0.jpg"])),
    "a source of the wrong type": ("wrong_type", _set(source_dataset=7)),
    "an id of the wrong type": ("wrong_type", _set(id={"a": 1})),
    "a size of the wrong type": ("wrong_type", _set(size="64x64")),
    "a size of zero": ("image_size", _set(size=[0, 0])),
    "an absurd size": ("image_size", _set(size=[10**8, 10**8])),
    "another size": ("image_size", _set(size=[63, 64])),
    "a box out of range": ("bad_number", _insert(1, " [0, 0, 1001, 10] ", " [-1, 0, 5, 5] ")),
    "a box with swapped corners": ("bad_number", _insert(1, " [50, 0, 10, 20] ", " [0, 9.5, 10, 2.5] ")),
    "a polygon of two points": ("bad_number", _insert(1, " [[1, 2], [3, 4]] ")),
    "a polygon out of range": ("bad_number", _insert(1, " [[1, 2], [3, 4], [5000, 6]] ")),
    "boxes in fractions of 1": (
        "bad_number",
        _insert(1, " [0.1, 0.25, 0.5, 0.75] ", " [[0.1, 0.2], [0.3, 0.2], [0.3, 1]] "),
    ),
    "a flat polygon out of range": (
        "bad_number",
        _insert(1, " [10, 20, 30, 40, 50, 1200] ", " [1, 2, 3, 4, 5, -6, 7, 8] "),
    ),
    "a box that is not numbers": (
        "bad_number",
        _insert(1, " [nan, 0, 10, 20] ", " [0, 0, Infinity, 20] ", " [0, 1e3, 4, 2000] "),
    ),
    "letters without options": (
        "no_options",
        _insert(0, " Answer with the letter.", " Answer with the option's letter from the given choices directly."),
    ),
    "a choice without options": (
        "no_options",
        lambda rng, record: _replaced(record, 0, "<image> Please choose the correct option."),
    ),
    "letters without options in a later turn": (
        "no_options",
        _turns(lambda t: [*t, {"from": "human", "value": "And this? Answer with the letter."}, t[1]]),
    ),
    "two markers in a turn": (
        "image_count",
        lambda rng, record: _replaced(record, 0, "<image>\n<image>\nWhat changed?"),
    ),
    "an invisible answer": ("empty_answer", lambda rng, record: _replaced(record, 1, "\u200b \u2060\ufeff")),
    "a token of another model": ("special_token", _insert(1, "<im_patch>", "<|eot_id|>", "<pad>", "<|vision_start|>")),
    "a C1 control character": ("control_character", _insert(0, "\x85", "\x9b31m")),
    "a direction override": ("control_character", _insert(1, "\u202egnp.exe", "\u2066hidden\u2069")),
    "a data URL": ("bad_path", _set(source_dataset="", image="data:image/png;base64,iVBORw0KGgo=")),
    "a drive letter": ("bad_path", _set(source_dataset="C:/images", image="good0.jpg")),
    "a circular link": ("bad_path", _set(image="circle.jpg")),
    "a too long path": ("image_missing", _set(image="a/" * 3_000 + "good0.jpg")),
}


def _encoded(format_: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(buffer, format_)
    return buffer.getvalue()


@functools.cache
def _deep_files(format_: str) -> list[bytes]:
    """Images with 16 and 32 bits per sample, in the layouts of common rasters."""
    from rasterio.io import MemoryFile

    layouts: list[dict[str, Any]] = [{"QUALITY": 100, "REVERSIBLE": True} if format_ == "JP2" else {}]
    if format_ == "TIFF":
        layouts += [{"interleave": "band", "compress": "deflate"}, {"compress": "lzw"}]
        layouts += [{"tiled": True, "blockxsize": 16, "blockysize": 16}]
    files = []
    for dtype in ("uint16", "float32") if format_ == "TIFF" else ("uint16",):
        for bands in (1, 3, 4):
            values = (np.random.default_rng(bands).random((bands, 30, 40)) * 3000).astype(dtype)
            for layout in layouts:
                driver = {"TIFF": "GTiff", "JP2": "JP2OpenJPEG"}.get(format_, format_)
                with warnings.catch_warnings(), MemoryFile() as memory:
                    warnings.simplefilter("ignore")  # the raster is not georeferenced
                    with memory.open(driver=driver, count=bands, height=30, width=40, dtype=dtype, **layout) as file:
                        file.write(values)
                    files.append(memory.read())
    return files


def _deep(rng: random.Random, format_: str) -> bytes:
    return rng.choice(_deep_files(format_))


def png_header(width: int, height: int) -> bytes:
    """A PNG of at most 84 bytes whose header claims this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 16)) + chunk(b"IEND", b"")


@functools.cache
def encoded_once(format_: str) -> bytes:
    """A file in a format that takes long to encode, or that Pillow alone cannot write."""
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    buffer = io.BytesIO()
    if format_ == "HEIC":
        import pillow_heif

        pillow_heif.from_pillow(image).save(buffer)
    elif format_ == "MPO":
        image.save(buffer, "MPO", save_all=True, append_images=[image.rotate(180)])
    else:
        image.save(buffer, {"JP2": "JPEG2000"}.get(format_, format_))
    return buffer.getvalue()


def jp2_header(width: int, height: int, bands: int = 3) -> bytes:
    """A JPEG 2000 codestream whose header claims this size and so many bands (ITU-T T.800, A.5.1)."""
    content = encoded_once("JP2")
    start = content.index(b"\xff\x4f\xff\x51")
    size = struct.pack(">HHIIIIIIIIH", 38 + 3 * bands, 0, width, height, 0, 0, width, height, 0, 0, bands)
    rest = start + 4 + struct.unpack_from(">H", content, start + 4)[0]
    return content[start : start + 4] + size + b"\x07\x01\x01" * bands + content[rest:]


def box_header(format_: str, width: int, height: int) -> bytes:
    """An AVIF or HEIC file whose image property claims this size (ISO/IEC 23008-12, 6.5.3)."""
    content = encoded_once(format_)
    offset = content.index(b"ispe") + 8
    return content[:offset] + struct.pack(">II", width, height) + content[offset + 8 :]


def truncated(rng: random.Random, format_: str) -> bytes:
    content = encoded_once(format_) if format_ in ("AVIF", "HEIC", "JP2") else _encoded(format_)
    return content[: rng.randrange(20, len(content) // 2)]


IMAGES: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "no bytes": ("image_empty", lambda rng: b""),
    "text": ("image_unknown", lambda rng: b"this is no image " * rng.randrange(1, 9)),
    "an HTML page": ("image_unknown", lambda rng: b"<html><script>alert(1)</script></html>"),
    "a link in SVG": (
        "image_unknown",
        lambda rng: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    ),
    "a pickle": ("image_unknown", lambda rng: b"\x80\x04\x95cos\nsystem\n(S'true'\ntR."),
    "PostScript": ("image_unknown", lambda rng: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"),
    "random bytes": ("image_unknown", lambda rng: rng.randbytes(rng.randrange(10, 2000))),
    "a truncated JPEG": ("image_truncated image_unknown", lambda rng: truncated(rng, "JPEG")),
    "a truncated PNG": ("image_truncated image_unknown", lambda rng: truncated(rng, "PNG")),
    "a truncated WebP": ("image_truncated image_unknown", lambda rng: truncated(rng, "WEBP")),
    "a truncated GIF": ("image_truncated image_unknown", lambda rng: truncated(rng, "GIF")),
    "a truncated TIFF": ("image_truncated image_unknown", lambda rng: truncated(rng, "TIFF")),
    "a truncated AVIF": ("image_truncated image_unknown", lambda rng: truncated(rng, "AVIF")),
    "a truncated HEIC": ("image_truncated image_unknown", lambda rng: truncated(rng, "HEIC")),
    "a truncated JPEG 2000": ("image_truncated image_unknown", lambda rng: truncated(rng, "JP2")),
    "a JPEG 2000 bomb": (
        "image_bomb image_truncated",
        lambda rng: jp2_header(rng.randrange(20_000, 60_000), rng.randrange(20_000, 60_000)),
    ),
    "a JPEG 2000 bomb of many bands": (
        "image_bomb image_truncated",
        lambda rng: jp2_header(9_000, 9_000, rng.randrange(10, 2_000)),
    ),
    "a decompression bomb": (
        "image_bomb",
        lambda rng: png_header(rng.randrange(20_000, 60_000), rng.randrange(20_000, 60_000)),
    ),
    "a giant side": ("image_bomb image_thin", lambda rng: png_header(2**31 - 1, rng.randrange(1, 9))),
    "a thin bomb": ("image_thin", lambda rng: png_header(rng.choice([30_000, 99_999]), 1)),
    "a tall thin bomb": ("image_thin", lambda rng: png_header(1, rng.randrange(20_000, 99_999))),
    "a width of zero": ("image_size image_truncated image_unknown", lambda rng: png_header(0, 9)),
}


def mutated(rng: random.Random) -> bytes:
    """A valid image file with some bytes changed, removed or repeated; it may still be readable."""
    formats = ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "deep TIFF", "deep PNG"]
    formats += ["deep JP2", "JP2", "MPO", "AVIF", "HEIC"]
    format_ = rng.choice(formats)
    if format_.startswith("deep"):
        content = bytearray(_deep(rng, format_[5:]))
    else:
        content = bytearray(encoded_once(format_) if format_ in formats[-4:] else _encoded(format_))
    for _ in range(rng.randrange(1, 12)):
        offset = rng.randrange(len(content))
        kind = rng.randrange(4)
        if kind == 0:
            content[offset] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[offset : offset + 4] = rng.randbytes(4)
        elif kind == 2:
            del content[offset : offset + rng.randrange(1, 64)]
        else:
            content[offset:offset] = content[offset : offset + rng.randrange(1, 64)]
        content = content or bytearray(b"\0")
    return bytes(content)
