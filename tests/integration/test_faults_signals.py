"""Signal handlers that raise, as Ctrl-C does, at random moments inside our calls: nothing of ours stays behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core import entry, listing
from mshare._core.backends import hugetlb
from mshare.testing.conformance import files
from mshare.testing.processes import in_child
from tests.helpers.worlds import window_mappings

INTERRUPTS = 499
SIZE = 3 * 4096


def attach_and_close() -> None:
    mshare.attach("r").close()


def attach_and_write() -> None:
    with mshare.attach("r") as region:
        region.buf[0] = 1


def attach_and_drop() -> None:
    mshare.attach("r", readonly=True, addr=mshare.ANYWHERE).buf.release()


def create_and_unlink() -> None:
    mshare.create("new", SIZE).close()
    mshare.unlink("new")


def look_at_every_record() -> None:
    entry.remembered.clear()
    list(listing.known_records())


def look_for_huge_pages() -> None:
    hugetlb._pool("nr_hugepages")


def interrupts() -> list[int]:
    """Have SIGALRM raise KeyboardInterrupt from now on. Return a list that grows by one with each signal."""
    arrived: list[int] = []

    def handler(number: int, _: object) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    sys.unraisablehook = lambda _: None  # an interrupt in a destructor is lost, and the interpreter says so
    signal.signal(signal.SIGALRM, handler)
    return arrived


def interrupted(call: Callable[[], Any], seed: int) -> dict[str, Any]:
    """Make a call again and again, each time with a signal whose handler raises some microseconds later."""
    draw = random.Random(seed)
    arrived = interrupts()
    call()
    before = len(os.listdir("/proc/self/fd"))
    while len(arrived) < INTERRUPTS:
        with suppress(KeyboardInterrupt, mshare.RegionExistsError, mshare.RegionNotFoundError):
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, 2e-4))
            try:
                for _ in range(31):
                    call()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if call is create_and_unlink:
            with suppress(mshare.RegionNotFoundError):
                mshare.unlink("new")  # a region that exists is complete
    gc.collect()
    call()
    more = len(os.listdir("/proc/self/fd")) - before
    return {"descriptors": more, "mappings": window_mappings(), "orphan": mshare.regions()[0].orphan}


@pytest.mark.parametrize(
    "call",
    [
        attach_and_close,
        attach_and_write,
        attach_and_drop,
        create_and_unlink,
        look_at_every_record,
        look_for_huge_pages,
    ],
)
def test_an_interrupted_call_leaves_nothing(world: Path, call: Callable[[], Any]) -> None:
    mshare.create("r", SIZE).close()
    left = in_child(lambda: interrupted(call, seed=20261)).value
    assert left == {"descriptors": 0, "mappings": [], "orphan": True}
    assert [path.name for path in files()] == ["r"]


def drop_last_views(seed: int) -> list[str]:
    """Drop the last view of one removed region after the other, each with a signal whose handler raises just then."""
    draw = random.Random(seed)
    arrived = interrupts()
    for turn in range(INTERRUPTS):
        view: memoryview | None = mshare.create("new", SIZE).buf
        mshare.unlink("new")
        with suppress(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, 2e-5))
            view = None
            while len(arrived) == turn:
                pass
        del view
    mshare.attach("r").close()
    return window_mappings()


def test_an_interrupted_destructor_is_made_up_for_by_the_next_call(world: Path) -> None:
    """The next call may concern another region, because nobody can use this one again."""
    mshare.create("r", SIZE).close()
    assert in_child(lambda: drop_last_views(seed=20262)).value == []
