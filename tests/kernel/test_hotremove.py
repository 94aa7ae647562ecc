"""Memory that is taken away at run time (/sys/devices/system/memory).

Pages of a region do not move.  A block of memory that holds one cannot go; memory that is to go is onlined as movable,
and there regions take no pages.
"""

import errno
import os
import pathlib
import signal

import mfs
import probe as oracle
import pytest

MEMORY = pathlib.Path("/sys/devices/system/memory")
BLOCKS = sorted(MEMORY.glob("memory[0-9]*"), key=lambda path: int(path.name[len("memory") :]))
PAGES = 64

pytestmark = [pytest.mark.only_if(bool(BLOCKS)), pytest.mark.timeout(300)]


def block_of(addr):
    """The block of memory that holds the page at this address."""
    frames = int((MEMORY / "block_size_bytes").read_text(), 16) // mfs.PAGE
    return MEMORY / f"memory{oracle.frame(addr) // frames}"


def state(block):
    return (block / "state").read_text().strip()


def offline(block, limit_s):
    """Ask for the block; whether it went.  The kernel tries again until a signal arrives, and then leaves it online."""

    def ask(ready, wait):
        signal.alarm(limit_s)
        (block / "state").write_text("offline")

    ended = mfs.Child(ask).result()
    # EINVAL: a block with a hole.
    assert ended in {0, errno.EBUSY, errno.EINVAL, -signal.SIGALRM}, ended
    return state(block) == "offline"


@pytest.fixture
def filled(region):
    fd = region(PAGES)
    addr = mfs.mmap(fd, mfs.UNIT)
    for page in range(PAGES):
        mfs.poke(addr + page * mfs.PAGE, page + 1)
    yield fd, addr
    mfs.munmap(addr, mfs.UNIT)


def unchanged(addr, frames):
    assert [oracle.frame(addr + page * mfs.PAGE) for page in range(PAGES)] == frames, "pages have moved"
    assert [mfs.peek(addr + page * mfs.PAGE) for page in range(PAGES)] == list(range(1, PAGES + 1))


def test_a_block_with_pages_of_a_region_stays(filled):
    fd, addr = filled
    frames = [oracle.frame(addr + page * mfs.PAGE) for page in range(PAGES)]
    for block in {block_of(addr + page * mfs.PAGE) for page in range(PAGES)}:
        assert not offline(block, 5)
        assert state(block) == "online"
    unchanged(addr, frames)
    mfs.poke(addr, 1)
    assert os.pread(fd, 1, mfs.PAGE) == b"\x02"
    assert mfs.info(fd)["pages"] == PAGES


@pytest.fixture
def removable():
    """A block of memory that is onlined as movable, as memory is that is to be taken away again."""
    taken = next((block for block in reversed(BLOCKS) if state(block) == "online" and offline(block, 5)), None)
    assert taken, "no block of memory is without pages of the kernel"
    (taken / "state").write_text("online_movable")
    yield taken
    if state(taken) == "online":
        assert offline(taken, 60)
    (taken / "state").write_text("online_kernel")


def test_removable_memory_goes_while_a_region_is_full(removable, filled):
    fd, addr = filled
    frames = [oracle.frame(addr + page * mfs.PAGE) for page in range(PAGES)]
    blocks = {block_of(addr + page * mfs.PAGE) for page in range(PAGES)}
    assert removable not in blocks, "the region took pages that are to be movable"
    assert offline(removable, 60), "the region holds a block that was to be removable"
    unchanged(addr, frames)
    assert mfs.info(fd)["pages"] == PAGES
