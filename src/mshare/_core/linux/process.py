"""A descriptor of /proc/PID, through which the process's files are opened. May depend on: procfs.

/proc/PID is about one process, but the number can mean another process a moment later. A descriptor of that directory
never means another process: opening a file through the descriptor fails with ESRCH once the process is gone. There is
therefore one descriptor per process, and everything is read through the descriptor.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ..procfs import Status, parse_status


class ProcessDirectory:
    """A descriptor of /proc/PID, through which all its files are opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._prefix = ""
        self._fd = -1

    def __enter__(self) -> ProcessDirectory:
        self._fd = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def living_thread(self, status: Status) -> Status:
        """Return `status`, unless the main thread has ended and others go on. In that case return the status of a
        thread that has the process's memory, and read from that thread from now on."""
        for tid in os.listdir(f"{self._path}/task"):
            with suppress(OSError, ValueError):
                other = parse_status(self.read(f"task/{tid}/status"))
                if other.vmpte is not None:
                    self._prefix = f"task/{tid}/"
                    return other
        return status

    def open(self, name: str) -> int:
        name = self._prefix + name
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)

    def read(self, name: str) -> bytes:
        fd = self.open(name)
        try:
            parts = []
            while part := os.read(fd, 1 << 16):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def namespace(self, name: str) -> int:
        """Return the number of one of the process's namespaces, 0 if this process may not see the namespace."""
        try:
            digits = os.readlink(f"ns/{name}", dir_fd=self._fd).partition("[")[2].rstrip("]")
        except OSError:
            return 0
        return int(digits) if digits.isdigit() else 0
