"""Starts probes, lets them pay, and takes medians. May depend on: child, mechanisms, probe, linux, roots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .._core.linux import proc
from .._core.roots import hidden_proc
from .child import Child, ask_all
from .mechanisms import Mechanism, touch_every_page
from .probe import IN_A_ROW, ProcessCost

Step = Callable[[str], None]
"""Called with what is being done, before it is done."""

_GRACE_S = 0.2
"""Several RCU grace periods, after which freed tables have left `PageTables`."""
_PROBE = "from mshare.measure.probe import main; main()"
_INTERVAL = Path("/proc/sys/vm/stat_interval")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a further process pays for `size_bytes` of shared memory that exists and is in memory. Medians."""

    mechanism: str
    size_bytes: int
    runs: int
    """Fresh processes, one after the other, that `process` is the median of, field by field."""
    processes: int
    """Processes attached at once when `PageTables` was read."""
    create_ns: int
    """Creating it, once; median of several times. With all its memory for mshare, without any for the others."""
    first_touch_ns: int
    """Attaching it then and writing to every page, so that the kernel has given and zeroed all of it; median."""
    page_tables_bytes: int
    """`PageTables` in /proc/meminfo: its median growth when `processes` processes attached and touched everything, by
    their number. Counts shared tables once, and is the whole machine's: other programs' changes are in it."""
    process: ProcessCost

    @property
    def vmpte_bytes(self) -> int:
        """Growth of `VmPTE` per process. Counts tables that hugetlbfs shares in every process that uses them."""
        return self.process.vmpte_bytes

    @property
    def minor_faults(self) -> int:
        """Minor faults (`ru_minflt`) of the first scan in a process."""
        return self.process.minor_faults


@contextmanager
def probes(mechanism: Mechanism, token: str, count: int) -> Iterator[Sequence[Child]]:
    """Give `count` processes that are warmed up and have attached nothing yet."""
    with ExitStack() as stack:
        started = [stack.enter_context(Child(_PROBE, mechanism.spec, token)) for _ in range(count)]
        for probe in started:
            probe.answer()
        yield started


def page_tables_bytes() -> int:
    """Return `PageTables` of /proc/meminfo: bytes of page tables on this machine, shared ones counted once.

    Up to date: refreshed, or waited for. Raises `BackendUnavailableError` where /proc hides it.
    """
    try:
        if not proc.refresh_counters():
            time.sleep(2.2 * int(_INTERVAL.read_text()))
        return proc.memory_fields()["PageTables"]
    except FileNotFoundError as error:
        raise hidden_proc(error) from error


def page_tables_growth(mechanism: Mechanism, token: str, size_bytes: int, processes: int, rounds: int = 1) -> int:
    """Return the bytes of `PageTables` that each of `processes` processes costs which have touched all of it.

    Median of `rounds` times; we measure growth, not fall, as tables are freed an RCU grace period after `munmap`.
    """
    grown = []
    with probes(mechanism, token, processes) as group:
        for last in (False,) * (rounds - 1) + (True,):
            before = page_tables_bytes()
            ask_all(group, do="attach")
            ask_all(group, do="touch", start=0, end=size_bytes)
            grown.append(page_tables_bytes() - before)
            ask_all(group, do="detach")
            if not last:
                time.sleep(_GRACE_S)
    return int(median(grown)) // processes


def process_costs(
    mechanism: Mechanism, token: str, runs: int, cycles: int, in_a_row: int = IN_A_ROW
) -> list[ProcessCost]:
    """Return what each of `runs` fresh processes paid, one after the other. `in_a_row`: see `attach_close_often_ns`."""
    costs = []
    for _ in range(runs):
        with probes(mechanism, token, 1) as (probe,):
            probe.ask(do="pay", cycles=cycles, in_a_row=in_a_row)
            costs.append(ProcessCost(**probe.answer()))
    return costs


def middle(costs: Sequence[ProcessCost]) -> ProcessCost:
    """Return the median of every field for itself."""
    return ProcessCost(*(int(median(values)) for values in zip(*costs, strict=True)))


class Existing(NamedTuple):
    """Shared memory that exists and is warm: every page has been written to."""

    token: str
    create_ns: int
    first_touch_ns: int


@contextmanager
def existing(mechanism: Mechanism, name: str, size_bytes: int) -> Iterator[Existing]:
    """Give a newly created mechanism whose memory is warm; remove it at the end, come what may."""
    start = time.perf_counter_ns()
    try:
        token = mechanism.create(name, size_bytes)
    except FileExistsError:
        raise
    except BaseException:  # Ctrl-C among them, when it may exist already
        with suppress(OSError):
            mechanism.destroy(name)
        raise
    try:
        created = time.perf_counter_ns()
        with closing(mechanism.attach(token)) as attachment:
            assert attachment.buf is not None
            touch_every_page(attachment.buf)
        yield Existing(token, created - start, time.perf_counter_ns() - created)
    finally:
        mechanism.destroy(token)


def measure(
    mechanism: Mechanism,
    size_bytes: int,
    *,
    name: str,
    processes: int = 8,
    runs: int = 5,
    creates: int = 1,
    rounds: int = 1,
    cycles: int = 51,
    step: Step = lambda _: None,
) -> Cost:
    """Create `size_bytes` of `mechanism` under `name`, measure what a further process pays for it, and remove it.

    - `processes`: how many attach at once for `PageTables`, whose noise is divided by them.
    - `runs`: fresh processes for everything else.
    - `creates`: how often it is created.
    - `rounds`: how often `PageTables` is read with them attached and without.
    - `cycles`: how often each process attaches and detaches untouched.

    Takes memory for one region of that size, and touches all of it about `5 * runs + processes` times.
    """
    made = []
    for _ in range(creates - 1):
        step(f"{mechanism.label}: create")
        with existing(mechanism, name, size_bytes) as memory:
            made.append(memory)
    step(f"{mechanism.label}: create")
    with existing(mechanism, name, size_bytes) as memory:
        made.append(memory)
        step(f"{mechanism.label}: attach, scan, fork")
        process = middle(process_costs(mechanism, memory.token, runs, cycles))
        step(f"{mechanism.label}: {processes} processes at once")
        tables = page_tables_growth(mechanism, memory.token, size_bytes, processes, rounds)
    return Cost(
        mechanism=mechanism.label,
        size_bytes=size_bytes,
        runs=runs,
        processes=processes,
        create_ns=int(median(memory.create_ns for memory in made)),
        first_touch_ns=int(median(memory.first_touch_ns for memory in made)),
        page_tables_bytes=tables,
        process=process,
    )
