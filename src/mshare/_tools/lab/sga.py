"""The load: clients attach a region and read all of it, one after the other, until all are there or memory has run out;
then the creator is killed. May depend on: creator, fleet, kernel_log, limit, mechanisms, run, measure, units,
geometry.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from ..._core.geometry import PAGE
from ..._core.units import format_size
from ...measure.child import Child
from .creator import CREATOR, NEWCOMER
from .fleet import Fleet, fleet
from .kernel_log import lines_of, oom_excerpt
from .limit import Limit, quiet
from .mechanisms import MECHANISMS, NOTHING, Place, remove
from .run import Run, Sample, Spread, again_step_bytes

Tell = Callable[[str], None]
"""A function that gets the name of each step."""

OUT_OF_MEMORY = "out of memory"


class Load(NamedTuple):
    """The load's parameters."""

    size_bytes: int
    clients: int
    step_bytes: int = PAGE
    samples: int = 30
    """The number of looks at the memory on the way."""
    workers: int = 2
    """Clients that read at the same time; the others wait for their turn or are done."""


class KernelLog:
    """The kernel's messages from now on. Empty where this process may not read them."""

    def __init__(self) -> None:
        try:
            self._fd: int | None = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = None

    def read(self) -> list[str]:
        """Return the messages since then, and close the file."""
        if self._fd is None:
            return []
        text = b""
        while True:
            try:
                text += os.read(self._fd, 8192)  # one record each
            except BlockingIOError:
                break
            except BrokenPipeError:  # the kernel has overwritten what was next
                continue
        os.close(self._fd)
        self._fd = None
        return lines_of(text.decode("utf-8", "replace"))


def conduct(mechanism: str, load: Load, limit: Limit, tell: Tell = lambda _: None) -> Run:
    """Put the load on one mechanism and return the results. Everything of the load is gone afterwards.

    Clients set `oom_score_adj` so that the kernel kills them first. If a step fails, `failure` has the reason.
    """
    began = time.monotonic()
    result = Run(
        mechanism, MECHANISMS[mechanism].label, load.size_bytes, load.step_bytes, load.clients, limit.kind,
        limit.limit_bytes, MECHANISMS[mechanism].charged, workers=load.workers, facts=_facts(),
    )  # fmt: skip
    name = f"mshare-lab-{os.getpid()}"
    arguments = (mechanism, name, str(load.size_bytes), str(load.step_bytes))
    try:
        with Child(CREATOR, *arguments) as creator:
            limit.enter(creator.pid)
            zero = quiet(limit)
            tell(f"{result.label}: making {format_size(load.size_bytes)}")
            start = time.monotonic()
            creator.ask(do="create")
            answer = creator.answer()
            if "error" in answer:
                return replace(result, unavailable=answer["error"])
            result = replace(result, created_s=time.monotonic() - start, created_tables_bytes=quiet(limit) - zero)
            with fleet(Place(**answer), load.step_bytes, limit, load.workers) as group:
                result = _grow(result, group, load, limit, zero=zero, tell=tell)
                tell(f"{result.label}: killing the creator")
                result = replace(result, asked=len(group.alive))
                creator.kill()
                result = _survive(result, group, arguments)
        result = _base(result, limit, tell)
    except ChildProcessError as error:
        result = replace(result, failure=str(error))
    finally:
        remove(mechanism, name)
    return replace(result, total_s=time.monotonic() - began)


def _base(result: Run, limit: Limit, tell: Tell) -> Run:
    """The same processes with nothing mapped, as many as there were at each sample."""
    before = quiet(limit)
    with fleet(NOTHING, result.step_bytes, limit, result.workers) as group:
        timing = group.time_fork() or (0, 0)
        quiet(limit)
        samples = []
        for clients in sorted({sample.clients for sample in result.samples}):
            group.grow(clients)
            if group.is_full:
                break
            now = limit.read()
            samples.append(Sample(clients, now.page_tables - before, now.free))
            tell(f"nothing mapped: {clients} clients, {format_size(now.free)} free")
        faults = Spread.of([arrival.faults for arrival in group.arrivals])
    return replace(result, base=tuple(samples), base_fork_ns=timing[0], base_exit_ns=timing[1], base_faults=faults)


def _grow(result: Run, group: Fleet, load: Load, limit: Limit, *, zero: int, tell: Tell) -> Run:
    """Start clients until all are there or one has died."""
    log, kills = KernelLog(), limit.oom_kills()
    timing = group.time_fork() or (0, 0)
    quiet(limit)
    start = time.monotonic_ns()
    samples = []
    for clients in _marks(load):
        group.grow(clients)
        now = limit.read()
        samples.append(Sample(len(group.alive), now.page_tables - zero, now.free))
        tell(
            f"{result.label}: {len(group.alive)} of {load.clients} clients, page tables "
            f"{format_size(max(0, now.page_tables - zero))}, {format_size(now.free)} free"
        )
        if group.is_full:
            break
    if group.is_full:
        result = replace(
            result,
            oom_kills=limit.oom_kills() - kills,
            oom_log=tuple(oom_excerpt(log.read())),
            ended_by=OUT_OF_MEMORY if group.killed else group.refused,
        )
    arrivals = group.arrivals
    pages = -(-load.size_bytes // load.step_bytes)
    return replace(
        result,
        samples=tuple(samples),
        reached=group.peak,
        wrong=sum(arrival.good != pages for arrival in arrivals),
        faults=Spread.of([arrival.faults for arrival in arrivals]),
        attach_ns=Spread.of([arrival.attach_ns for arrival in arrivals]),
        read_ns=Spread.of([arrival.read_ns for arrival in arrivals]),
        all_read_s=(max(arrival.clock_ns for arrival in arrivals) - start) / 1e9 if arrivals else 0.0,
        fork_ns=timing[0],
        exit_ns=timing[1],
    )


def _survive(result: Run, group: Fleet, arguments: tuple[str, ...]) -> Run:
    """Let all clients read again after the creator's death, and let a new process attach."""
    pages = -(-result.size_bytes // again_step_bytes(result.size_bytes, result.step_bytes))
    before = len(group.killed)
    answers = group.read_again()
    with Child(NEWCOMER, *arguments) as newcomer:
        newcomer.ask(do="come")
        try:
            came = newcomer.answer()
        except ChildProcessError as error:
            came = {"error": str(error)}
    told = came.get("error") or ("ok" if came["good"] == pages else f"{came['good']} of {pages} pages are right")
    return replace(
        result,
        survivors=sum(good == pages for good in answers.values()),
        killed_later=len(group.killed) - before,
        newcomer=told,
    )


def _marks(load: Load) -> list[int]:
    """Return the numbers of clients at which to look: evenly, and at the first few, after which some mechanisms end."""
    count = min(load.samples, load.clients)
    return sorted(
        {*range(1, min(5, load.clients + 1)), *(load.clients * step // count for step in range(1, count + 1))}
    )


def _facts() -> dict[str, Any]:
    return {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
