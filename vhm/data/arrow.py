"""pyarrow without pandas."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _WithoutPandas(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"{fullname} is not used by pyarrow here", name=fullname)
        return None


def spare_pandas() -> None:
    """Keep pyarrow from importing pandas, which takes half a second and 40 MB, in this process.

    pyarrow does so to find out whether a list is an object of pandas. It asks once: pandas can be imported afterwards,
    and pyarrow's functions for pandas then work. Does nothing if pandas is already imported.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
