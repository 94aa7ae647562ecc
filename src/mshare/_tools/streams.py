"""Makes the standard streams of a command safe to use, even if they are closed or full. May depend on: nothing.

Facts: a file that is opened gets the lowest free number. With stderr closed a region's file can become descriptor 2,
and an error message would be written into the region. Python raises `OSError` if stderr is full.
Consequence: a message could damage data, or end the work that the message is about.
Decision: no descriptor of a standard stream is left free. Text that stderr does not take is lost.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


class _Forgiving(io.FileIO):
    """A stream that loses the text that it cannot write."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        view, size = memoryview(data), len(data)
        with suppress(OSError):
            while view and (written := super().write(view)):
                view = view[written:]
        return size


def prepare() -> None:
    """Open /dev/null for each standard stream that is closed, and let no error of stderr through."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
    # For as long as the process lives.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        raw = _Forgiving(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True, write_through=True)
