"""Great Expectations in a process of its own: it starts at once and loads while the records are checked.

What the libraries take in memory is freed when the process ends, and nothing that `imports` does touches this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import orjson

import vhm
from vhm.data.validation.expectations.suite import ExpectationResult, ListSummary, SourceSummary, SuiteResult
from vhm.errors import StorageError


@dataclass(frozen=True)
class SuiteRequest:
    """One suite to run; `rows` is an Arrow file of the accepted records' columns, `docs` a folder."""

    kind: str
    thresholds: Mapping[str, object]
    rows: str
    list: ListSummary
    sources: tuple[SourceSummary, ...]
    docs: str

    @classmethod
    def from_json(cls, content: bytes) -> SuiteRequest:
        fields = orjson.loads(content)
        summaries = {
            "list": ListSummary(**fields["list"]),
            "sources": tuple(SourceSummary(**row) for row in fields["sources"]),
        }
        return cls(**fields | summaries)


class SuiteProcess:
    """Runs one suite: `submit` a request, then take its `result`. Leaving the with statement ends the process."""

    def __enter__(self) -> SuiteProcess:
        self._errors = tempfile.TemporaryFile()
        root = str(Path(vhm.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __package__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": path},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with self._process, self._errors:
            pass  # closes the pipes and waits

    def submit(self, request: SuiteRequest) -> None:
        """Start the suite; returns at once."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(orjson.dumps(asdict(request)))
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # `result` says why the process has ended

    def result(self) -> SuiteResult:
        """Wait for the result of the request. Raises StorageError when the process was killed, OSError for a disk's."""
        assert self._process.stdout is not None
        answer = self._process.stdout.read()
        status = self._process.wait()
        if status < 0:
            name = signal.Signals(-status).name
            raise StorageError(f"Great Expectations was ended by {name}, perhaps for lack of memory")
        if status:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines() or [f"exit status {status}"]
            raise RuntimeError(f"Great Expectations failed: {lines[-1]}")
        content = orjson.loads(answer)
        if "errno" in content:
            raise OSError(content["errno"], os.strerror(content["errno"]), content["filename"])
        results = tuple(ExpectationResult(**result) for result in content["results"])
        return SuiteResult.of(content["suite"], results)
