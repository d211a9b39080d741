"""Named arrays in one file that is mapped into memory: processes that read it share its pages.

8 bytes      length of the header
header       JSON: {"name": {"dtype": …, "shape": […], "offset": …}, …}, offsets from the end of the header
arrays       each at a multiple of 64 bytes
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

Array = NDArray[Any]  # the file says of which type

_ALIGNMENT = 64


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write the arrays beside `path`, then rename the file."""
    header, offset = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": array.dtype.str, "shape": array.shape, "offset": offset}
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    encoded = orjson.dumps(header)
    encoded += b" " * (-(len(encoded) + 8) % _ALIGNMENT)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).data)
                file.write(bytes(-array.nbytes % _ALIGNMENT))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file of `write_arrays`, read-only and mapped into memory."""
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = orjson.loads(content[8:start].tobytes())
    return {
        name: np.ndarray(entry["shape"], entry["dtype"], content, start + entry["offset"])
        for name, entry in header.items()
    }
