"""Loads Great Expectations without the libraries that it imports for features which validation does not use.

Of the time to import it, altair and scipy.stats take a third, and clients of clouds and databases a tenth. altair and
scipy.stats are loaded when something uses them; the clients, all of them optional, appear not to be installed. This
changes what the process can import: use it in a process of its own only.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_DEFERRED = frozenset({"altair", "scipy.stats"})
_OPTIONAL = frozenset({"azure", "boto3", "botocore", "google", "pyspark", "sqlalchemy"})


class _LightFinder(MetaPathFinder):
    """Defers the deferred modules, hides the optional ones, and leaves all others to the finders that follow."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in _OPTIONAL:
            raise ModuleNotFoundError(f"{fullname} is not used for validation", name=fullname)
        if fullname not in _DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def load_great_expectations() -> None:
    """Import great_expectations and keep what it imports out of later garbage collections."""
    sys.meta_path.insert(0, _LightFinder())
    gc.disable()  # importing creates objects that live on: looking for garbage among them takes a fifth of the time
    import great_expectations.render.renderer
    import great_expectations.render.view  # noqa: F401

    gc.freeze()
    gc.enable()
