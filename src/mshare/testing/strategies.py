"""Hypothesis strategies: tiny key spaces, so that collisions are common, and hostile input.

May depend on: scan, geometry, record, hypothesis.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import Any, get_args

from hypothesis import strategies as st

from mshare._core.geometry import PAGE, PMD, PUD, USER_END, WINDOW
from mshare._core.record import FLAG_FROZEN, FLAG_SPARSE, MAGIC, RECORD_SIZE, VERSION, Record, file_size
from mshare._tools.scan.snapshot import PRIVATE, Area, Filled, Kind, Object, Process, Snapshot, System

names = st.sampled_from(("sga", "säule", "b" * 255))
"""Three good names: a plain one, one that is not ASCII, the longest."""

bad_names = st.one_of(
    st.sampled_from(("", ".", "..", ".hidden", "/", "a/b", "../x", "/etc/passwd", "a\0b", "\0", "x" * 256, "ä" * 128)),
    st.sampled_from(("\udcff", "a\ud800", "\udc2e")),
    st.text(min_size=1).map(lambda text: "." + text),
    st.tuples(st.text(), st.sampled_from("/\0"), st.text()).map("".join),
    st.text(min_size=256, max_size=300),
)
"""Names that no region may have."""

edge_sizes = (1, PAGE - 1, PAGE, PAGE + 1, PMD - 1, PMD, PMD + 1, 3 * PMD + 5 * PAGE + 7)
"""Sizes around all units of rounding."""

small_sizes = st.sampled_from((1, PAGE - 1, PAGE + 1, PMD + 1))

offsets = st.sampled_from((0, 1, 2))
"""First, middle and last byte of a region: see `byte_at`."""


def byte_at(offset: int, size: int) -> int:
    """Return the offset in bytes for a value of `offsets` in a region of `size` bytes."""
    return (0, size // 2, size - 1)[offset]


_pages = st.integers(0, USER_END // PAGE).map(lambda page: page * PAGE)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Records as `create` writes them."""
    leaf, map_unit = draw(st.sampled_from(((PAGE, PAGE), (PMD, PAGE), (PMD, PMD), (PAGE, PUD), (PMD, PUD))))
    size = draw(st.one_of(st.sampled_from(edge_sizes), st.integers(1, 1 << 45)))
    return Record(
        size_bytes=size,
        addr=WINDOW[0] + draw(st.integers(0, 1 << 10)) * PUD,
        leaf_size=leaf,
        map_unit=map_unit,
        created_ns=draw(st.integers(0, (1 << 64) - 1)),
        backend=draw(st.text("abcdefghijklmnopqrstuvwxyz-_0123456789", min_size=1, max_size=16)),
        reason=draw(st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=200)),
        frozen=draw(st.booleans()),
        reserved=draw(st.booleans()),
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
    "map_unit": st.one_of(st.sampled_from((PAGE, PMD, PUD)), _numbers),
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
        "flags": FLAG_FROZEN * good.frozen | FLAG_SPARSE * (not good.reserved),
        "size": good.size_bytes,
        "addr": good.addr,
        "leaf": good.leaf_size,
        "map_unit": good.map_unit,
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
"""Text that no kernel would write into /proc."""

paths = st.binary(max_size=40).filter(lambda raw: b"\n" not in raw and raw == raw.strip())
"""Paths as /proc/PID/maps shows them."""


_hostile = st.sampled_from(
    ("plain", "new\nline", "\x1b[2J\x1b]0;x\x07", "\u202egnp", "a\x9bb", "\udcff", "[red]", "", "$x^2$")
)


@st.composite
def objects(draw: st.DrawFn) -> Object:
    """Objects that processes map, with hostile names."""
    kind: Kind = draw(st.sampled_from(get_args(Kind)))
    page = draw(st.sampled_from((PMD, PUD))) if kind == "hugetlb" else PAGE
    path = draw(st.sampled_from(("/", "/memfd:", "/SYSV", "/dev/shm/", "/anon_hugepage", "")))
    return Object(
        kind,
        draw(st.integers(0, 3)),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 1)),
        path + draw(_hostile),
        draw(st.booleans()),
        page,
        draw(st.sampled_from(("", "sga", "\x1b[31m"))),
        draw(st.sampled_from(((), (page,), (PAGE, PMD)))),
    )


@st.composite
def _processes(draw: st.DrawFn, things: tuple[Object, ...], exact: bool) -> Process:
    places = sorted(draw(st.sets(st.integers(0, 2 * PUD // PMD).map(lambda n: n * PMD // 2), max_size=8)))
    areas = tuple(
        Area(
            start,
            end,
            draw(st.sampled_from((0, PMD, PUD))),
            draw(st.integers(PRIVATE, len(things) - 1)),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for start, end in pairwise(places)
    )
    filled = tuple(
        Filled(area.start, area.end, index, draw(st.sampled_from((PAGE, PMD))))
        for index, area in enumerate(areas)
        if draw(st.booleans())
    )
    read = draw(st.booleans())
    return Process(
        draw(st.integers(1, 1 << 22)),
        draw(_hostile),
        draw(st.integers(0, 3)),
        draw(st.sampled_from(("/", "/system.slice/a\nb.service", f"/docker/{'ab' * 32}", "/x/y.scope/\x1b"))),
        draw(st.integers(0, 1)),
        draw(st.integers(0, 200)) * PAGE,
        areas if read else None,
        filled if read and exact else None,
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Small machines: few objects and processes, addresses that collide, some processes unreadable."""
    things = tuple(draw(st.lists(objects(), max_size=4)))
    exact = draw(st.booleans())
    found = draw(st.lists(_processes(things, exact), max_size=4, unique_by=lambda process: process.pid))
    return Snapshot(
        draw(st.integers(0, 1 << 33)) / 2,
        System(
            "host\x1b",
            "6.1",
            {"PageTables": draw(st.integers(0, 400)) * PAGE, "MemTotal": 1 << 30},
            {},
            ("blind\x1b[31m",),
        ),
        things,
        tuple(found),
        {0: "root", 1: "da\nemon"},
        draw(st.integers(0, 2)),
        exact,
        draw(st.booleans()),
    )
