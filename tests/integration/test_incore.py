"""Which pages of an object are in memory: against what the test itself has written and collapsed."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

import pytest

from mshare._core.geometry import PAGE, PMD, PUD, pick_address
from mshare._core.linux import incore, libc, proc
from mshare._core.linux.incore import Block

BLOCKS = 5


class NoScanner:
    """The kernel's answer where there is no PAGEMAP_SCAN."""

    def blocks(self, *_: int) -> list[tuple[int, int, bool]]:
        raise OSError(errno.ENOTTY, "no such ioctl")


@pytest.fixture
def fd() -> Iterator[int]:
    """A memfd of 5 blocks and a page."""
    number = os.memfd_create("incore")
    os.ftruncate(number, BLOCKS * PMD + PAGE)
    yield number
    os.close(number)


@pytest.mark.parametrize("by_smaps", [False, True], ids=["pagemap", "smaps"])
def test_every_block_is_told_as_it_is(fd: int, by_smaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 1 has three pages, block 2 is full, blocks 3 and 4 are huge pages, and only the tail has one page."""
    if by_smaps:  # as before Linux 6.7
        monkeypatch.setattr(incore, "Scanner", NoScanner)
    for page in (1, 7, 511):
        os.pwrite(fd, b"x", PMD + page * PAGE)
    os.pwrite(fd, bytes(PMD), 2 * PMD)
    os.pwrite(fd, b"x", BLOCKS * PMD)
    addr = pick_address(1, BLOCKS * PMD, (vma.span for vma in proc.maps()))
    for number in (3, 4):
        os.pwrite(fd, b"x", number * PMD)
    with libc.mapped(fd, BLOCKS * PMD, addr=addr) as at:
        for number in (3, 4):
            ctypes.c_ubyte.from_address(at + number * PMD).value  # noqa: B018 - Linux 6.1 needs the page table
            libc.process_madvise(pidfd := os.pidfd_open(os.getpid()), at + number * PMD, PMD, libc.MADV_COLLAPSE)
            os.close(pidfd)
    taken = os.fstat(fd).st_blocks
    found = list(incore.blocks(fd, os.fstat(fd).st_size))
    assert found == [
        Block(0, 0, False),
        Block(1, 3, False),
        Block(2, 512, False),
        Block(3, 512, True),
        Block(4, 512, True),
        Block(5, 1, False),
    ]
    assert os.fstat(fd).st_blocks == taken
    assert not any(vma.file.ino == os.fstat(fd).st_ino for vma in proc.maps())


def test_an_object_larger_than_the_window(fd: int) -> None:
    os.ftruncate(fd, 2 * PUD + PMD)
    for number in (0, 512, 1024):
        os.pwrite(fd, b"x", number * PMD)
    found = list(incore.blocks(fd, 2 * PUD + PMD))
    assert [each.number for each in found] == list(range(1025))
    assert [each.number for each in found if each.pages] == [0, 512, 1024]


def test_what_an_object_has_and_memory_has_not_is_in_swap(fd: int) -> None:
    """The swap is made up: mincore would say that fewer pages are in memory. Holes are in no place."""
    for page in (1, 2, 3, 300):
        os.pwrite(fd, b"x", PMD + page * PAGE)
    for there, swapped in ((4, 0), (1, 3), (0, 4)):
        assert incore.with_swapped(fd, Block(1, there, False)).swapped == swapped
    assert incore.with_swapped(fd, Block(0, 0, False)).swapped == 0
    assert incore.with_swapped(fd, Block(4, 0, False)).swapped == 0


def test_holes_cost_nothing(fd: int) -> None:
    """1 TiB with two blocks: only their GiB are looked at."""
    os.ftruncate(fd, 1 << 40)
    for number in (3, 300_000):
        os.pwrite(fd, b"x", number * PMD)
    found = list(incore.blocks(fd, 1 << 40))
    assert len(found) == 2 * 512
    assert [each.number for each in found if each.pages] == [3, 300_000]
    os.ftruncate(fd, 0)
    assert list(incore.blocks(fd, 1 << 40)) == []


def test_an_object_that_is_smaller_than_was_said_is_empty_there(fd: int) -> None:
    os.pwrite(fd, b"x", 0)
    os.ftruncate(fd, PAGE)
    assert [each.pages for each in incore.blocks(fd, 3 * PMD)] == [1, 0, 0]


def test_a_page_that_goes_in_between_is_no_signal(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process cuts the object after mincore: to touch the page by hand would be SIGBUS."""
    os.pwrite(fd, b"x", PMD)
    mincore = libc.mincore

    def cut(addr: int, length: int) -> bytes:
        try:
            return mincore(addr, length)
        finally:
            os.ftruncate(fd, 0)

    monkeypatch.setattr(libc, "mincore", cut)
    assert [each.pages for each in incore.blocks(fd, 2 * PMD)] == [0, 0]
