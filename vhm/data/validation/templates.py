"""Jinja templates that are compiled once per user, not in each process: that takes a third of a second for a report."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vhm.io import cache_directory

if TYPE_CHECKING:
    from jinja2 import BytecodeCache
    from jinja2.bccache import Bucket


def template_cache() -> BytecodeCache | None:
    """Compiled templates in the cache directory; None if it cannot be written.

    They are known by path and content, not by the options of their environment: a change of options needs one of both.
    """
    from jinja2 import FileSystemBytecodeCache

    class Cache(FileSystemBytecodeCache):
        def dump_bytecode(self, bucket: Bucket) -> None:
            with contextlib.suppress(OSError):  # a full disk costs time, not the report
                super().dump_bytecode(bucket)

    folder = cache_directory() / "templates"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return Cache(str(folder))
