"""A hypothesis state machine: real processes and `mshare.testing.model` do the same, and must get the same results.

Up to four processes over three names create, replace, attach, reattach, store, populate, discard, close, unlink, call
`mshare_unlink`, fork and are killed.
After every step three things are compared: the outcome (value or error class), the contents every attachment sees,
and what `regions()` shows (pids and orphans included) in a process that has nothing attached.

    check("shm", settings(max_examples=31, stateful_step_count=29))

May depend on: conformance, model, processes, strategies, mshare, geometry, hypothesis, roots.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import mshare
from mshare._core.geometry import PAGE, PMD, Span
from mshare._core.roots import directories as roots
from mshare.testing.model import NAMED, Model, Seen

from .conformance import NO_REGIONS, backend_of
from .processes import LIMIT_S, Nursery, Reply, Worker
from .strategies import byte_at, names, offsets, small_sizes

MAX_PROCESSES = 4
MAX_ATTACHED = 12
"""The most attachments at once, which bounds the machine's part of a pool of huge pages."""

picks = st.integers(0, 11)
"""The index of a process or an attachment, taken modulo their number."""


ranges = st.sampled_from(((0, None), (0, PAGE), (PAGE, None), (0, PMD), (PMD, None), (0, 1), (0, 0)))
"""(offset, length) in bytes: all, and parts that are pages of some regions."""


class RegionMachine(RuleBasedStateMachine):
    """One world, seen twice. Subclasses name the backend, and the source of workers."""

    backend: ClassVar[str]
    nursery: ClassVar[Nursery]

    def __init__(self) -> None:
        super().__init__()
        able = backend_of(self.backend).capabilities
        self.handle_rights = able.handle_rights
        self.model = Model(handle_rights=able.handle_rights, file_unit=able.file_unit)
        self.workers: dict[int, Worker] = {}

    # the world

    @initialize()
    def first(self) -> None:
        self.start()

    @precondition(lambda self: len(self.workers) < MAX_PROCESSES)
    @rule()
    def start(self) -> None:
        worker = self.nursery.start()
        self.workers[worker.pid] = worker
        self.model.start(worker.pid)

    @precondition(lambda self: 0 < len(self.workers) < MAX_PROCESSES)
    @rule(which=picks)
    def fork(self, which: int) -> None:
        parent = self._worker(which)
        child = parent.fork()
        self.workers[child.pid] = child
        self.model.fork(parent.pid, child.pid)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(which=picks, softly=st.booleans())
    def die(self, which: int, softly: bool) -> None:
        worker = self._worker(which)
        assert (worker.exit() if softly else worker.kill()) == (0 if softly else -9)
        del self.workers[worker.pid]
        self.model.kill(worker.pid)

    # operations

    @precondition(lambda self: self._attached() < MAX_ATTACHED)
    @rule(
        which=picks,
        name=names,
        size=small_sizes,
        frozen=st.booleans(),
        replace=st.booleans(),
        reserve=st.booleans(),
    )
    def create(self, which: int, name: str, size: int, frozen: bool, replace: bool, reserve: bool) -> None:
        worker, number = self._worker(which), self.model.new_number()
        replace = replace and not frozen
        options: dict[str, Any] = {"backend": self.backend, "replace": replace, "reserve": reserve}
        if frozen:
            options = {"frozen": True}
        reply = worker.do("create", number=number, name=name, size=size, **options)
        addr = 0 if reply.error else int(reply.value)
        if addr:
            span = Span(addr, addr + size)
            known = self.model.everything() if replace else self.model.names.values()
            assert not any(span.overlaps(other.span) for other in known), "two at one address"
        self._compare(
            reply,
            lambda: self.model.create(worker.pid, number, name, size, addr, frozen=frozen, replace=replace),
            value=False,
        )

    @precondition(lambda self: self._attached() < MAX_ATTACHED)
    @rule(which=picks, name=names, readonly=st.booleans())
    def attach(self, which: int, name: str, readonly: bool) -> None:
        worker, number = self._worker(which), self.model.new_number()
        reply = worker.do("attach", number=number, name=name, readonly=readonly)
        self._compare(reply, lambda: self.model.attach(worker.pid, number, name, readonly=readonly))

    @precondition(lambda self: self._attached() > 0)
    @rule(which=picks)
    def reattach(self, which: int) -> None:
        worker, number = self._attachment(which)
        self._compare(worker.do("reattach", number=number), lambda: self.model.reattach(worker.pid, number))

    @precondition(lambda self: self._attached() < MAX_ATTACHED)
    @rule(which=picks, size=small_sizes, linkable=st.booleans())
    def create_anonymous(self, which: int, size: int, linkable: bool) -> None:
        worker, number = self._worker(which), self.model.new_number()
        reply = worker.do("create_anonymous", number=number, size=size, backend=self.backend, linkable=linkable)
        addr = 0 if reply.error else int(reply.value)
        self._compare(
            reply,
            lambda: self.model.create_anonymous(worker.pid, number, size, addr, linkable=linkable),
            value=False,
        )

    @precondition(lambda self: 0 < self._attached() < MAX_ATTACHED)
    @rule(which=picks, to=picks, readonly=st.sampled_from([None, True]))
    def give(self, which: int, to: int, readonly: bool | None) -> None:
        """Send handles of regions without a name, or with a later name. Other tests cover regions with a name."""
        worker, number = self._attachment(which)
        if self.model.processes[worker.pid].attached[number].region.kind == NAMED:
            return
        receiver, new_number = self._worker(to), self.model.new_number()
        reply = worker.give(receiver, number=number, new_number=new_number, readonly=readonly)
        self._compare(reply, lambda: self.model.give(worker.pid, number, receiver.pid, new_number, readonly=readonly))

    @precondition(lambda self: self._attached() > 0)
    @rule(which=picks)
    def seal(self, which: int) -> None:
        worker, number = self._attachment(which)
        region = self.model.processes[worker.pid].attached[number].region
        others = [process for pid, process in self.model.processes.items() if pid != worker.pid]
        if self.handle_rights and any(process.writable.get(id(region)) for process in others):
            return  # it would succeed, and their next store would kill them
        self._compare(worker.do("seal", number=number), lambda: self.model.seal(worker.pid, number))

    @precondition(lambda self: self._attached() > 0)
    @rule(which=picks, name=names)
    def link(self, which: int, name: str) -> None:
        worker, number = self._attachment(which)
        self._compare(worker.do("link", number=number, name=name), lambda: self.model.link(worker.pid, number, name))

    @precondition(lambda self: self._attached() > 0)
    @rule(which=picks, offset=offsets, value=st.integers(0, 255))
    def store(self, which: int, offset: int, value: int) -> None:
        worker, number = self._attachment(which)
        at = byte_at(offset, self.model.processes[worker.pid].attached[number].region.size)
        reply = worker.do("store", number=number, offset=at, value=value)
        self._compare(reply, lambda: self.model.store(worker.pid, number, at, value))

    @precondition(lambda self: self._attached() > 0)
    @rule(which=picks, call=st.sampled_from(("populate", "discard")), ends=ranges)
    def change_memory(self, which: int, call: str, ends: tuple[int, int | None]) -> None:
        worker, number = self._attachment(which)
        offset, length = ends
        reply = worker.do(call, number=number, offset=offset, length=length)
        self._compare(reply, lambda: getattr(self.model, call)(worker.pid, number, offset, length))

    @precondition(lambda self: self._attached() > 0)
    @rule(which=picks, twice=st.booleans())
    def close(self, which: int, twice: bool) -> None:
        worker, number = self._attachment(which)
        for _ in range(1 + twice):
            self._compare(worker.do("close", number=number), lambda: self.model.close(worker.pid, number))
        self._compare(
            worker.do("load", number=number, offset=0), lambda: self.model.load(worker.pid, number, 0), value=False
        )

    @rule(which=picks, name=names)
    def unlink(self, which: int, name: str) -> None:
        self._compare(self._worker(which).do("unlink", name=name), lambda: self.model.unlink(name))

    @rule(which=picks, name=names)
    def mshare_unlink(self, which: int, name: str) -> None:
        worker = self._worker(which)
        self._compare(worker.do("mshare_unlink", name=name), lambda: self.model.mshare_unlink(worker.pid, name))

    @rule(which=picks)
    def gc(self, which: int) -> None:
        self._compare(self._worker(which).do("gc"), lambda: sorted(self.model.gc()))

    # what must hold after every step

    @invariant()
    def contents_agree(self) -> None:
        for pid, process in self.model.processes.items():
            wanted = {
                str(number): [byte_at(o, attached.region.size) for o in range(3)]
                for number, attached in process.attached.items()
            }
            expected = {
                str(number): [attached.region.load(byte_at(o, attached.region.size)) for o in range(3)]
                for number, attached in process.attached.items()
            }
            assert self.workers[pid].do("probe", offsets=wanted) == Reply(expected)

    @invariant()
    def the_superseded_agree(self) -> None:
        for pid, process in self.model.processes.items():
            expected = [self.model.superseded(pid, number) for number in process.attached]
            assert self.workers[pid].do("superseded", numbers=list(process.attached)) == Reply(expected)

    @invariant()
    def regions_agree(self) -> None:
        expected = self.model.regions()
        # A process that reads /proc/PID/maps just then keeps a dying process's memory for a moment, so: in the end.
        _eventually(lambda: shown() == expected, lambda: f"regions() shows {shown()}, the model {expected}")

    def teardown(self) -> None:
        self.nursery.clear()
        for info in mshare.regions():
            mshare.unlink(info.name)
        left = [path for root in roots() for path in Path(root).iterdir() if path.name not in NO_REGIONS]
        assert not left, f"left behind: {left}"

    # helpers

    def _compare(self, reply: Reply, in_model: Callable[[], Any], *, value: bool = True) -> None:
        expected = error = None
        try:
            expected = in_model()
        except Exception as raised:
            error = type(raised).__name__
        assert reply.error == error, f"model: {error or expected}, real: {reply}"
        assert error or not value or reply.value == expected, f"model: {expected}, real: {reply}"

    def _worker(self, which: int) -> Worker:
        return list(self.workers.values())[which % len(self.workers)]

    def _attached(self) -> int:
        return sum(len(process.attached) for process in self.model.processes.values())

    def _attachment(self, which: int) -> tuple[Worker, int]:
        pairs = [(pid, number) for pid, process in self.model.processes.items() for number in process.attached]
        pid, number = pairs[which % len(pairs)]
        return self.workers[pid], number


def check(backend: str, bounds: settings) -> None:
    """Compare `backend`, which must be usable here, with the model. `bounds` sets the number of examples and steps.

    Deadlines and health checks are always off, because real processes take different times.
    """
    with patch.dict(os.environ, MSHARE_BACKEND=backend), Nursery() as nursery:
        machine = type("Machine", (RegionMachine,), {"backend": backend, "nursery": nursery})
        run_state_machine_as_test(
            machine, settings=settings(bounds, deadline=None, suppress_health_check=list(HealthCheck))
        )


def shown() -> dict[str, Seen]:
    """Return `regions()` as the model tells it."""
    return {info.name: Seen((info.size, info.frozen, info.pids, info.orphan)) for info in mshare.regions()}


def _eventually(condition: Callable[[], bool], problem: Callable[[], str]) -> None:
    """Wait until `condition` holds. Raises AssertionError with `problem` after `LIMIT_S`."""
    limit = time.monotonic() + LIMIT_S / 4
    while not condition():
        assert time.monotonic() < limit, problem()
