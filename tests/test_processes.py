"""Worker processes end with the process that started them; compiled modules are kept."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def test_workers_do_not_outlive_a_killed_process() -> None:
    code = (
        "import os, time\n"
        "from vhm.processes import workers\n"
        "if __name__ == '__main__':\n"
        "    executor = workers(2)\n"
        "    jobs = [executor.submit(time.sleep, 300) for _ in range(2)]\n"
        "    while len(executor._processes) < 2: time.sleep(0.01)\n"
        "    print(*executor._processes, flush=True)\n"
        "    time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 2
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_is_running(pid) for pid in pids)


def test_workers_return_their_results() -> None:
    from vhm.processes import workers

    with workers(2) as executor:
        assert list(executor.map(abs, [-1, 2, -3])) == [1, 2, 3]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("compiled", [False, True], ids=["without-bytecode", "with-bytecode"])
def test_bytecode_is_cached_where_the_installation_has_none(tmp_path: Path, compiled: bool) -> None:
    """With an installation of two modules, numpy among them, for a process that may not write bytecode."""
    site, cache = tmp_path / "site", tmp_path / "cache"
    for name in ("numpy", "other"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").touch()
    if compiled:
        py_compile.compile(str(site / "numpy" / "__init__.py"))
    program = (
        "import pathlib, subprocess, sys, vhm.processes as p; p.cache_bytecode(pathlib.Path(sys.argv[1]));"
        "import other; subprocess.run([sys.executable, '-c', 'import numpy'], check=True)"
    )
    path = os.pathsep.join([str(site), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPYCACHEPREFIX", None)
    subprocess.run([sys.executable, "-c", program, str(cache)], env=environment, check=True)
    cached = {path.parent.name for path in cache.rglob("*.pyc") if str(site) in f"/{path.relative_to(cache)}"}
    assert cached == (set() if compiled else {"numpy", "other"})
