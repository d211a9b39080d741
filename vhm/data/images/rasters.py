"""Opening a raster file in memory with GDAL, from any thread."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_FILTERS = threading.Lock()


@contextmanager
def open_raster(content: bytes, drivers: Sequence[str]) -> Iterator[DatasetReader]:
    """Open a file's bytes with one of GDAL's `drivers`. Raises RasterioError.

    A file without a georeference is an image like any other, but rasterio warns of it when it opens one.
    `catch_warnings` changes filters of the complete process: one thread at a time may use it.
    """
    from rasterio.io import MemoryFile

    with MemoryFile(content) as file:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raster = file.open(driver=list(drivers))
        with raster:
            yield raster
