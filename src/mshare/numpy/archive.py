"""The bytes of several arrays by name: an uncompressed `.npz` file, which is a ZIP archive. Pure.
May depend on: errors, geometry, npy.

Source: APPNOTE.TXT of PKWARE, sections 4.3 to 4.5. All archives are written in the form for large files (ZIP64). The
padding before each array is an extra field with the number 0xD935, which Android's zipalign uses for the same purpose.

Facts: readers look for an archive's end in the last 64 KiB of a file. The file of a region ends with the region's
record, and on hugetlb with the rest of a 2 MiB page.
Consequence: `numpy.load` would not find an archive that ends in the middle of such a page.
Decision: an archive above 1 MiB is made to end one page before a multiple of 2 MiB, where the record begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .._core.errors import InvalidArgumentError
from .._core.geometry import PAGE, PMD, round_up
from .npy import ALIGN, Array, NotAnArrayError, header

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_LOCAL_SIZES = struct.Struct("<2H2Q")
_CENTRAL_SIZES = struct.Struct("<2H3Q")
_PADDING = struct.Struct("<3H")

MAGIC = b"PK\3\4"
_SUFFIX = ".npy"
_VERSION, _UNIX, _UTF8, _STORED, _NO_TIME, _NO_DATE = 45, 3 << 8, 0x800, 0, 0, 0x21
_ABOVE_16, _ABOVE_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 1
_LONGEST_NAME = 1000
_MOST_ARRAYS = 1 << 16
_LARGEST_DIRECTORY = 64 << 20
"""Bounds of what the directory of a hostile region can make a reader allocate. `save` keeps them as well."""


class Member(NamedTuple):
    """One array and its place."""

    name: bytes
    offset: int
    """The byte of the region at which the member's local header begins."""
    start: int
    """The byte at which its `.npy` file begins, a multiple of 64."""
    header: bytes
    array: Array

    @property
    def length(self) -> int:
        """Bytes of its `.npy` file."""
        return len(self.header) + self.array.nbytes

    def local(self, crc: int) -> bytes:
        """Return the bytes from `offset` to `start`."""
        extra = _LOCAL_SIZES.pack(1, 16, self.length, self.length)
        space = self.start - self.offset - _LOCAL.size - len(self.name) - len(extra)
        padding = _PADDING.pack(0xD935, space - 4, ALIGN) if space else b""
        fixed = (_VERSION, _UTF8, _STORED, _NO_TIME, _NO_DATE, crc, _ABOVE_32, _ABOVE_32)
        first = _LOCAL.pack(MAGIC, *fixed, len(self.name), len(extra) + space)
        return (first + self.name + extra + padding).ljust(self.start - self.offset, b"\0")

    def central(self, crc: int) -> bytes:
        """Return the member's row of the directory."""
        extra = _CENTRAL_SIZES.pack(1, 24, self.length, self.length, self.offset)
        fixed = (_VERSION | _UNIX, _VERSION, _UTF8, _STORED, _NO_TIME, _NO_DATE, crc, _ABOVE_32, _ABOVE_32)
        return (
            _CENTRAL.pack(b"PK\1\2", *fixed, len(self.name), len(extra), 0, 0, 0, 0o600 << 16, _ABOVE_32)
            + self.name
            + extra
        )


class Plan(NamedTuple):
    """The places of all arrays in a region of `size` bytes."""

    members: list[Member]
    size: int

    def directory(self, crcs: list[int]) -> bytes:
        """Return the last bytes of the region."""
        rows = b"".join(member.central(crc) for member, crc in zip(self.members, crcs, strict=True))
        count, start = len(self.members), self.size - len(rows) - _END64.size - _LOCATOR.size - _END.size
        return (
            rows
            + _END64.pack(b"PK\6\6", _END64.size - 12, _VERSION, _VERSION, 0, 0, count, count, len(rows), start)
            + _LOCATOR.pack(b"PK\6\7", 0, start + len(rows), 1)
            + _END.pack(b"PK\5\6", 0, 0, _ABOVE_16, _ABOVE_16, _ABOVE_32, _ABOVE_32, 0)
        )


def plan(arrays: Mapping[str, Array]) -> Plan:
    """Return where the arrays go. Raises `InvalidArgumentError` for names that an archive cannot hold."""
    if not arrays:
        raise InvalidArgumentError("there is no array in the dict", "save at least one")
    if len(arrays) > _MOST_ARRAYS:
        raise InvalidArgumentError(f"{len(arrays)} arrays are too many", f"save at most {_MOST_ARRAYS} in one region")
    members, end = [], 0
    for name, array in arrays.items():
        encoded = _encoded(name)
        fixed = end + _LOCAL.size + len(encoded) + _LOCAL_SIZES.size
        space = -fixed % ALIGN
        space += ALIGN if 0 < space < _PADDING.size else 0
        members.append(Member(encoded, end, fixed + space, header(array, f"array {name!r}"), array))
        end = members[-1].start + members[-1].length
    rows = sum(len(member.central(0)) for member in members)
    end += rows + _END64.size + _LOCATOR.size + _END.size
    return Plan(members, round_up(end + PAGE, PMD) - PAGE if end > PMD // 2 else end)


def _encoded(name: str) -> bytes:
    try:
        encoded = (name + _SUFFIX).encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or "\0" in name or len(encoded) > _LONGEST_NAME:
        raise InvalidArgumentError(
            f"{name!r} cannot be the name of an array in an archive",
            f"use UTF-8 without NUL, of at most {_LONGEST_NAME - len(_SUFFIX)} bytes",
        )
    return encoded


def members(view: memoryview, what: str) -> dict[str, tuple[int, int]]:
    """Return the first byte of each array's `.npy` file and the byte after its last, by the array's name.

    Raises `NotAnArrayError`. The bytes may be hostile: they are read once, and all places lie inside of `view`.
    """
    try:
        return dict(_places(view))
    except (ValueError, struct.error) as error:
        raise NotAnArrayError(
            f"{what} is not an uncompressed .npz archive: {error}",
            "save it with mshare.numpy.save, or with numpy.savez",
        ) from error


def _places(view: memoryview) -> Iterator[tuple[str, tuple[int, int]]]:
    names = set()
    directory, end = _directory(view)
    while directory:
        row = _CENTRAL.unpack_from(directory)
        flags, method, name_length, extra_length, comment_length = row[3], row[4], *row[10:13]
        length, stored, offset = row[9], row[8], row[16]
        first, extra = _CENTRAL.size + name_length, _CENTRAL.size + name_length + extra_length
        if row[0] != b"PK\1\2" or extra + comment_length > len(directory):
            raise ValueError("its directory is damaged")
        name = bytes(directory[_CENTRAL.size : first]).decode("utf-8" if flags & _UTF8 else "cp437")
        length, stored, offset = _large(directory[first:extra], length, stored, offset)
        if method != _STORED or flags & _ENCRYPTED:
            raise ValueError(f"its member {name!r} is compressed or encrypted")
        if not name.endswith(_SUFFIX) or len(directory[_CENTRAL.size : first]) > _LONGEST_NAME or name in names:
            raise ValueError(f"its member {name[:_LONGEST_NAME]!r} is not a .npy file, or is there twice")
        local = _LOCAL.unpack(view[offset : offset + _LOCAL.size])
        start = offset + _LOCAL.size + local[9] + local[10]
        if local[0] != MAGIC or length != stored or start + length > end:
            raise ValueError(f"its member {name!r} lies outside of the region")
        names.add(name)
        if len(names) > _MOST_ARRAYS:
            raise ValueError(f"it has more than {_MOST_ARRAYS} members")
        yield name.removesuffix(_SUFFIX), (start, start + length)
        directory = directory[extra + comment_length :]


def _directory(view: memoryview) -> tuple[memoryview, int]:
    """Return a copy of the directory's rows, and the byte of the region at which they begin."""
    last = bytes(view[-_END.size - _ABOVE_16 :])
    found = last.rfind(b"PK\5\6", 0, len(last) - _END.size + 4)
    if found < 0:
        raise ValueError("it has no end of an archive")
    end = len(view) - len(last) + found
    _, disk, other_disk, _, count, length, start, _ = _END.unpack_from(last, found)
    locator = bytes(view[max(0, end - _LOCATOR.size) : end])
    if locator[:4] == b"PK\6\7":
        end = _LOCATOR.unpack(locator)[2]
        signature, _, _, _, disk, other_disk, _, count, length, start = _END64.unpack(view[end : end + _END64.size])
        if signature != b"PK\6\6":
            raise ValueError("its end is damaged")
    if disk or other_disk or start + length > min(end, len(view)):
        raise ValueError("its directory lies outside of the region")
    if length > _LARGEST_DIRECTORY or count * _CENTRAL.size > length:
        raise ValueError(f"its directory has {count} members in {length} bytes")
    return memoryview(bytes(view[start : start + length])), start


def _large(extra: memoryview, length: int, stored: int, offset: int) -> tuple[int, int, int]:
    """Return the numbers, those that are too large for 32 bits from the extra field of ZIP64."""
    numbers = [length, stored, offset]
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        large = [position for position, number in enumerate(numbers) if number == _ABOVE_32]
        if kind == 1 and large:
            values = struct.unpack_from(f"<{len(large)}Q", extra[4 : 4 + size])
            for position, value in zip(large, values, strict=True):
                numbers[position] = value
        extra = extra[4 + size :]
    return numbers[0], numbers[1], numbers[2]
