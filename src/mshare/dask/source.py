"""The bytes of a file or URL, read once in parts. May depend on: errors, linux, failures, fsspec."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

from fsspec.core import url_to_fs

from .._core.errors import InvalidSizeError
from .._core.linux import libc
from .failures import SourceChangedError

_PART = 1 << 20
"""Bytes that are read at a time. They still lie in the processor's cache when the checksum reads them."""
_MAPPED = 32 << 20
"""Bytes of the region that the loading process keeps mapped. Dask counts them as the worker's memory."""


def absolute(source: str | os.PathLike[str]) -> str:
    """Return a URL as it is, and a path as an absolute path: workers have other current directories."""
    text = os.fspath(source)
    return text if "://" in text else os.path.abspath(text)


@contextmanager
def opened(source: str, options: Mapping[str, Any]) -> Iterator[tuple[IO[bytes], int]]:
    """Open the source and give it with its size in bytes. Raises `InvalidSizeError` and the errors of fsspec."""
    system, path = url_to_fs(source, **options)
    system.invalidate_cache()  # of directory listings: the process may have seen an older version of the source
    size = system.info(path)["size"]
    if size is None:
        raise InvalidSizeError(f"the server does not tell the size of {source}", "copy it to a file first")
    if not size:
        raise InvalidSizeError(f"{source} is empty", "a region has at least 1 byte")
    # One request for everything: many HTTP servers give no ranges.
    stream = {"block_size": 0} if "http" in system.protocol else {}
    with system.open(path, "rb", **stream) as file:
        yield file, size


def copy(file: IO[bytes], view: memoryview, source: str, check: Callable[[], None]) -> str:
    """Fill `view` with all bytes of the open source, and return their SHA-256 in hexadecimal.

    Calls `check` before each part; its errors are raised here. Pages that are full are unmapped from this process, and
    stay in the region. Raises `SourceChangedError` if the source has fewer or more bytes than `view`.
    """
    digest, done, mapped = hashlib.sha256(), 0, 0
    while done < len(view):
        check()
        part = file.read(min(_PART, len(view) - done))
        if not part:
            raise SourceChangedError(
                f"{source} ended after {done} bytes, {len(view)} were expected", "replicate it when it is complete"
            )
        with view[done : done + len(part)] as place:
            place[:] = part
        digest.update(part)
        done += len(part)
        if done - mapped >= _MAPPED:
            _unmap(view, mapped, _MAPPED)
            mapped += _MAPPED
    if file.read(1):
        raise SourceChangedError(
            f"{source} has more than the {len(view)} bytes expected", "replicate it when it is complete"
        )
    return digest.hexdigest()


def _unmap(view: memoryview, start: int, length: int) -> None:
    """Unmap a part of a region that begins at a multiple of 2 MiB. The region's file keeps the pages."""
    address = ctypes.addressof(ctypes.c_ubyte.from_buffer(view))
    with suppress(OSError):  # pages that the kernel does not unmap in this way do not count as a process's memory
        libc.madvise(address + start, length, libc.MADV_DONTNEED)
