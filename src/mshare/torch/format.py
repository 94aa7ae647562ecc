"""The bytes of a safetensors file: a header of JSON, then the items of all tensors without a gap. Pure.
May depend on: errors.

Source: the description of the format in the README of safetensors, and what its library 0.8 accepts and writes.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .._core.errors import InvalidArgumentError, MshareError

LARGEST_HEADER = 16 << 20
"""Bytes of a header: a bound of what a hostile region can make a reader parse. `save` keeps the bound also. The library
safetensors accepts 100 MB. A header of 16 MiB describes some 100,000 tensors."""
LENGTH = 8
"""Bytes of the number before the header: the header's length."""
_ALIGN = 8
_METADATA = "__metadata__"
_TOO_MANY = 1 << 64

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""The dtypes of the format, by bits of an item."""

_ORDER = (
    *("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"),
)
"""The order in which the library ranks dtypes. The tensors of the highest rank are first in a file."""


class NotTensorsError(MshareError):
    """The bytes of a region, or of a file, are not a safetensors file, or are damaged. `mshare.torch` raises it."""

    code = errno.EBADMSG


NotTensorsError.__module__ = "mshare.torch"


class Entry(NamedTuple):
    """One tensor of a file, and the places of its items: bytes that are counted from the file's first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Layout(NamedTuple):
    """The header of a file, checked against the bytes that there are."""

    entries: dict[str, Entry]
    """In the order of their places."""
    metadata: dict[str, str]


def size_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes of a tensor's items. Raises `ValueError` if they do not end at a byte's end, or for a size that
    has more than 64 bits."""
    bits = 1
    for number in (*shape, BITS[dtype]):
        bits *= number
        if bits >= _TOO_MANY:
            raise ValueError(f"its shape {tuple(shape)!r:.100} is too large")
    if bits % 8:
        raise ValueError(f"its last byte is not full: {dtype} of shape {tuple(shape)!r:.100}")
    return bits // 8


def header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None
) -> tuple[bytes, Layout]:
    """Return the bytes before the items, and the layout of the file, from each tensor's dtype and shape.

    The bytes are those that the library writes: large items come first, and tensors of one dtype are in order of name.
    Raises `InvalidArgumentError` for names and metadata that the format cannot hold.
    """
    fields: dict[str, Any] = {}
    if metadata is not None:
        if any(not isinstance(text, str) for pair in metadata.items() for text in pair):
            raise InvalidArgumentError("the metadata are not strings alone", "use str(value), or json.dumps(value)")
        fields[_METADATA] = dict(metadata)
    entries, end = {}, 0
    for name in sorted(tensors, key=lambda name: (-_ORDER.index(tensors[name][0]), name.encode("utf-8", "replace"))):
        if name == _METADATA:
            raise InvalidArgumentError(f"no tensor can have the name {name!r}", "choose another name")
        dtype, shape = tensors[name]
        start, end = end, end + size_bytes(dtype, shape)
        entries[name] = Entry(dtype, shape, start, end)
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    try:
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError("a name or a text of the metadata is not valid Unicode", "use UTF-8 text") from error
    text += b" " * (-len(text) % _ALIGN)
    if len(text) > LARGEST_HEADER:
        raise InvalidArgumentError(
            f"the names, shapes and metadata take {len(text)} bytes", f"at most {LARGEST_HEADER}: use several regions"
        )
    first = LENGTH + len(text)
    moved = {name: entry._replace(start=entry.start + first, end=entry.end + first) for name, entry in entries.items()}
    return len(text).to_bytes(LENGTH, "little") + text, Layout(moved, dict(metadata or {}))


def parse(begin: memoryview, size: int, what: str) -> Layout:
    """Return the layout of a file of `size` bytes, all places in it. `begin` has at least the file's header.

    Raises `NotTensorsError`. The bytes may be hostile: they are read once, and nothing of their size is allocated.
    """
    try:
        length = int.from_bytes(begin[:LENGTH], "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header of {length} bytes is longer than {LARGEST_HEADER}")
        if length > len(begin) - LENGTH:
            raise ValueError("its header is longer than all of it")
        text = bytes(begin[LENGTH : LENGTH + length])
        if not text.startswith(b"{"):
            raise ValueError("its header is not a JSON object")
        return _layout(text.decode(), LENGTH + length, size)
    except (ValueError, RecursionError) as error:  # also of the decoders of UTF-8 and JSON
        raise NotTensorsError(
            f"{what} is not a safetensors file: {error!s:.300}",
            "save it with mshare.torch.save, or with safetensors.torch.save_file",
        ) from error


def _layout(text: str, first: int, size: int) -> Layout:
    fields = json.loads(text, object_pairs_hook=_once, parse_int=_count, parse_constant=_refuse)
    metadata = fields.pop(_METADATA, None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not a dict of strings")
    entries = [(name, _entry(name, entry, first)) for name, entry in fields.items()]
    entries.sort(key=lambda pair: (pair[1].start, pair[1].end))
    end = first
    for name, entry in entries:
        if entry.start != end:
            raise ValueError(f"there is a gap before tensor {name!r:.100}, or an overlap")
        end = entry.end
    if end != size:
        raise ValueError(f"its tensors end at byte {end}, and it has {size}")
    return Layout(dict(entries), metadata)


def _entry(name: str, fields: object, first: int) -> Entry:
    what = f"tensor {name!r:.100}"
    match fields:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]} if dtype in BITS:
            pass
        case _:
            raise ValueError(f"{what} has no valid dtype, shape and data_offsets")
    if any(type(number) is not int for number in [*shape, start, end]):
        raise ValueError(f"{what} has a shape or place that is not a number")
    if start > end or end - start != size_bytes(dtype, shape):
        raise ValueError(f"{what} of {dtype} and shape {shape!r:.100} does not fill bytes {start} to {end}")
    return Entry(dtype, tuple(shape), first + start, first + end)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    for name in found:
        name.encode()  # JSON can have half of a surrogate pair, which is not Unicode text
    return found


def _count(digits: str) -> int:
    return int(digits) if digits[0] != "-" and len(digits) < 20 else _refuse(digits)


def _refuse(word: str) -> int:
    raise ValueError(f"{word:.30} is not a number of bytes or items")
