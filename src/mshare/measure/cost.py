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
"""A function that gets the name of each step before the step."""

_GRACE_S = 0.2
"""Several RCU grace periods, after which freed tables have left `PageTables`."""
_PROBE = "from mshare.measure.probe import main; main()"
_INTERVAL = Path("/proc/sys/vm/stat_interval")


@dataclass(frozen=True, slots=True)
class Cost:
    """The costs of a further process for `size_bytes` of shared memory that exists and is in memory. Medians."""

    mechanism: str
    size_bytes: int
    runs: int
    """The number of fresh processes, one after the other, whose medians `process` has, field by field."""
    processes: int
    """Processes attached at once when `PageTables` was read."""
    create_ns: int
    """The time of one creation, median of several. mshare reserves all memory then; the others reserve none."""
    first_touch_ns: int
    """The time to attach then and write to every page, so that the kernel has given and zeroed all memory; median."""
    page_tables_bytes: int
    """`PageTables` in /proc/meminfo: its median growth when `processes` processes attached and touched everything,
    divided by their number. The figure counts shared tables once. It is the whole machine's, so it has the changes of
    other programs."""
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
    """Give `count` warmed-up processes that have attached nothing yet."""
    with ExitStack() as stack:
        started = [stack.enter_context(Child(_PROBE, mechanism.spec, token)) for _ in range(count)]
        for probe in started:
            probe.answer()
        yield started


def page_tables_bytes() -> int:
    """Return `PageTables` of /proc/meminfo: bytes of page tables on this machine, shared ones counted once.

    The figure is up to date: refreshed by root, else after a wait. Raises `BackendUnavailableError` if /proc hides it.
    """
    try:
        if not proc.refresh_counters():
            time.sleep(2.2 * int(_INTERVAL.read_text()))
        return proc.memory_fields()["PageTables"]
    except FileNotFoundError as error:
        raise hidden_proc(error) from error


def page_tables_growth(mechanism: Mechanism, token: str, size_bytes: int, processes: int, rounds: int = 1) -> int:
    """Return the bytes of `PageTables` that each of `processes` processes costs after it has touched all memory.

    The result is the median of `rounds` rounds. We measure growth, not fall, because tables are freed an RCU grace
    period after `munmap`.
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
    """Return the costs of `runs` fresh processes, one after the other. `in_a_row`: see `attach_close_often_ns`."""
    costs = []
    for _ in range(runs):
        with probes(mechanism, token, 1) as (probe,):
            probe.ask(do="pay", cycles=cycles, in_a_row=in_a_row)
            costs.append(ProcessCost(**probe.answer()))
    return costs


def middle(costs: Sequence[ProcessCost]) -> ProcessCost:
    """Return the median of every field separately."""
    return ProcessCost(*(int(median(values)) for values in zip(*costs, strict=True)))


class Existing(NamedTuple):
    """Shared memory that exists and is warm: every page has been written to."""

    token: str
    create_ns: int
    first_touch_ns: int


@contextmanager
def existing(mechanism: Mechanism, name: str, size_bytes: int) -> Iterator[Existing]:
    """Give newly created memory of a mechanism, warm. Remove the memory at the end, even after an error."""
    start = time.perf_counter_ns()
    try:
        token = mechanism.create(name, size_bytes)
    except FileExistsError:
        raise
    except BaseException:  # such as Ctrl-C, after the memory may exist already
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
    """Create `size_bytes` of `mechanism` under `name`, measure the costs of a further process, and remove the memory.

    - `processes`: the number that attach at once for `PageTables`, whose noise is divided by this number.
    - `runs`: the number of fresh processes for all other figures.
    - `creates`: the number of creations.
    - `rounds`: the number of times that `PageTables` is read with the processes attached and without.
    - `cycles`: the number of times that each process attaches and detaches untouched memory.

    Takes memory for one region of that size, and touches all of the memory about `5 * runs + processes` times.
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
