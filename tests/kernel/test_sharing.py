"""The page tables are shared, by the kernel's own counters and by the module's."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from . import mfs
from .programs import Program, figures
from .regions import Regions

PAGES = 16411  # a prime, about 64 MiB: 33 tables of 512 entries


@pytest.fixture
def warm(mounted: str) -> Iterator[str]:
    """A region with all its pages: 1 GiB if the guest has the memory (2 GiB in all suffice), else 64 MiB."""
    before = os.statvfs(mounted)
    pages = mfs.UNIT // mfs.PAGE
    if mfs.meminfo("MemAvailable") << 10 < mfs.UNIT + (300 << 20):
        pages = PAGES
    size = max(before.f_blocks, pages + pages // 128 + 1000) * 4
    subprocess.run(["mount", "-o", f"remount,size={size}k", mounted], check=True)
    path = f"{mounted}/warm"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    mfs.fallocate(fd, 0, 0, pages * mfs.PAGE)
    print(f"warm region: {pages} pages")
    yield path
    os.close(fd)
    os.unlink(path)
    subprocess.run(["mount", "-o", f"remount,size={before.f_blocks * 4}k", mounted], check=True)


@pytest.mark.timeout(900)
def test_a_further_process_costs_neither_tables_nor_faults(warm: str, client: Program) -> None:
    """100 processes attach, or are forks of an attached process, and read every page."""
    processes = 100
    client("fleet", warm, 1, "rw")  # makes and fills the trees, which belong to the region
    client("fleet", warm, 1, "ro")
    nothing = figures(client("fleet", warm, processes, "none"))
    for mode in ("rw", "ro", "fork"):
        attached = figures(client("fleet", warm, processes, mode, timeout=600))
        growth = (attached["pagetables_kb"] - nothing["pagetables_kb"]) / processes
        print(f"{mode}: {growth} kB of page tables per process more than without; faults {attached['worst_faults']}")
        assert growth <= 8, (mode, nothing, attached)
        assert attached["worst_faults"] == 0, (mode, attached)


def test_first_touch_is_one_fault_per_page_for_everybody(region: Regions, client: Program) -> None:
    fd = region(613, reserve=False)
    addr = mfs.mmap(fd, mfs.UNIT)
    client("fleet", region.path, 3, "rw")
    facts = mfs.info(fd)
    assert (facts["pages"], facts["filled"]) == (613, 613)
    assert figures(client("fleet", region.path, 3, "rw"))["worst_faults"] <= 2
    mfs.munmap(addr, mfs.UNIT)


def test_tables_are_counted_and_given_back(region: Regions) -> None:
    fd = region(PAGES)
    assert mfs.info(fd)["table_bytes"] == 0
    before = mfs.meminfo("PageTables")
    addr = mfs.mmap(fd, mfs.UNIT)
    tables = 1 + -(-PAGES // 512)
    assert mfs.info(fd)["table_bytes"] == tables * mfs.PAGE
    grown = mfs.meminfo("PageTables") - before
    assert abs(grown - tables * 4) <= 64, grown
    again = mfs.mmap(fd, mfs.UNIT)
    assert mfs.info(fd)["table_bytes"] == tables * mfs.PAGE
    readonly = mfs.mmap(fd, mfs.UNIT, prot=mfs.PROT_READ)
    assert mfs.info(fd)["table_bytes"] == 2 * tables * mfs.PAGE
    for each in (addr, again, readonly):
        mfs.munmap(each, mfs.UNIT)


def test_one_writes_all_see(region: Regions) -> None:
    fd = region(31)
    addr = mfs.mmap(fd, mfs.UNIT)

    def child(ready: mfs.Ready, wait: mfs.Wait) -> None:
        own = mfs.mmap(os.open(region.path, os.O_RDWR), mfs.UNIT)
        ready()
        wait()
        assert [mfs.peek(own + page * mfs.PAGE) for page in range(31)] == list(range(1, 32))
        mfs.poke(own + 7 * mfs.PAGE, 200)

    children = [mfs.Child(child) for _ in range(5)]
    for each in children:
        each.wait_ready()
    assert mfs.info(fd)["processes"] == 6
    assert mfs.pids(fd) == (6, {os.getpid(), *(each.pid for each in children)})
    for page in range(31):
        mfs.poke(addr + page * mfs.PAGE, page + 1)
    children[0].proceed()
    assert children[0].result() == 0
    assert mfs.peek(addr + 7 * mfs.PAGE) == 200
    mfs.poke(addr + 7 * mfs.PAGE, 8)
    for each in children[1:]:
        each.kill()
    assert mfs.info(fd)["processes"] == 1
    assert mfs.pids(fd, capacity=0) == (1, set())
    mfs.munmap(addr, mfs.UNIT)
    assert mfs.pids(fd) == (0, set())


def test_a_forked_child_is_a_process_of_its_own(attached: tuple[int, int]) -> None:
    fd, _addr = attached
    child = mfs.Child(lambda ready, wait: (ready(), wait()))
    child.wait_ready()
    assert mfs.pids(fd) == (2, {os.getpid(), child.pid})
    child.kill()
    assert mfs.pids(fd) == (1, {os.getpid()})


def test_two_mappings_of_one_process_are_one_process(region: Regions) -> None:
    fd = region(3)
    addresses = [mfs.mmap(fd, mfs.UNIT) for _ in range(3)]
    for left in (3, 2, 1):
        facts = mfs.info(fd)
        assert (facts["attachments"], facts["processes"]) == (left, 1)
        assert mfs.pids(fd) == (1, {os.getpid()})
        mfs.munmap(addresses.pop(), mfs.UNIT)
    assert mfs.info(fd)["processes"] == 0
