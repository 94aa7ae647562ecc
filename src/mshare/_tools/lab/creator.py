"""The process that makes the region and is killed while others use it, and a process that comes later. May depend on:
mechanisms, run, measure.child, geometry.

Both are fresh interpreters (`measure.child.Child`) and use the library of the mechanism under test.

May depend on: mechanisms, run, measure, geometry.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ..._core.geometry import PAGE
from ...measure.child import requests, say
from .mechanisms import MECHANISMS
from .run import again_step_bytes

CREATOR = "from mshare._tools.lab.creator import create; create()"
NEWCOMER = "from mshare._tools.lab.creator import come; come()"

_CHUNK = 4096


def _pieces(view: memoryview, step: int) -> Iterator[memoryview]:
    """Yield views of every `step`-th byte of `view`, 4,096 of them at a time."""
    for start in range(0, len(view), _CHUNK * step):
        yield view[start : start + _CHUNK * step : step]


def create() -> None:
    """Make the region on request, write 1 to the first byte of every `step` bytes, report its place, and live on."""
    mechanism, name, size, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    for _ in requests():
        try:
            place, view = MECHANISMS[mechanism].create(name, size, step > PAGE)
        except OSError as error:
            say({"error": str(error)})
            return
        for piece in _pieces(view[:size], step):
            piece[:] = b"\1" * len(piece)
        say(place._asdict())


def come() -> None:
    """Attach by name and read as the survivors do. Report the number of pages that hold the creator's bytes."""
    mechanism, name, size, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    for _ in requests():
        try:
            view = MECHANISMS[mechanism].newcomer(name, size)
        except OSError as error:
            say({"error": str(error)})
            return
        say({"good": sum(piece.tobytes().count(1) for piece in _pieces(view, again_step_bytes(size, step)))})
