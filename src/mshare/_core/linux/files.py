"""Reading the kernel's small files. May depend on: nothing."""

from __future__ import annotations

from io import FileIO


def read_bytes(path: str) -> bytes:
    """Return the contents of the file, with as few reads as possible. Raises `OSError`."""
    with FileIO(path) as file:  # not `open`, which the end of the interpreter takes away before finalizers run
        return file.read()
