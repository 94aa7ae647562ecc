"""Saving arrays into a new region. May depend on: creation, errors, npy, archive, numpy, region."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from types import EllipsisType
from typing import Any

import numpy
from numpy.typing import ArrayLike

from .._core.creation import creator
from .._core.errors import InvalidArgumentError
from .._core.region import Region
from . import archive
from .npy import Array, as_array, header, is_fortran

_PART = 1 << 20
"""Bytes that are copied at a time, and then still lie in the processor's cache when the checksum reads them."""


def save(
    name: str | None,
    arrays: ArrayLike | Mapping[str, ArrayLike],
    *,
    mode: int = 0o600,
    backend: str | None = None,
    replace: bool = False,
) -> Region:
    """Create a region that holds one array, or the arrays of a dict by their names, and return the region.

    The arrays are copied in parts of 1 MiB straight to their places: saving needs no memory beside the region. An array
    of `numpy.load(path, mmap_mode="r")` is read from its file in this way. The name appears when all is complete.
    dtype, byte order, shape and Fortran order are kept. An array that is not contiguous is saved in C order.

    - `name`: the region's name, or None for a region without a name, for its `handle` and `map_only`.
    - `arrays`: an array or what `numpy.asarray` takes; or a dict of those, at least one, at most 65,536.
    - `mode`, `backend`, `replace`: as for `mshare.create`. A region without a name has no mode and replaces nothing.

    Raises `InvalidArgumentError`, before anything is created, for dtypes that hold Python objects or cannot be
    described in a `.npy` file, for masked arrays, and for names of arrays that are not UTF-8, have a NUL or more than
    996 bytes; and the errors of `mshare.create`. Cost: one copy, and for a dict a checksum of all bytes.
    """
    fill: _Array | _Archive
    if isinstance(arrays, Mapping):
        if any(not isinstance(key, str) for key in arrays):
            raise InvalidArgumentError("a name of an array is not a string", "use str(key)")
        fill = _Archive({key: as_array(value, f"array {key!r}") for key, value in arrays.items()})
    else:
        fill = _Array(as_array(arrays, "the array"))
    return creator(name, mode=mode, backend=backend, replace=replace)(fill.size, fill)


class _Array:
    """One array, as a `fill` of `create`."""

    def __init__(self, array: Array) -> None:
        self.array, self.header = array, header(array, "the array")
        self.size = len(self.header) + array.nbytes

    def __call__(self, view: memoryview) -> None:
        view[: len(self.header)] = self.header
        for _ in _copied(self.array, view, len(self.header)):
            pass


class _Archive:
    """Arrays by name, as a `fill` of `create`."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.plan = archive.plan(arrays)
        self.size = self.plan.size

    def __call__(self, view: memoryview) -> None:
        crcs = []
        for member in self.plan.members:
            end = member.start + len(member.header)
            view[member.start : end] = member.header
            crc = zlib.crc32(member.header)
            for part in _copied(member.array, view, end):
                crc = zlib.crc32(part, crc)
            view[member.offset : member.start] = member.local(crc)
            crcs.append(crc)
        directory = self.plan.directory(crcs)
        view[-len(directory) :] = directory


def _copied(array: Array, view: memoryview, offset: int) -> Iterator[memoryview]:
    """Copy the items to `offset`, and yield each part of the view that is written, in order of address."""
    if not array.nbytes:
        return
    target: Array = numpy.ndarray(array.shape, array.dtype, view, offset, order="F" if is_fortran(array) else "C")
    if is_fortran(array):
        array, target = array.T, target.T
    for index in _parts(array.shape, array.itemsize):
        part = target[index]
        part[...] = array[index]
        end = offset + part.nbytes
        with view[offset:end] as written:
            yield written
        offset = end


def _parts(shape: tuple[int, ...], item_bytes: int) -> Iterator[tuple[int | slice | EllipsisType, ...]]:
    """Yield indexes of parts of an array, in C order. Each part has at most 1 MiB, or is one item."""
    if not shape:
        yield (...,)
        return
    row_bytes: Any = item_bytes * math.prod(shape[1:])
    if row_bytes > _PART:
        for row in range(shape[0]):
            for rest in _parts(shape[1:], item_bytes):
                yield (row, *rest)
    else:
        rows = _PART // row_bytes
        for row in range(0, shape[0], rows):
            yield (slice(row, row + rows), ...)
