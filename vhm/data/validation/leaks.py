"""leaks.html: each training image that shows an evaluation image, next to that image, for manual review."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vhm.data.images import load_image
from vhm.data.images.stores import ImageStore
from vhm.errors import ImageError
from vhm.io import write_text

MAX_SHOWN = 200
_SIDE = 220  # pixels of a thumbnail


@dataclass(frozen=True)
class Leak:
    """Record `index` of a training list has the image `image`, which shows the evaluation image `evaluation`."""

    index: int
    image: str
    evaluation: str


def write_leaks(path: Path, leaks: list[Leak], training: ImageStore, evaluation: Iterable[ImageStore]) -> None:
    """Write the page with the first `MAX_SHOWN` leaks. An image that cannot be read is replaced by a note."""
    stores = list(evaluation)
    rows = "".join(
        f"<tr><td>{leak.index}<td>{_figure(leak.image, [training])}<td>{_figure(leak.evaluation, stores)}"
        for leak in leaks[:MAX_SHOWN]
    )
    note = f"<p>The first {MAX_SHOWN} of {len(leaks)} are shown." if len(leaks) > MAX_SHOWN else ""
    write_text(
        path,
        "<!doctype html><meta charset=utf-8><title>leaks</title>"
        "<style>body{font:14px sans-serif}td{padding:6px;vertical-align:top}figure{margin:0}</style>"
        f"<h1>{len(leaks)} training images are evaluation images</h1>{note}"
        f"<table><tr><th>record<th>training image<th>evaluation image{rows}</table>\n",
    )


def _figure(name: str, stores: list[ImageStore]) -> str:
    """The image, from the first store that has it, as an HTML figure."""
    for store in stores:
        try:
            image = load_image(store.read(name))
        except ImageError:
            continue
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return f"<figure><img alt='' src='{source}'><figcaption>{escape(name)}</figcaption></figure>"
    return f"<i>{escape(name)} cannot be read</i>"
