"""Hypothesis strategies: tiny key spaces, so that collisions are common, and hostile input."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from hypothesis import strategies as st

from mshare.geometry import PAGE, PMD, PUD, USER_END, WINDOW
from mshare.record import MAGIC, RECORD_SIZE, VERSION, Record, file_size

names = st.sampled_from(("sga", "säule", "b" * 255))
"""Three good names: a plain one, one that is not ASCII, the longest."""

bad_names = st.one_of(
    st.sampled_from(("", ".", "..", ".hidden", "/", "a/b", "../x", "/etc/passwd", "a\0b", "\0", "x" * 256, "ä" * 128)),
    st.sampled_from(("\udcff", "a\ud800", "\udc2e")),
    st.text(min_size=1).map(lambda text: "." + text),
    st.tuples(st.text(), st.sampled_from("/\0"), st.text()).map("".join),
    st.text(min_size=256, max_size=300),
)
"""What no region may be called."""

edge_sizes = (1, PAGE - 1, PAGE, PAGE + 1, PMD - 1, PMD, PMD + 1, 3 * PMD + 5 * PAGE + 7)
"""Sizes around everything that anything is rounded to."""

small_sizes = st.sampled_from((1, PAGE - 1, PAGE + 1, PMD + 1))

offsets = st.sampled_from((0, 1, 2))
"""First, middle and last byte of a region: see `byte_at`."""


def byte_at(offset: int, size: int) -> int:
    """Return the offset in bytes that `offsets` means in a region of `size` bytes."""
    return (0, size // 2, size - 1)[offset]


_pages = st.integers(0, USER_END // PAGE).map(lambda page: page * PAGE)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Records as `create` writes them."""
    leaf, unit = draw(st.sampled_from(((PAGE, PAGE), (PMD, PAGE), (PMD, PMD), (PAGE, PUD))))
    size = draw(st.one_of(st.sampled_from(edge_sizes), st.integers(1, 1 << 45)))
    return Record(
        size_bytes=size,
        addr=WINDOW[0] + draw(st.integers(0, 1 << 10)) * PUD,
        leaf_size=leaf,
        unit=unit,
        created_ns=draw(st.integers(0, (1 << 64) - 1)),
        backend=draw(st.text("abcdefghijklmnopqrstuvwxyz-_0123456789", min_size=1, max_size=16)),
        reason=draw(st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=200)),
        frozen=draw(st.booleans()),
    )


_numbers = st.one_of(
    st.sampled_from((0, 1, PAGE, PMD, PUD, USER_END, WINDOW[0], 1 << 63, (1 << 64) - 1)),
    st.integers(0, (1 << 64) - 1),
    _pages,
)


_short = st.one_of(st.sampled_from((0, 1, 2, RECORD_SIZE, (1 << 32) - 1)), st.integers(0, (1 << 32) - 1))
_lies: dict[str, st.SearchStrategy[Any]] = {
    "version": _short,
    "flags": _short,
    "length": _short,
    "addr": st.one_of(_pages, _pages, _numbers),
    "leaf": st.one_of(st.sampled_from((PAGE, PMD)), _numbers),
    "unit": st.one_of(st.sampled_from((PAGE, PMD, PUD)), _numbers),
    "backend": st.binary(max_size=16),
}


@st.composite
def hostile_pages(draw: st.DrawFn) -> tuple[bytes, int]:
    """(page, file size): from noise to records that are well formed, with a right checksum, and lie."""
    good = draw(records())
    length = file_size(good.size_bytes, good.file_unit)
    kind = draw(st.sampled_from(("noise", "flipped", "lying", "cut")))
    if kind == "noise":
        return draw(st.binary(max_size=64)).ljust(RECORD_SIZE, draw(st.sampled_from((b"\0", b"\xff")))), length
    if kind == "cut":
        return good.encode()[: draw(st.integers(0, RECORD_SIZE - 1))], length
    if kind == "flipped":
        page = bytearray(good.encode())
        page[draw(st.integers(0, RECORD_SIZE - 1))] ^= draw(st.integers(1, 255))
        return bytes(page), length
    fields: dict[str, Any] = {
        "version": VERSION,
        "flags": int(good.frozen),
        "size": good.size_bytes,
        "addr": good.addr,
        "leaf": good.leaf_size,
        "unit": good.unit,
        "created": good.created_ns,
        "backend": b"shm",
        "length": 3,
        "file": length,
    }
    for field in draw(st.sets(st.sampled_from(sorted(fields)), max_size=2)):
        fields[field] = draw(_lies.get(field, _numbers))
    length = fields.pop("file")
    head = struct.pack("<8sIIQQQQQ16sI", MAGIC, *fields.values())
    body = (head + draw(st.sampled_from((b"why", b"\xff\xfe\xfd", b"\0\0\0")))).ljust(RECORD_SIZE - 4, b"\0")
    return body + struct.pack("<I", zlib.crc32(body)), length


proc_text = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from((b"-", b":", b" ", b"\n", b"0", b"ff", b"r-xp", b"\\040", b"\\", b"(", b")", b"kB"))).map(
        b"".join
    ),
)
"""What no kernel would write into /proc."""

paths = st.binary(max_size=40).filter(lambda raw: b"\n" not in raw and raw == raw.strip())
"""Paths as /proc/PID/maps shows them."""
