"""Memory that is removed at run time (/sys/devices/system/memory).

Pages of a region do not move.  A block of memory that holds such a page cannot be removed.  Removable memory is onlined
as movable, and regions take no pages from movable memory.
"""

import errno
import pathlib
import signal
from collections.abc import Iterator

import pytest

from . import mfs, oracle

MEMORY = pathlib.Path("/sys/devices/system/memory")
BLOCKS = sorted(MEMORY.glob("memory[0-9]*"), key=lambda path: int(path.name[len("memory") :]))

pytestmark = [pytest.mark.only_if(bool(BLOCKS)), pytest.mark.timeout(300)]


def blocks_of(addr: int) -> set[pathlib.Path]:
    """The blocks of memory that hold the pages of the fixture `placed`."""
    frames = int((MEMORY / "block_size_bytes").read_text(), 16) // mfs.PAGE
    return {MEMORY / f"memory{oracle.frame(addr + page * mfs.PAGE) // frames}" for page in range(oracle.PLACED)}


def state(block: pathlib.Path) -> str:
    return (block / "state").read_text().strip()


def offline(block: pathlib.Path, limit_s: int) -> bool:
    """Ask for the block, and return whether it went offline.  The kernel gives up only when a signal arrives."""

    def ask(ready: mfs.Ready, wait: mfs.Wait) -> None:
        signal.alarm(limit_s)
        (block / "state").write_text("offline")

    ended = mfs.Child(ask).result()
    # EINVAL: a block with a hole.
    assert ended in {0, errno.EBUSY, errno.EINVAL, -signal.SIGALRM}, ended
    return state(block) == "offline"


def test_a_block_with_pages_of_a_region_stays(placed: tuple[int, int]) -> None:
    """Pages of the kernel also hold such a block.  test_numa.py checks that pages of a region refuse to move."""
    _fd, addr = placed
    for block in blocks_of(addr):
        assert not offline(block, 5)
        assert state(block) == "online"


@pytest.fixture
def removable() -> Iterator[pathlib.Path]:
    """A block of memory that is onlined as movable, as removable memory is."""
    taken = next((block for block in reversed(BLOCKS) if state(block) == "online" and offline(block, 5)), None)
    assert taken, "no block of memory is without pages of the kernel"
    (taken / "state").write_text("online_movable")
    yield taken
    if state(taken) == "online":
        assert offline(taken, 60)
    (taken / "state").write_text("online_kernel")


def test_removable_memory_goes_while_a_region_is_full(removable: pathlib.Path, placed: tuple[int, int]) -> None:
    """With GFP_HIGHUSER_MOVABLE instead of GFP_HIGHUSER, a region took pages of that block."""
    _fd, addr = placed
    assert removable not in blocks_of(addr), "the region took pages that are to be movable"
    assert offline(removable, 60), "the region holds a block that was to be removable"
