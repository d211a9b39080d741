"""The process of `SuiteProcess`: reads one request from stdin and writes the suite's result to stdout, as JSON.

Its argument is the id of the process that it must not outlive.
"""

from __future__ import annotations

import os
import signal
import sys

import orjson

from vhm.data.validation.expectations.imports import load_great_expectations
from vhm.data.validation.expectations.process import SuiteRequest
from vhm.data.validation.expectations.suite import SuiteResult
from vhm.errors import InputError
from vhm.io import cache_directory
from vhm.processes import cache_bytecode, die_with_parent


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    die_with_parent(int(sys.argv[1]))
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no part of the answer
    cache_bytecode(cache_directory() / "bytecode")
    load_great_expectations()
    request = sys.stdin.buffer.read()
    if request:  # none: the lists or images cannot be read, so there is nothing to assess
        with answer:
            answer.write(orjson.dumps(_answer(SuiteRequest.from_json(request)), option=orjson.OPT_SERIALIZE_NUMPY))


def _answer(request: SuiteRequest) -> SuiteResult | dict[str, int | str | None]:
    """The suite's result, or the error of a disk or another device that prevents it."""
    from vhm.data.validation.expectations.run import run_suite

    try:
        return run_suite(request)
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        return {"errno": cause.errno, "filename": cause.filename}


_main()
