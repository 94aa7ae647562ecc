"""Remedies for programs that can use huge pages by themselves: PostgreSQL, Oracle, Java. Pure.
May depend on: case, groups, geometry.

The statements about the programs are from their documentation. docs/report.md names the sources, and the tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from ..._core.geometry import PMD, PUD, round_up
from .case import ENABLED, SHMEM_ENABLED, Case, Remedy, chosen, shell_word
from .groups import NOBODY, unit, user

SYSCTL_FILE = "/etc/sysctl.d/60-huge-pages.conf"


class _Pool(NamedTuple):
    """Huge pages for a case: their number and size, and the page tables that remain."""

    page: int
    pages: int
    margin: int
    total: int
    """The value that vm.nr_hugepages must have. Pages in use stay in use."""
    enough: bool
    fits: bool
    """The pool would leave a tenth of the machine's memory for everything else."""
    predicted: int

    def commands(self) -> tuple[str, ...]:
        if self.enough:
            return ("grep HugePages_ /proc/meminfo  # there are enough: no setting needs to change",)
        return (
            f"sudo sysctl -w vm.nr_hugepages={self.total}",
            f"grep HugePages_Total /proc/meminfo  # must say {self.total}, else memory is too fragmented: restart",
            f"echo 'vm.nr_hugepages = {self.total}' | sudo tee {SYSCTL_FILE}",
        )

    def condition(self, promised: int) -> str:
        size = f"{self.page >> 20} MiB"
        also = f" {promised} more are for what stands above." if promised and not self.enough else ""
        return (
            f"It takes {self.pages} huge pages of {size}, and {self.margin} as a margin.{also} They are for huge page "
            "users only, whether used or not, and cannot be swapped out."
        )


def _pool(case: Case) -> _Pool:
    """HugePages_Free includes pages that are promised already (HugePages_Rsvd). vm.nr_hugepages counts all pages, even
    used ones. The advice keeps present pages and adds the missing ones."""
    memory = case.snapshot.system.memory
    page = memory.get("Hugepagesize", PMD)
    pages = sum(round_up(usage.size, page) // page for usage in case.usages)
    margin = max(2, -(-pages // 100))
    unused = max(0, memory.get("HugePages_Free", 0) - memory.get("HugePages_Rsvd", 0))
    missing = max(0, pages + margin + case.promised - unused)
    total = memory.get("HugePages_Total", 0) + missing
    return _Pool(
        page,
        pages,
        margin,
        total,
        missing == 0,
        "MemTotal" not in memory or total * page <= 0.9 * memory["MemTotal"],
        case.costs(lambda costs: costs.leaves_1g if page == PUD else costs.leaves_2m),
    )


def postgresql(case: Case) -> Iterator[Remedy]:
    """Yield PostgreSQL's main shared memory, anonymous or (shared_memory_type) SysV."""
    pool = _pool(case)
    if not pool.fits:
        return
    owner = Counter(user(case.snapshot, process.uid) for process in case.users).most_common(1)[0][0]
    service = _service(case)
    stop, start = (
        (f"sudo systemctl {verb} {shell_word(service)}" for verb in ("stop", "start"))
        if service
        else (f'sudo -u {shell_word(owner)} pg_ctl -D "$PGDATA" {verb}' for verb in ("stop", "start"))
    )
    psql = f"sudo -u {shell_word(owner)} psql -c"
    sysv = case.kind == "SysV"
    mmap = (f"{psql} \"ALTER SYSTEM SET shared_memory_type = 'mmap'\"  # huge pages need it",) if sysv else ()
    yield Remedy(
        "huge pages",
        f"{pool.condition(case.promised)} PostgreSQL restarts. With huge_pages = on it does not start if the pages are "
        "missing (the way back: take huge_pages out of postgresql.auto.conf); with try, its default, it takes 4 KiB "
        "pages without a word.",
        (
            f"{psql} \"ALTER SYSTEM SET huge_pages = 'on'\"",
            *mmap,
            stop,
            "# PostgreSQL 15 and later say how many pages they need, while stopped; if it is more, take that:",
            '#   postgres -D "$PGDATA" -C shared_memory_size_in_huge_pages',
            *pool.commands(),
            start,
        ),
        case.now,
        pool.predicted,
        "tried by a test of ours, with PostgreSQL 15: 1 GiB, 50 clients",
        pool.pages + pool.margin,
    )


def oracle(case: Case) -> Iterator[Remedy]:
    """Yield Oracle's SGA in SysV shared memory, all segments of one instance together."""
    pool = _pool(case)
    if not pool.fits:
        return
    sql = "sqlplus / as sysdba"
    yield Remedy(
        "huge pages",
        f"{pool.condition(case.promised)} The instance restarts, and does not start if the pages are missing. Needs a "
        "memlock limit of at least the SGA for its user, and no MEMORY_TARGET (automatic memory management).",
        (
            f"echo \"ALTER SYSTEM SET use_large_pages = 'ONLY' SCOPE = SPFILE;\" | {sql}",
            f"echo 'SHUTDOWN IMMEDIATE' | {sql}",
            *pool.commands(),
            f"echo 'STARTUP' | {sql}",
        ),
        case.now,
        pool.predicted,
        "documented by Oracle; not tried",
        pool.pages + pool.margin,
    )


def java(case: Case) -> Iterator[Remedy]:
    """Yield Java's heap in a memfd (ZGC)."""
    pool = _pool(case)
    if chosen(case.snapshot.system.settings.get(SHMEM_ENABLED, "")):
        yield Remedy(
            "transparent huge pages",
            "For a heap in a memfd, as ZGC has it. Memory made from then on; the program restarts.",
            (
                f"echo madvise | sudo tee {ENABLED}",
                f"echo advise | sudo tee {SHMEM_ENABLED}",
                "# start Java with -XX:+UseTransparentHugePages",
            ),
            case.now,
            case.costs(lambda costs: costs.leaves_2m),
            "documented by OpenJDK for ZGC; not tried",
        )
    if pool.fits:
        yield Remedy(
            "huge pages",
            f"{pool.condition(case.promised)} The program restarts.",
            (*pool.commands(), "# start Java with -XX:+UseLargePages"),
            case.now,
            pool.predicted,
            "documented by OpenJDK; not tried",
            pool.pages + pool.margin,
        )


def _service(case: Case) -> str:
    """Return the systemd service that most of the processes belong to, or ""."""
    name = Counter(unit(process.cgroup) for process in case.users).most_common(1)[0][0]
    return name if name != NOBODY and name.endswith(".service") else ""
