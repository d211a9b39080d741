"""Named arrays in a folder, one .npy file each, mapped into memory: processes that read them share their pages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # each file says of which type


def write_arrays(folder: Path, arrays: dict[str, Array]) -> None:
    """Write the arrays to a temporary folder, then rename it; replaces an earlier folder."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    temporary.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_arrays(folder: Path) -> dict[str, Array]:
    """The arrays of a folder of `write_arrays`, read-only and mapped into memory."""
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}
