"""A signal handler calls us in the middle of a call of the same thread. The signal comes at every step of bytecode of
the parts that know the mappings. Nothing hangs, is lost, or is mapped twice, and everything open can be used."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import mshare
from mshare._core import attached, attachment, mapping, names
from mshare._core.linux import descriptors, held, libc, locks
from mshare._core.record import ATTACHED_BYTE
from mshare.testing.processes import in_child
from tests.helpers.worlds import window_mappings

SIZE = 3 * 4096
WATCHED = {module.__file__ for module in (attached, attachment, mapping, descriptors, held, libc)}


class Scene:
    """One process's regions over `r`, and the views into them, before, while and after a call is interrupted."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.regions: list[mshare.Region] = [mshare.attach("r"), mshare.attach("r")]
        self.views: list[memoryview] = []

    @property
    def first(self) -> mshare.Region:
        if not self.regions:
            raise mshare.RegionClosedError("all were dropped", "attach one")
        return self.regions[0]

    def attach(self) -> None:
        self.regions.append(mshare.attach("r"))

    def attach_first(self) -> None:
        """Of this address: what was there is gone by then, unless a handler has come back."""
        self.close_all()
        self.attach()

    def attach_anywhere(self) -> None:
        self.regions.append(mshare.attach("r", addr=mshare.ANYWHERE))

    def attach_handle(self) -> None:
        with self.first.handle() as handle:
            self.regions.append(mshare.attach(handle, readonly=True))

    def close(self) -> None:
        self.first.close()

    def close_all(self) -> None:
        for region in list(self.regions):
            region.close()

    def drop(self) -> None:
        self.regions[:] = []

    def view(self) -> None:
        self.views.append(self.first.buf)

    def view_and_release(self) -> None:
        self.first.buf.release()

    def unlink_ours(self) -> None:
        mshare.mshare_unlink("r")

    def create(self) -> None:
        with mshare.create("other", SIZE, backend="shm"):
            mshare.unlink("other")

    def come_and_go(self) -> None:
        for _ in range(3):
            mshare.attach("r").close()

    def check(self) -> None:
        """Every open region can be used, and nothing is left when all are closed."""
        for view in self.views:
            assert view[0] == 7
            view.release()
        for region in self.regions:
            if not region.closed:
                assert region.buf[0] == 7
                if not region.readonly:
                    region.buf[1] = (region.buf[1] + 1) % 256
        self.close_all()
        assert window_mappings() == []
        if self.file.exists():
            with descriptors.Descriptor(str(self.file), os.O_RDWR) as fd:
                assert not locks.is_locked(fd, ATTACHED_BYTE)


EXPECTED = (mshare.ViewsAliveError, mshare.RegionClosedError, mshare.RegionNotFoundError, mshare.RegionBusyError)
"""Errors that a call may raise because of the other call."""


def quietly(call: Callable[[], None]) -> None:
    with suppress(*EXPECTED):
        call()


def interrupted_at(step: int, outer: Callable[[], None], inner: Callable[[], None]) -> bool:
    """Call `outer`, with a signal at bytecode number `step` whose handler calls `inner`. False if `outer` has fewer."""
    left = [step]
    before = signal.signal(signal.SIGUSR1, lambda *_: quietly(inner))

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == -1:
                signal.raise_signal(signal.SIGUSR1)
        return trace

    sys.settrace(trace)
    try:
        quietly(outer)
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGUSR1, before)
    return left[0] < 0


def at_every_step(file: Path, outer: str, inner: str, steps: Iterable[int]) -> int:
    """Return the first of `steps` that `outer` does not have; it is interrupted by `inner` at those before."""
    for step in steps:
        if not file.exists():
            mshare.create("r", SIZE, backend="shm", fill=lambda view: view.__setitem__(0, 7)).close()
        descriptors_before = len(os.listdir("/proc/self/fd"))
        scene = Scene(file)
        try:
            more = interrupted_at(step, getattr(scene, outer), getattr(scene, inner))
            scene.check()
            del scene
            assert len(os.listdir("/proc/self/fd")) == descriptors_before
        except BaseException as error:
            error.add_note(f"{outer} interrupted by {inner} at step {step}")
            raise
        if not more:
            return step
    raise AssertionError("it does not end")


EVERY = int(os.environ.get("MSHARE_EVERY_STEP", "53"))
"""A prime: the pairs below start at different steps. With 1, which takes minutes, each pair goes through all steps."""

OUTER = ["attach", "attach_first", "attach_anywhere", "close", "close_all", "drop", "view_and_release", "unlink_ours"]
INNER = ["attach", "attach_first", "attach_handle", "close_all", "drop", "view", "unlink_ours", "create", "come_and_go"]


SLOW = {("unlink_ours", inner) for inner in INNER} - {("unlink_ours", "attach"), ("unlink_ours", "close_all")}
"""Pairs that search all of /proc, step by step. The other pairs meet all important steps."""


@pytest.mark.parametrize(("outer", "inner"), [pair for pair in product(OUTER, INNER) if pair not in SLOW])
def test_a_handler_in_the_middle_of_a_call(world: Path, outer: str, inner: str) -> None:
    first = (OUTER.index(outer) * len(INNER) + INNER.index(inner)) % EVERY

    def run() -> int:
        names._PATIENCE_S = 0.01  # a call that a handler waits for does not go on before the handler is over
        return at_every_step(world / "shm" / "r", outer, inner, range(first, 1 << 20, EVERY))

    assert in_child(run).value > 13
