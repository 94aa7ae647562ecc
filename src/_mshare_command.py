"""The first module of the command `mshare`. May depend on: mshare.

Loading the package takes long enough for Ctrl-C, and an interrupt while Python imports shows a traceback. Python loads
the package `mshare` before any module in it, so no module inside the package is early enough to prevent the traceback.
This module is therefore outside of the package, and loads nothing that Python has not loaded at its start: `signal`
would load `enum`, and this module would take half of the time in which Ctrl-C shows a traceback (decision 29).
(`python -m mshare` comes too late.)
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` is not loaded for it
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal


def main() -> int:
    """Run one command and return its exit code."""
    return run(_process)


def run(process: Callable[[Callable[[], object]], int]) -> int:
    """Call `process` with what it has to call when the work begins. Until then, Ctrl-C ends this process silently, with
    exit code 130; from then on it raises KeyboardInterrupt. A process that ignores Ctrl-C goes on to do so."""
    if signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        return process(bool)
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        return process(lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    except KeyboardInterrupt:
        return 130
    finally:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the end of the interpreter has nothing left to interrupt


def _process(begin: Callable[[], object]) -> int:
    from mshare.__main__ import process

    return process(begin)
