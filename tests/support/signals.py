"""Signals of the processes that tests start."""

from __future__ import annotations

import signal


def listen_to_ctrl_c() -> None:
    """Receive SIGINT; for Popen's `preexec_fn`. In a background job, children inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
