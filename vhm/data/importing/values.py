"""Reads fields of foreign rows whose names and types vary: images, text, numbers."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping

from vhm.data.importing.rows import EmbeddedImage, Image
from vhm.errors import RecordError
from vhm.io import JsonObject

IMAGE_KEYS = (
    *(
        "image",
        "images",
        "img",
        "image_path",
        "img_path",
        "image_file",
        "image_name",
        "file_name",
        "filename",
        "filepath",
    ),
    *("image_filename", "picture", "photo", "jpg", "png", "image_id", "image_url", "url", "pixel_values"),
)
MEDIA_KEYS = ("video", "videos", "audio", "audios", "video_path", "audio_path")
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_IMAGE_BYTES = re.compile(rb"\xff\xd8\xff|\x89PNG\r|RIFF....WEBP|II\*\x00|MM\x00\*|BM|GIF8|....ftyp", re.DOTALL)


def image_of(fields: JsonObject, keys: tuple[str, ...] = IMAGE_KEYS) -> Image | None:
    """The row's one image; None without one. Raises RecordError for several images, a video or audio."""
    for key in MEDIA_KEYS:
        if fields.get(key):
            raise RecordError("unknown_media", f"the record has {key!r}: only images can be shown")
    for key in keys:
        value = fields.get(key)
        if isinstance(value, (list, tuple)):
            if len(value) > 1:
                raise RecordError("unknown_media", f"the record has {len(value)} images: one can be shown")
            value = value[0] if value else None
        if value is not None and not isinstance(value, bool) and value != "":
            return as_image(value, key)
    return None


def as_image(value: object, key: str = "image") -> Image:
    """An image from a path, bytes, base64, a data URI, or a mapping such as {bytes, path}. Raises RecordError."""
    if isinstance(value, EmbeddedImage):
        return value
    if isinstance(value, Mapping):
        return _image_of_mapping(value, key)
    if isinstance(value, (bytes, bytearray)):
        return EmbeddedImage(bytes(value))
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise RecordError("wrong_type", f"{key!r} is not an image: {type(value).__name__}")
    if found := _DATA_URI.match(value):
        return EmbeddedImage(_decoded(value[found.end() :]) or b"")
    if value.startswith("file://"):
        return value.removeprefix("file://")
    if "://" in value:
        raise RecordError("bad_path", f"{value[:80]!r} is an address: download the images first")
    content = _decoded(value) if len(value) > 200 else None
    return value if content is None else EmbeddedImage(content)


def text_of(fields: JsonObject, *keys: str) -> str | None:
    """The first of the keys that holds text or a number, as text; of a list, its first text."""
    for key in keys:
        value = fields.get(key)
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if isinstance(value, bool):
            return "Yes" if value else "No"
        if isinstance(value, (int, float)):
            return f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, str) and value.strip():
            return value
    return None


def id_of(fields: JsonObject) -> str | int | None:
    for key in ("id", "question_id", "ques_id", "uid", "index", "__key__"):
        value = fields.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return value
    return None


def size_of(fields: JsonObject) -> tuple[int, int] | None:
    """The image's (width, height) by the record."""
    width, height = (fields.get(key) or fields.get(f"image_{key}") for key in ("width", "height"))
    size = fields.get("size") or fields.get("image_size")
    if isinstance(size, (list, tuple)) and len(size) == 2:
        width, height = size
    if isinstance(width, (int, float)) and isinstance(height, (int, float)) and width > 0 and height > 0:
        return int(width), int(height)
    return None


def parsed(value: object) -> object:
    """A JSON value that is stored as text, as columns of tables have it; anything else unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _image_of_mapping(value: Mapping[object, object], key: str) -> Image:
    content, path = value.get("bytes"), value.get("path")
    name = path if isinstance(path, str) and path else None
    if isinstance(content, (bytes, bytearray)) and content:
        return EmbeddedImage(bytes(content), name)
    for known in ("path", "url", "image", "image_url", "file_name"):
        if isinstance(value.get(known), (str, Mapping)) and value[known]:
            return as_image(value[known], key)
    raise RecordError("image_missing", f"{key!r} has neither bytes nor a path")


def _decoded(text: str) -> bytes | None:
    """The image in a base64 text; None for other text."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if _IMAGE_BYTES.match(content) else None
