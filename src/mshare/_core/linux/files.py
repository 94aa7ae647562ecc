"""Reading the kernel's small files. May depend on: nothing."""

from __future__ import annotations


def read_bytes(path: str) -> bytes:
    """Return what the file has, in as few reads as it takes. Raises `OSError`."""
    with open(path, "rb", buffering=0) as file:
        return file.read()
