"""The bytes of one array: a `.npy` file, as numpy.lib.format describes it. Pure. May depend on: errors, numpy.

A header is text that Python parses (`ast.literal_eval`), so a long hostile one could exhaust the parser. numpy refuses
headers above 10,000 characters for that reason, and so do we: on loading, and on saving.
"""

from __future__ import annotations

import ast
import errno
import math
from io import BytesIO
from typing import Any, NamedTuple

import numpy
from numpy.lib import format as npy_format

from .._core.errors import InvalidArgumentError, MshareError

Array = numpy.ndarray[Any, numpy.dtype[Any]]

ALIGN = 64
"""Headers end at a multiple of so many bytes, so that the first item of an array lies at one."""
HEADER_LIMIT = 10_000
"""Characters of a header's text: the default limit of `numpy.load`."""
MAGIC = b"\x93NUMPY"


class NotAnArrayError(MshareError):
    """The bytes of a region are not the arrays that were asked for, or are damaged. `mshare.numpy` raises it."""

    code = errno.EBADMSG


NotAnArrayError.__module__ = "mshare.numpy"


class Header(NamedTuple):
    """The header of one array, checked against the bytes that there are."""

    dtype: numpy.dtype[Any]
    shape: tuple[int, ...]
    order: str
    """`C` or `F`: which index changes slowest, the first or the last."""
    start: int
    """The byte of the array's first item, counted from the header's first byte."""


def as_array(value: object, what: str) -> Array:
    """Return `value` as an array that a `.npy` file can hold. `what` names it in errors (`InvalidArgumentError`)."""
    if isinstance(value, numpy.ma.MaskedArray):
        raise InvalidArgumentError(
            f"{what} is a masked array", "save its data and its mask (numpy.ma.getmaskarray) as two arrays of a dict"
        )
    array: Array = numpy.asarray(value)
    if array.dtype.hasobject:
        raise InvalidArgumentError(
            f"{what} has dtype {array.dtype}, which holds pointers of one process",
            "use numbers, booleans, dates or strings of a fixed size: array.astype('U'), for example",
        )
    return array


def header(array: Array, what: str) -> bytes:
    """Return the bytes before the items. Raises `InvalidArgumentError` for a dtype that a header cannot describe."""
    try:
        fields = npy_format.header_data_from_array_1_0(array)
        kept = npy_format.descr_to_dtype(fields["descr"]) == array.dtype
    except (ValueError, TypeError):
        kept = False
    if not kept:
        raise InvalidArgumentError(
            f"{what} has dtype {array.dtype}, which a .npy file cannot describe",
            "save a view with another dtype: array.view('u1'), for example",
        )
    file = BytesIO()
    try:
        npy_format.write_array_header_1_0(file, fields)
        written = file.getvalue()
    except UnicodeEncodeError:  # the name of a field
        text = repr(dict(sorted(fields.items()))).encode()
        fill = -(12 + len(text) + 1) % ALIGN
        written = MAGIC + b"\3\0" + (len(text) + fill + 1).to_bytes(4, "little") + text + b" " * fill + b"\n"
    except ValueError:  # above 64 KiB
        written = b" " * (HEADER_LIMIT * 2)
    if len(written) > HEADER_LIMIT:
        raise InvalidArgumentError(
            f"{what} has a dtype of so many fields that numpy.load would refuse its header",
            "save the fields as the arrays of a dict",
        )
    return written


def is_fortran(array: Array) -> bool:
    """Tell whether the items of `array` are saved in Fortran order. The header says the same."""
    return array.flags.f_contiguous and not array.flags.c_contiguous


def parse(view: memoryview, what: str) -> Header:
    """Return the header at the first byte of `view`. The array then fits into `view`, whatever the bytes are.

    Raises `NotAnArrayError`. The bytes may be hostile: they are read once, and nothing of their size is allocated.
    """
    head = bytes(view[:12])
    if len(head) < 12 or head[:6] != MAGIC or head[6] not in (1, 2, 3):
        raise NotAnArrayError(f"{what} does not begin as a .npy file does", "load what mshare.numpy.save has saved")
    start = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:start], "little")
    if length > HEADER_LIMIT:
        raise NotAnArrayError(f"{what} has a header of {length} bytes", f"at most {HEADER_LIMIT} are read")
    text = bytes(view[start : start + length])
    try:
        fields = ast.literal_eval(text.decode("utf-8" if head[6] == 3 else "latin1"))
        if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
            raise ValueError("it is not a dict of descr, fortran_order and shape")
        shape, fortran = fields["shape"], fields["fortran_order"]
        if not isinstance(shape, tuple) or any(type(number) is not int or number < 0 for number in shape):
            raise ValueError(f"{shape!r} is not a shape")
        if not isinstance(fortran, bool):
            raise ValueError(f"fortran_order is {fortran!r}")
        dtype = npy_format.descr_to_dtype(fields["descr"])
        if dtype.hasobject or dtype.subdtype is not None:
            raise ValueError(f"{dtype} is not a dtype of an array's plain items")
        if math.prod(shape) * dtype.itemsize > len(view) - start - length:
            raise ValueError(f"its array of {shape} x {dtype} is longer than the bytes that follow")
    except Exception as error:  # of Python's parser or numpy's, which have dozens of reasons to refuse a text
        reason = str(error) or type(error).__name__
        raise NotAnArrayError(f"{what} has an invalid .npy header: {reason:.200}", "have it saved again") from error
    return Header(dtype, shape, "F" if fortran else "C", start + length)
