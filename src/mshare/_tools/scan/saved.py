"""Snapshots as bytes, for study on another machine. Pure: bytes in, records out. May depend on: snapshot, errors,
geometry.

The format is gzip around one JSON document. gzip's checksum detects a file that was cut or damaged. Every field is
checked, because a file may come from any person.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from itertools import pairwise
from typing import Any, BinaryIO, NoReturn, get_args

from ..._core.errors import NotASnapshotError
from ..._core.geometry import PAGE, PMD, PUD
from .snapshot import PRIVATE, Area, Filled, Kind, Object, Process, Snapshot, System

VERSION = 1
MOST_BYTES = 128 << 20
"""The largest unpacked snapshot, thirty times that of 1,500 processes with 40 mappings. A small file could unpack to
more than memory holds."""
_PIECE = 1 << 16
_MOST_SECONDS = 253_402_300_800  # the year 10000, which dates do not reach

_LEAVES = (PAGE, PMD, PUD)
_END = 1 << 57  # user space with five levels of tables, twice


def dump(snapshot: Snapshot) -> bytes:
    """Return `snapshot` as bytes for `load`."""
    document = {
        "mshare_snapshot": VERSION,
        **snapshot._asdict(),
        "machine": snapshot.system._asdict(),
        "users": sorted(snapshot.users.items()),
    }
    return gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0)


def load(raw: bytes) -> Snapshot:
    """Return the snapshot that `dump` wrote. Raises `NotASnapshotError` as `read` does."""
    return read(io.BytesIO(raw))


def read(file: BinaryIO) -> Snapshot:
    """Return the snapshot in `file`. Raises `NotASnapshotError` for anything else: a file that is cut, damaged, from a
    newer version, or that contradicts itself.

    The function reads pieces, and no more than it needs, because a user can give any file or device by mistake.
    """
    text = _unpack(file)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        document = None
    if not isinstance(document, dict) or type(document.get("mshare_snapshot")) is not int:
        raise NotASnapshotError("the file is not a snapshot", "save one with mshare scan --save")
    if document["mshare_snapshot"] != VERSION:
        raise NotASnapshotError(
            f"the snapshot has format {document['mshare_snapshot']}, this mshare reads format {VERSION}",
            "use the version of mshare that saved it, or a newer one",
        )
    try:
        return _snapshot(document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise NotASnapshotError("the snapshot contradicts itself", "save a new one") from None


def _unpack(file: BinaryIO) -> bytes:
    unpacker, text, size = zlib.decompressobj(wbits=31), bytearray(), 0
    while not unpacker.eof:
        piece = file.read(_PIECE)
        if not piece:
            raise NotASnapshotError("the snapshot is cut short", "copy it again, or save a new one")
        size += len(piece)
        try:
            text += unpacker.decompress(piece, MOST_BYTES + 1 - len(text))
        except zlib.error:
            raise NotASnapshotError(
                "the file is not a snapshot, or it is damaged", "save one with mshare scan --save"
            ) from None
        if max(len(text), size) > MOST_BYTES:
            raise NotASnapshotError(
                f"the file has or unpacks to more than {MOST_BYTES} bytes", "do not trust the file's origin"
            )
    return bytes(text)


def _bad() -> NoReturn:
    raise ValueError


def _int(value: Any, low: int = 0, high: int = 1 << 64) -> int:
    return value if type(value) is int and low <= value <= high else _bad()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        _bad()
    value.encode("utf-8", "surrogateescape")  # as names from the kernel can be, or UnicodeEncodeError, a ValueError
    return value


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else _bad()


def _leaf(value: Any) -> int:
    return int(value) if value in _LEAVES else _bad()


def _snapshot(document: dict[str, Any]) -> Snapshot:
    machine = document["machine"]
    objects = tuple(_object(*each) for each in document["objects"])
    taken = document["taken"]
    if type(taken) not in (int, float) or not 0 <= taken < _MOST_SECONDS:
        _bad()
    return Snapshot(
        float(taken),
        System(
            _text(machine["host"]),
            _text(machine["kernel"]),
            {_text(name): _int(value, PAGE * (name == "Hugepagesize")) for name, value in machine["memory"].items()},
            {_text(path): _text(value) for path, value in machine["settings"].items()},
            tuple(map(_text, machine["blind"])),
        ),
        objects,
        _processes(document["processes"], len(objects), exact=_flag(document["exact"])),
        {_int(uid): _text(name) for uid, name in document["users"]},
        _int(document["vanished"]),
        _flag(document["exact"]),
        _flag(document["partial"]),
    )


def _processes(values: Any, objects: int, *, exact: bool) -> tuple[Process, ...]:
    found = tuple(_process(objects, *each) for each in values)
    if len({process.pid for process in found}) < len(found):
        _bad()
    if any(process.areas is not None and (process.filled is not None) != exact for process in found):
        _bad()
    return found


def _object(
    kind: Any, dev: Any, ino: Any, namespace: Any, path: Any, deleted: Any, page: Any, region: Any, leaves: Any
) -> Object:
    return Object(
        kind if kind in get_args(Kind) else _bad(),
        _int(dev),
        _int(ino),
        _int(namespace),
        _text(path),
        _flag(deleted),
        _leaf(page),
        _text(region),
        tuple(map(_leaf, leaves)),
    )


def _process(
    objects: int, pid: Any, command: Any, uid: Any, cgroup: Any, namespaces: Any, vmpte: Any, areas: Any, filled: Any
) -> Process:
    read = None if areas is None else tuple(_area(objects, *each) for each in areas)
    if read is not None and any(a.end > b.start for a, b in pairwise(read)):
        _bad()
    walked = None if filled is None or read is None else tuple(_filled(read, *each) for each in filled)
    if walked is not None and any(a.end > b.start for a, b in pairwise(walked)):
        _bad()
    return Process(
        _int(pid, 1), _text(command), _int(uid), _text(cgroup), _int(namespaces), _int(vmpte, 0, 1 << 52), read, walked
    )


def _area(objects: int, start: Any, end: Any, offset: Any, thing: Any, shared: Any, writable: Any) -> Area:
    return Area(
        _int(start, 0, _END),
        _int(end, start + 1, _END),
        _int(offset),
        _int(thing, PRIVATE, objects - 1),
        _flag(shared),
        _flag(writable),
    )


def _filled(areas: tuple[Area, ...], start: Any, end: Any, area: Any, leaf: Any) -> Filled:
    inside = areas[_int(area)]
    return Filled(_int(start, inside.start, inside.end), _int(end, start + 1, inside.end), area, _leaf(leaf))
