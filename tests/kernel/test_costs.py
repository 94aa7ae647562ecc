"""A change in one page costs the attached processes few faults.  The tests count faults and never measure times.

All of this also held before the module linked single units on demand.  The tests keep linking on demand as good.
"""

import re

import pytest

from . import mfs
from .programs import Program
from .regions import Regions


def figures(text: str) -> list[list[int]]:
    return [[int(number) for number in re.findall(r"=(\d+)", line)] for line in text.splitlines()]


@pytest.mark.parametrize("by", ["itself", "another"])
@pytest.mark.parametrize("what", ["nothing", "private", "dontneed", "punch", "protect"])
def test_a_change_of_one_page_costs_one_fault_in_one_unit(region: Regions, attack: Program, what: str, by: str) -> None:
    """64 units are attached.  After the change two pages of each unit are read, but not the page that was changed.

    The process itself makes the change, or an attached child does.
    """
    region(1, reserve=False)
    ((here, again, elsewhere),) = figures(attack("faults", region.path, what, by))
    assert here <= (what in ("punch", "protect") or (what, by) == ("dontneed", "itself"))
    assert (again, elsewhere) == (0, 0)


def test_a_forked_child_of_a_warm_region_takes_no_fault(region: Regions, attack: Program) -> None:
    region(1, reserve=False)
    assert figures(attack("faults", region.path, "fork", "itself")) == [[0, 0, 0], [0, 0, 0]]


def test_pids_are_as_many_as_were_asked_for(region: Regions) -> None:
    fd = region(3)

    def child(ready: mfs.Ready, wait: mfs.Wait) -> None:
        for _ in range(3):
            mfs.mmap(fd, mfs.UNIT)
        ready()
        wait()

    children = [mfs.Child(child) for _ in range(13)]
    for each in children:
        each.wait_ready()
    everybody = {each.pid for each in children}
    for capacity in (0, 1, 5, 12, 13, 64):
        count, ids = mfs.pids(fd, capacity)
        assert count == 13
        assert len(ids) == min(capacity, 13)
        assert ids <= everybody
    facts = mfs.info(fd)
    assert (facts["attachments"], facts["processes"]) == (39, 13)
    for each in children:
        each.kill()
    assert mfs.pids(fd) == (0, set())
