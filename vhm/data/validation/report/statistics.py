"""Statistics of the accepted records: distributions of images, texts and boxes, and a few examples per source.

Numbers come from the manifest's columns. Boxes are in the text of records, so they are read from at most
`MAX_RECORDS_READ` records, evenly chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vhm.data.validation.findings import Outline
from vhm.data.validation.record_checks import Kind
from vhm.data.validation.report.charts import DensityMap, Histogram, density_map, histogram, number
from vhm.data.validation.report.sampling import RecordReader, evenly
from vhm.data.validation.report.shapes import bounds, shapes
from vhm.io import JsonObject

if TYPE_CHECKING:
    import pyarrow as pa

MAX_RECORDS_READ = 20_000
_COLUMNS = ("index", "source", "image_sha256", "width", "height", "turns", "text_length", "answer_length", "brightness")
_MAX_SIZES = 8


@dataclass(frozen=True)
class SizeCount:
    """How many images have a size."""

    width: int
    height: int
    images: int
    share: float


@dataclass(frozen=True)
class Distributions:
    """What the accepted records look like; `images` counts distinct files.

    `boxes_read` records were searched for boxes and polygons, `boxes_found` of them have some.
    """

    images: int
    sizes: tuple[SizeCount, ...]
    further_sizes: int
    histograms: tuple[Histogram, ...]
    centres: DensityMap | None
    boxes_read: int
    boxes_found: int


def read_columns(manifest: Path) -> pa.Table:
    """The columns of a manifest that the report uses, those that it has."""
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(manifest)
    return file.read([name for name in _COLUMNS if name in file.schema_arrow.names])


def distributions(columns: pa.Table, reader: RecordReader, kind: Kind) -> Distributions:
    """The distributions of the accepted records with these columns."""
    images = _distinct_images(columns)
    width, height = (_numbers(images, name, np.int32).astype(np.float64) for name in ("width", "height"))
    sizes = Counter(zip(width.astype(int).tolist(), height.astype(int).tolist(), strict=True))
    frequent = sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0]))[:_MAX_SIZES]
    indices = _numbers(columns, "index", np.int64)
    read = indices[evenly(len(indices), MAX_RECORDS_READ)].tolist()
    found = [outlines for index in read if (outlines := _outlines(reader.record(index), kind))]
    boxes = np.array([bounds(outline) for outlines in found for outline in outlines]).reshape(-1, 4).clip(0, 1)
    per_record = np.array([len(outlines) for outlines in found])
    area = 100 * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    charts = (
        histogram("Image size", np.maximum(width, height), "longest side, pixels", "images", " px", "log"),
        histogram("Aspect ratio", _ratio(width, height), "longest side / shortest side", "images"),
        histogram("Brightness", _brightness(images), "mean brightness, 0 black to 255 white", "images"),
        histogram("Text", _numbers(columns, "text_length", np.int32), "characters of all turns", "records", "", "log"),
        histogram(
            "Answers", _numbers(columns, "answer_length", np.int32), "characters of answers", "records", "", "log"
        ),
        histogram("Turns", _numbers(columns, "turns", np.int32), "turns of a conversation", "records"),
        histogram("Boxes of a record", per_record, "boxes and polygons", "records"),
        histogram("Box area", area, "area, per cent of the image", "boxes", " %", "log"),
    )
    centres = density_map(
        "Where boxes are",
        (boxes[:, 0] + boxes[:, 2]) / 2,
        (boxes[:, 1] + boxes[:, 3]) / 2,
        f"Centres of {number(len(boxes))} boxes and polygons in their images; a stronger colour is more.",
    )
    return Distributions(
        images=len(images),
        sizes=tuple(SizeCount(*size, count, count / len(images)) for size, count in frequent),
        further_sizes=max(len(sizes) - _MAX_SIZES, 0),
        histograms=tuple(chart for chart in charts if chart is not None),
        centres=centres,
        boxes_read=len(read),
        boxes_found=len(found),
    )


def accepted_examples(columns: pa.Table, sources: int, per_source: int) -> list[int]:
    """Indices of accepted records, evenly spread over each of the largest sources, in the list's order."""
    if not len(columns):
        return []
    codes = _codes(columns["source"])
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, codes[order][1:] != codes[order][:-1]])
    groups = sorted(np.split(order, starts[1:]), key=lambda group: (-len(group), int(group[0])))[:sources]
    positions = [group[offset] for group in groups for offset in evenly(len(group), per_source)]
    return sorted(_numbers(columns, "index", np.int64)[positions].tolist())


def record_outlines(record: JsonObject, kind: Kind) -> Iterator[Outline]:
    """The boxes and polygons in the turns of a record, in fractions of its image's sides."""
    size = record.get("size")
    for turn in record["conversations"]:
        in_pixels = kind == "eval" and turn["from"] == "gpt" and isinstance(size, list)
        yield from shapes(turn["value"], (size[0], size[1]) if in_pixels and size else None)


def _outlines(record: JsonObject | None, kind: Kind) -> list[Outline]:
    return [] if record is None else list(record_outlines(record, kind))


def _distinct_images(columns: pa.Table) -> pa.Table:
    """The first row of each image file; none where images were not checked."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = columns.filter(pc.is_valid(columns["image_sha256"]))
    first = np.unique(_codes(rows["image_sha256"]), return_index=True)[1] if len(rows) else np.zeros(0, np.int64)
    return rows.take(pa.array(np.sort(first)))


def _codes(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """A number for each distinct string."""
    encoded = column.combine_chunks().dictionary_encode().indices
    return np.frombuffer(encoded.buffers()[1], np.int32)[encoded.offset : encoded.offset + len(encoded)]


def _numbers(columns: pa.Table, name: str, dtype: DTypeLike) -> NDArray[np.generic]:
    """The values of a column that are not null. pyarrow's `to_numpy` imports pandas, which takes most of a second."""
    values = columns[name].drop_null().combine_chunks()
    if not len(values):
        return np.zeros(0, dtype)
    return np.frombuffer(values.buffers()[1], dtype)[values.offset : values.offset + len(values)]


def _brightness(images: pa.Table) -> NDArray[np.generic]:
    if "brightness" not in images.schema.names:
        return np.zeros(0)
    import pyarrow as pa

    cast = images.set_column(
        images.schema.get_field_index("brightness"), "brightness", images["brightness"].cast(pa.float64())
    )
    return _numbers(cast, "brightness", np.float64)


def _ratio(width: NDArray[np.float64], height: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(width, height) / np.minimum(width, height)
