"""A terminal with a program on it: a real pty, and pyte, which interprets the program's output as a terminal would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import pyte

LIMIT_S = 60


class Terminal:
    """A program and its screen. Use as a context manager: the program is killed at the end."""

    def __init__(self, command: Sequence[str], *, columns: int = 160, lines: int = 50) -> None:
        self._columns, self._lines = columns, lines
        self.controller, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self.modes_before = termios.tcgetattr(self._theirs)
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        """Every byte the program has written."""
        self.process = subprocess.Popen(
            command,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}, "TERM": "xterm-256color"},
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.controller)
        os.close(self._theirs)

    @property
    def modes(self) -> list[object]:
        """The terminal's modes (echo, line editing, …) as they are now."""
        return termios.tcgetattr(self._theirs)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    def press(self, keys: str) -> None:
        os.write(self.controller, keys.encode())

    def until(self, seen: Callable[[str], bool]) -> str:
        """Read until the screen shows the text, and return the screen."""
        deadline = time.monotonic() + LIMIT_S
        while not seen(self.text):
            self._read(deadline)
        return self.text

    def end(self) -> int:
        """Read until the program has ended, and return its exit status."""
        deadline = time.monotonic() + LIMIT_S
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while self._read(deadline, pidfd):
                pass
        finally:
            os.close(pidfd)
        return self.process.wait(LIMIT_S)

    def _read(self, deadline: float, *ends: int) -> bool:
        """Read the program's output. Return False once the program has ended and everything is read."""
        left = deadline - time.monotonic()
        ready = select.select([self.controller, *ends], [], [], max(0, left))[0]
        assert ready, f"not within {LIMIT_S} s; the screen:\n{self.text}"
        if self.controller not in ready:
            return False
        part = os.read(self.controller, 1 << 16)
        self.raw += part
        self._stream.feed(part)
        return True
