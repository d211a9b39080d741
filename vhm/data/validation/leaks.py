"""leaks.html: each training image that is an evaluation image, beside it, for a person to look at."""

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

SHOWN = 200
_SIDE = 220


@dataclass(frozen=True)
class Leak:
    """Record `index` of a training list shows `image`, which is `evaluation` in an evaluation list."""

    index: int
    image: str
    evaluation: str


def write_leaks(path: Path, leaks: list[Leak], training: ImageStore, evaluation: Iterable[ImageStore]) -> None:
    """Write the page; of more than `SHOWN` pairs the first ones. A picture that cannot be read is a note."""
    roots = list(evaluation)
    rows = "".join(
        f"<tr><td>{leak.index}<td>{_picture(leak.image, [training])}<td>{_picture(leak.evaluation, roots)}"
        for leak in leaks[:SHOWN]
    )
    more = f"<p>The first {SHOWN} of {len(leaks)} are shown." if len(leaks) > SHOWN else ""
    write_text(
        path,
        "<!doctype html><meta charset=utf-8><title>leaks</title>"
        "<style>body{font:14px sans-serif}td{padding:6px;vertical-align:top}figure{margin:0}</style>"
        f"<h1>{len(leaks)} training images are evaluation images</h1>{more}"
        f"<table><tr><th>record<th>training image<th>evaluation image{rows}</table>\n",
    )


def _picture(name: str, roots: list[ImageStore]) -> str:
    for root in roots:
        try:
            image = load_image(root.read(name))
        except ImageError:
            continue
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        content = base64.b64encode(buffer.getvalue()).decode()
        return f"<figure><img alt='' src='data:image/jpeg;base64,{content}'><figcaption>{escape(name)}</figcaption></figure>"
    return f"<i>{escape(name)} cannot be read</i>"
