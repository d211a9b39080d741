"""Malformed records and images, drawn from a seed. To add a class, add a line: (reasons allowed, generator)."""

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


def good(draw: random.Random, number: int) -> Record:
    """A record that must be accepted: several rounds, unicode, boxes, brackets and quotes in its text."""
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
    text = lambda: " ".join(draw.choice(words) for _ in range(draw.randrange(1, 9)))  # noqa: E731
    turns = []
    for place in range(draw.randrange(1, 4)):
        turns.append({"from": "human", "value": ("<image>\n" if place == 0 else "") + text()})
        turns.append({"from": "gpt", "value": f"{text()} {number}"})
    return {"id": f"r{number}", "source_dataset": "src", "image": f"good{number % 20}.jpg", "conversations": turns}


def _in(draw: random.Random, record: Record, speaker: int, text: str) -> Record:
    """`text` somewhere in a turn of the human (0) or the model (1)."""
    turn = record["conversations"][speaker]
    place = draw.randrange(len(turn["value"]) + 1) if speaker else len(turn["value"])
    turn["value"] = turn["value"][:place] + text + turn["value"][place:]
    return record


def _raw(change: Callable[[random.Random, str], str | bytes]) -> Callable[[random.Random, Record], bytes]:
    def make(draw: random.Random, record: Record) -> bytes:
        changed = change(draw, json.dumps(record, ensure_ascii=False))
        return changed if isinstance(changed, bytes) else changed.encode()

    return make


def _set(**values: Any) -> Callable[[random.Random, Record], Record]:
    return lambda draw, record: record | values


def _without(*keys: str) -> Callable[[random.Random, Record], Record]:
    return lambda draw, record: {k: v for k, v in record.items() if k not in keys}


def _turns(change: Callable[[list[Any]], Any]) -> Callable[[random.Random, Record], Record]:
    return lambda draw, record: record | {"conversations": change(record["conversations"])}


def _text(speaker: int, *texts: str) -> Callable[[random.Random, Record], Record]:
    return lambda draw, record: _in(draw, record, speaker, draw.choice(texts))


def _said(record: Record, turn: int, text: str) -> Record:
    record["conversations"][turn]["value"] = text
    return record


RECORDS: dict[str, tuple[str, Callable[[random.Random, Record], Any]]] = {
    "a number": ("not_object", lambda draw, record: draw.randrange(99)),
    "a string": ("not_object", lambda draw, record: "record"),
    "null": ("not_object", lambda draw, record: None),
    "a list": ("not_object", lambda draw, record: [record]),
    "empty": ("missing_field", lambda draw, record: {}),
    "no conversations": ("missing_field", _without("conversations")),
    "conversations of another type": ("wrong_type", _set(conversations="Q and A")),
    "no turns": ("wrong_type", _set(conversations=[])),
    "a turn that is text": ("wrong_type", _turns(lambda turns: [*turns, "text"])),
    "an unknown speaker": ("wrong_type", _turns(lambda turns: [*turns, {"from": "system", "value": "x"}])),
    "a turn without value": ("wrong_type", _turns(lambda turns: [*turns, {"from": "human"}])),
    "a turn of null": ("wrong_type", _turns(lambda turns: [*turns[:1], {"from": "gpt", "value": None}])),
    "a turn of a number": ("wrong_type", _turns(lambda turns: [*turns[:1], {"from": "gpt", "value": 3}])),
    "only answers": ("no_human_turn", _turns(lambda turns: [turns[1]])),
    "two questions": ("alternation", _turns(lambda turns: [turns[0], *turns])),
    "two answers": ("alternation", _turns(lambda turns: [*turns, turns[-1]])),
    "a last question": ("alternation", _turns(lambda turns: [*turns, {"from": "human", "value": "more?"}])),
    "an empty answer": ("empty_answer", _turns(lambda turns: [*turns[:-1], {"from": "gpt", "value": ""}])),
    "an answer of spaces": ("empty_answer", _turns(lambda turns: [*turns[:-1], {"from": "gpt", "value": " \n\t "}])),
    "no marker": ("image_count", lambda d, r: json.loads(json.dumps(r).replace("<image>", ""))),
    "no image": ("image_count", _without("image")),
    "markers in two turns": ("image_count", _turns(lambda t: [*t, {"from": "human", "value": "<image>"}, t[1]])),
    "a marker in an answer": ("special_token", _text(1, "<image>")),
    "nested markers": ("special_token", _text(0, "<ima<image>ge>")),
    "an end of sequence": ("special_token", _text(1, "</s>", "<s>", "<unk>")),
    "a chat token": ("special_token", _text(0, "<|im_end|>", "<|im_start|>", "<|endoftext|>")),
    "a control character": ("control_character", _text(1, "\x00", "\x07", "\x1b[31m", "\x7f")),
    "a lone surrogate": ("bad_unicode", _raw(lambda d, t: t.replace("}", "", 0)[:-1] + ', "x": "\\ud83d"}')),
    "invalid UTF-8": ("bad_unicode", _raw(lambda d, t: t.encode()[:-1] + b', "x": "\xc3\x28"}')),
    "an overlong form": ("bad_unicode", _raw(lambda d, t: t.encode()[:-1] + b', "x": "\xc0\xaf"}')),
    "NaN": ("bad_number", _raw(lambda d, t: t[:-1] + ', "x": NaN}')),
    "infinity": ("bad_number", _raw(lambda d, t: t[:-1] + ', "x": -Infinity}')),
    "a number too large": ("bad_number", _raw(lambda d, t: t[:-1] + ', "x": 1e400}')),
    "duplicate keys": ("duplicate_key", _raw(lambda d, t: t[:-1] + ', "id": "other"}')),
    "duplicate keys inside": ("duplicate_key", _raw(lambda d, t: t.replace('"from": "gpt"', '"from": "gpt", "from" : "gpt"', 1))),
    "nested deeply": ("bad_json", _raw(lambda d, t: t[:-1] + ', "x": ' + "[" * 20_000 + "]" * 20_000 + "}")),
    "single quotes": ("bad_json", _raw(lambda d, t: "{'id': 1}")),
    "a trailing comma": ("bad_json", _raw(lambda d, t: t[:-1] + ",}")),
    "a missing colon": ("bad_json", _raw(lambda d, t: t.replace('"id":', '"id"', 1))),
    "a comment": ("bad_json", _raw(lambda d, t: t[:-1] + " /* no */ }")),
    "a bare word": ("bad_json", _raw(lambda d, t: t[:-1] + ', "x": undefined}')),
    "nothing at all": ("bad_json", _raw(lambda d, t: " ")),
    "long text": ("too_long", lambda d, r: _in(d, r, 1, "word " * d.randrange(5_000, 9_000))),
    "an absolute path": ("bad_path", _set(image="/etc/passwd")),
    "a path upwards": ("bad_path", _set(source_dataset="../../etc", image="passwd")),
    "a path upwards inside": ("bad_path", _set(image="a/../../outside.jpg")),
    "an address": ("bad_path", _set(image="https://example.org/a.jpg")),
    "a file address": ("bad_path", _set(image="file:///etc/passwd")),
    "a backslash path": ("bad_path", _set(image="..\\outside.jpg")),
    "a nul in the path": ("bad_path", _set(image="good0.jpg\0.png")),
    "a link out of the root": ("bad_path", _set(image="link.jpg")),
    "an image that is not there": ("image_missing", _set(image="absent.jpg")),
    "a folder as image": ("image_unknown", _set(image=".")),
    "an image of another type": ("wrong_type", _set(image=["good0.jpg"])),
    "a source of another type": ("wrong_type", _set(source_dataset=7)),
    "an id of another type": ("wrong_type", _set(id={"a": 1})),
    "a size of another type": ("wrong_type", _set(size="64x64")),
    "a size of nothing": ("image_size", _set(size=[0, 0])),
    "an absurd size": ("image_size", _set(size=[10**8, 10**8])),
    "another size": ("image_size", _set(size=[63, 64])),
    "a box beyond": ("bad_number", _text(1, " [0, 0, 1000, 10] ", " [-1, 0, 5, 5] ")),
    "a box turned round": ("bad_number", _text(1, " [50, 0, 10, 20] ", " [0, 9.5, 10, 2.5] ")),
    "a polygon of two points": ("bad_number", _text(1, " [[1, 2], [3, 4]] ")),
    "a polygon beyond": ("bad_number", _text(1, " [[1, 2], [3, 4], [5000, 6]] ")),
    "boxes in shares of 1": ("bad_number", _text(1, " [0.1, 0.25, 0.5, 0.75] ", " [[0.1, 0.2], [0.3, 0.2], [0.3, 1]] ")),
    "a flat polygon beyond": ("bad_number", _text(1, " [10, 20, 30, 40, 50, 1200] ", " [1, 2, 3, 4, 5, -6, 7, 8] ")),
    "a box of no numbers": ("bad_number", _text(1, " [nan, 0, 10, 20] ", " [0, 0, Infinity, 20] ", " [0, 1e3, 4, 2000] ")),
    "letters without options": ("no_options", _text(0, " Answer with the letter.", " Answer with the option's letter from the given choices directly.")),
    "a choice of nothing": ("no_options", lambda d, r: _said(r, 0, "<image> Please choose the correct option.")),
    "letters without options, later": ("no_options", _turns(lambda t: [*t, {"from": "human", "value": "And this? Answer with the letter."}, t[1]])),
    "two markers in a turn": ("image_count", lambda d, r: _said(r, 0, "<image>\n<image>\nWhat changed?")),
    "an invisible answer": ("empty_answer", lambda d, r: _said(r, 1, "\u200b \u2060\ufeff")),
    "a token of another model": ("special_token", _text(1, "<im_patch>", "<|eot_id|>", "<pad>", "<|vision_start|>")),
    "a C1 control character": ("control_character", _text(0, "\x85", "\x9b31m")),
    "text turned round": ("control_character", _text(1, "\u202egnp.exe", "\u2066hidden\u2069")),
    "a data address": ("bad_path", _set(source_dataset="", image="data:image/png;base64,iVBORw0KGgo=")),
    "a drive": ("bad_path", _set(source_dataset="C:/images", image="good0.jpg")),
    "a link in a circle": ("bad_path", _set(image="circle.jpg")),
    "a path that is too long": ("image_missing", _set(image="a/" * 3_000 + "good0.jpg")),
}  # fmt: skip


def _encoded(format_: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(buffer, format_)
    return buffer.getvalue()


@functools.cache
def _deep_files(format_: str) -> list[bytes]:
    """Pictures of 16 and 32 bits a sample in the layouts that rasters come in."""
    from rasterio.io import MemoryFile

    layouts: list[dict[str, Any]] = [{}]
    if format_ == "TIFF":
        layouts += [{"interleave": "band", "compress": "deflate"}, {"compress": "lzw"}]
        layouts += [{"tiled": True, "blockxsize": 16, "blockysize": 16}]
    files = []
    for dtype in ("uint16", "float32") if format_ == "TIFF" else ("uint16",):
        for bands in (1, 3, 4):
            values = (np.random.default_rng(bands).random((bands, 30, 40)) * 3000).astype(dtype)
            for layout in layouts:
                driver = {"TIFF": "GTiff"}.get(format_, format_)
                with warnings.catch_warnings(), MemoryFile() as memory:
                    warnings.simplefilter("ignore")  # it has no place on Earth
                    with memory.open(driver=driver, count=bands, height=30, width=40, dtype=dtype, **layout) as file:
                        file.write(values)
                    files.append(memory.read())
    return files


def _deep(draw: random.Random, format_: str) -> bytes:
    return draw.choice(_deep_files(format_))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds no pixels: 84 bytes or fewer."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 16)) + chunk(b"IEND", b"")


def cut(draw: random.Random, format_: str) -> bytes:
    content = _encoded(format_)
    return content[: draw.randrange(20, len(content) // 2)]


IMAGES: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "no bytes": ("image_empty", lambda draw: b""),
    "text": ("image_unknown", lambda draw: b"this is no image " * draw.randrange(1, 9)),
    "a page": ("image_unknown", lambda draw: b"<html><script>alert(1)</script></html>"),
    "a script in SVG": ("image_unknown", lambda draw: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"),
    "a pickle": ("image_unknown", lambda draw: b"\x80\x04\x95cos\nsystem\n(S'true'\ntR."),
    "PostScript": ("image_unknown", lambda draw: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"),
    "random bytes": ("image_unknown", lambda draw: draw.randbytes(draw.randrange(10, 2000))),
    "a JPEG cut short": ("image_truncated image_unknown", lambda draw: cut(draw, "JPEG")),
    "a PNG cut short": ("image_truncated image_unknown", lambda draw: cut(draw, "PNG")),
    "a WebP cut short": ("image_truncated image_unknown", lambda draw: cut(draw, "WEBP")),
    "a GIF cut short": ("image_truncated image_unknown", lambda draw: cut(draw, "GIF")),
    "a TIFF cut short": ("image_truncated image_unknown", lambda draw: cut(draw, "TIFF")),
    "a bomb": ("image_bomb", lambda draw: png_header(draw.randrange(20_000, 60_000), draw.randrange(20_000, 60_000))),
    "a giant side": ("image_bomb image_thin", lambda draw: png_header(2**31 - 1, draw.randrange(1, 9))),
    "a thin bomb": ("image_thin", lambda draw: png_header(draw.choice([30_000, 99_999]), 1)),
    "a tall thin bomb": ("image_thin", lambda draw: png_header(1, draw.randrange(20_000, 99_999))),
    "no width": ("image_size image_truncated image_unknown", lambda draw: png_header(0, 9)),
}  # fmt: skip


def mutated(draw: random.Random) -> bytes:
    """A real image file with some of its bytes changed, cut out or doubled: it may still be readable."""
    formats = ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "deep TIFF", "deep PNG"]
    format_ = draw.choice(formats)
    content = bytearray(_deep(draw, format_[5:]) if format_.startswith("deep") else _encoded(format_))
    for _ in range(draw.randrange(1, 12)):
        place = draw.randrange(len(content))
        kind = draw.randrange(4)
        if kind == 0:
            content[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[place : place + 4] = draw.randbytes(4)
        elif kind == 2:
            del content[place : place + draw.randrange(1, 64)]
        else:
            content[place:place] = content[place : place + draw.randrange(1, 64)]
        content = content or bytearray(b"\0")
    return bytes(content)
