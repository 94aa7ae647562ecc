"""size= and nr_inodes= bound page tables and protections as well as pages, and regions give back everything they hold.

charged_bytes is a region's part of size=.  The part has the region's pages, 3 further pages for each unit (1 GiB) with
pages, 2 for each block (2 MiB) with pages, and one for 64 protection ranges.
"""

import errno
import os
import pathlib
import signal
from collections.abc import Callable

import pytest

from tests.helpers.waiting import eventually

from . import mfs
from .programs import Program

BLOCK = 2 << 20
TIB = 1 << 40
NOBODY = 65534


def new(path: pathlib.Path, size: int = 0, mode: int = 0o600) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    os.fchmod(fd, mode)
    os.ftruncate(fd, size)
    return fd


def used(directory: pathlib.Path) -> int:
    """Bytes of size= that are not free."""
    fs = os.statvfs(directory)
    return (fs.f_blocks - fs.f_bfree) * mfs.PAGE


def charged(fd: int) -> int:
    return mfs.info(fd)["charged_bytes"]


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


# ---- page tables ----


@pytest.mark.timeout(300)
def test_attachments_of_empty_files_cost_the_region_nothing(mount: Callable[[str], pathlib.Path]) -> None:
    """A user attaches files of 16 TiB, each for writing and for reading.  The process pays one PUD page per 512 GiB.

    Seen before, on 6.12: table_bytes was 134217728 after the first file, on a mount of 1 MiB.
    """
    directory = mount("size=1m")
    before = mfs.meminfo("PageTables")
    children = []

    def attach(number: int) -> Callable[[mfs.Ready, mfs.Wait], None]:
        def child(ready: mfs.Ready, wait: mfs.Wait) -> None:
            become_nobody()
            fd = new(directory / f"f{number}", 16 * TIB)
            mfs.mmap(fd, 16 * TIB)
            mfs.mmap(fd, 16 * TIB, prot=mfs.PROT_READ)
            assert mfs.info(fd)["table_bytes"] == 0
            ready()
            wait()

        return child

    try:
        for number in range(5):
            children.append(mfs.Child(attach(number)))
            children[-1].wait_ready()
            assert used(directory) == 0
            # 64 PUD pages, and what a process has besides.
            assert mfs.meminfo("PageTables") - before <= (number + 1) * (64 * 4 + 400), "kB"
    finally:
        ends = [child.kill() for child in children]
    assert ends == [-signal.SIGKILL] * 5
    assert used(directory) == 0
    eventually(lambda: mfs.meminfo("PageTables") - before <= 600, "more than 600 kB of page tables are left")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["touch", "write", "fallocate"])
def test_one_page_in_each_block(mount: Callable[[str], pathlib.Path], how: str) -> None:
    """The two page-table pages for one page count, whichever call makes the page.

    Seen before, on 6.12: 1,024 pages and 8,421,376 bytes of tables, on a mount of 4 MiB.
    """
    limit = 4 << 20
    directory = mount(f"size={limit}")
    fd = new(directory / "f", TIB)
    before = mfs.meminfo("PageTables")
    writable = mfs.mmap(fd, 4 * mfs.UNIT)
    readable = mfs.mmap(fd, 4 * mfs.UNIT, prot=mfs.PROT_READ)

    def one(block: int) -> None:
        if how == "touch":
            mfs.poke(writable + block * BLOCK, block % 251)
        elif how == "write":
            assert os.pwrite(fd, bytes([block % 251]), block * BLOCK) == 1
        else:
            mfs.fallocate(fd, 0, block * BLOCK, mfs.PAGE)
            mfs.poke(writable + block * BLOCK, block % 251)

    def as_many_as_there_is_room() -> None:
        for block in range(2048):
            one(block)

    end = mfs.outcome(as_many_as_there_is_room)
    facts = mfs.info(fd)
    assert end == (-signal.SIGBUS if how == "touch" else errno.ENOSPC)
    assert facts["pages"] * mfs.PAGE + facts["table_bytes"] <= limit
    assert mfs.meminfo("PageTables") - before <= limit // 1024 + 400
    # A page and two for tables in each block, three in each unit.
    blocks = facts["pages"]
    units = -(-blocks // 512)
    assert facts["charged_bytes"] == (3 * blocks + 3 * units) * mfs.PAGE == used(directory)
    assert limit - used(directory) < 6 * mfs.PAGE
    assert all(mfs.peek(readable + block * BLOCK) == block % 251 for block in range(blocks))
    # In a block that has its tables another page needs nothing else.
    mfs.fallocate(fd, mfs.PUNCH_HOLE, (blocks - 1) * BLOCK, mfs.PAGE)
    mfs.poke(writable + mfs.PAGE, 1)
    for addr in (writable, readable):
        mfs.munmap(addr, 4 * mfs.UNIT)
    os.close(fd)


def test_a_reservation_has_its_tables(mount: Callable[[str], pathlib.Path]) -> None:
    """Pages that fallocate has reserved can be used without a further charge.

    Seen before, on 6.12: 252 pages could be reserved, with nothing left for their tables.
    """
    directory = mount("size=1m")
    fd = new(directory / "f")
    mfs.refused(errno.ENOSPC, mfs.fallocate, fd, 0, 0, 252 * mfs.PAGE)
    assert (used(directory), charged(fd), os.fstat(fd).st_size) == (0, 0, 0)
    mfs.fallocate(fd, 0, 0, 251 * mfs.PAGE)
    assert used(directory) == charged(fd) == 1 << 20
    mfs.fallocate(fd, 0, 0, 251 * mfs.PAGE)
    writable = mfs.mmap(fd, mfs.UNIT)
    readable = mfs.mmap(fd, mfs.UNIT, prot=mfs.PROT_READ)
    for page in range(251):
        mfs.poke(writable + page * mfs.PAGE, page)
    assert [mfs.peek(readable + page * mfs.PAGE) for page in range(251)] == list(range(251))
    assert used(directory) == charged(fd) == 1 << 20
    for addr in (writable, readable):
        mfs.munmap(addr, mfs.UNIT)
    os.close(fd)


def test_charges_add_up(mount: Callable[[str], pathlib.Path]) -> None:
    """The sum over all regions is the used part of the file system.

    Seen before, on 6.12: no charge was told, and tables were not charged.
    """
    directory = mount("size=16m")
    descriptors = [new(directory / f"f{number}", 7 * mfs.UNIT) for number in range(4)]

    def consistent(*expected: int) -> None:
        assert [charged(fd) // mfs.PAGE for fd in descriptors] == list(expected)
        assert used(directory) == sum(charged(fd) for fd in descriptors)

    consistent(0, 0, 0, 0)
    mfs.fallocate(descriptors[0], 0, 0, 1025 * mfs.PAGE)  # three blocks of one unit
    os.pwrite(descriptors[1], b"x", 3 * mfs.UNIT)
    addr = mfs.mmap(descriptors[2], 7 * mfs.UNIT)
    mfs.poke(addr + mfs.UNIT, 1)
    mfs.poke(addr + 2 * mfs.UNIT, 1)
    mfs.protect(descriptors[3], 0, mfs.PAGE, mfs.READ)
    consistent(1025 + 3 + 3 * 2, 6, 12, 1)
    mfs.munmap(addr, 7 * mfs.UNIT)
    consistent(1025 + 3 + 3 * 2, 6, 12, 1)
    mfs.fallocate(descriptors[0], mfs.PUNCH_HOLE, 512 * mfs.PAGE, 513 * mfs.PAGE)
    mfs.fallocate(descriptors[2], mfs.PUNCH_HOLE, mfs.UNIT, mfs.PAGE)
    consistent(512 + 3 + 2, 6, 6, 1)
    os.ftruncate(descriptors[0], mfs.PAGE)
    os.ftruncate(descriptors[1], mfs.UNIT)
    mfs.protect(descriptors[3], 0, mfs.PAGE, mfs.READWRITE)
    consistent(1 + 3 + 2, 0, 6, 0)
    for number, fd in enumerate(descriptors):
        os.unlink(directory / f"f{number}")
        os.close(fd)
    assert used(directory) == 0


@pytest.mark.parametrize("order", ["punch first", "detach first"])
@pytest.mark.parametrize("remove", ["punch", "truncate"])
def test_tables_of_an_empty_file_are_freed(mount: Callable[[str], pathlib.Path], order: str, remove: str) -> None:
    """The name stays; pages and attachments go.

    Seen before, on 6.12: table_bytes stayed 131072 in all four cases.
    """
    directory = mount("size=16m")
    fd = new(directory / "f", 7 * mfs.UNIT)
    before = mfs.meminfo("PageTables")
    addresses = [mfs.mmap(fd, 7 * mfs.UNIT, prot=prot) for prot in (mfs.PROT_READ | mfs.PROT_WRITE, mfs.PROT_READ)]
    for unit in (0, 2, 5):
        for page in (0, 511, 512, 90_001):
            mfs.poke(addresses[0] + unit * mfs.UNIT + page * mfs.PAGE, 7)
            assert mfs.peek(addresses[1] + unit * mfs.UNIT + page * mfs.PAGE) == 7
    full = mfs.info(fd)
    assert full["table_bytes"] > 0

    def detach() -> None:
        for addr in addresses:
            mfs.munmap(addr, 7 * mfs.UNIT)

    def empty() -> None:
        if remove == "punch":
            mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, 7 * mfs.UNIT)
        else:
            os.ftruncate(fd, 0)

    if order == "punch first":
        empty()
        detach()
    else:
        detach()
        assert mfs.info(fd)["table_bytes"] == full["table_bytes"], "they serve the next who attaches"
        empty()
    facts = mfs.info(fd)
    assert (facts["pages"], facts["table_bytes"], facts["charged_bytes"]) == (0, 0, 0)
    assert used(directory) == 0
    # RCU frees tables that went while a process was attached.
    eventually(lambda: mfs.meminfo("PageTables") - before <= 64, "more than 64 kB of page tables are left")
    # It can be used again.
    os.ftruncate(fd, 7 * mfs.UNIT)
    addr = mfs.mmap(fd, 7 * mfs.UNIT)
    mfs.poke(addr + 5 * mfs.UNIT, 9)
    assert os.pread(fd, 1, 5 * mfs.UNIT) == b"\x09"
    mfs.munmap(addr, 7 * mfs.UNIT)
    os.close(fd)


def test_a_unit_that_is_attached_twice_keeps_its_tables_for_the_other(mount: Callable[[str], pathlib.Path]) -> None:
    """The last detach frees, no earlier one.  Seen before, on 6.12: 4096 bytes were charged, for the page alone."""
    directory = mount("size=16m")
    fd = new(directory / "f", 2 * mfs.UNIT)
    first, second = mfs.mmap(fd, 2 * mfs.UNIT), mfs.mmap(fd, mfs.UNIT, offset=mfs.UNIT)
    for unit in (0, 1):
        mfs.poke(first + unit * mfs.UNIT, 1)
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, 2 * mfs.UNIT)
    mfs.munmap(first, 2 * mfs.UNIT)
    mfs.poke(second, 5)
    assert os.pread(fd, 1, mfs.UNIT) == b"\x05"
    assert used(directory) == charged(fd) == 6 * mfs.PAGE
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, 2 * mfs.UNIT)
    assert mfs.peek(second) == 0
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, 2 * mfs.UNIT)
    mfs.munmap(second, mfs.UNIT)
    assert (mfs.info(fd)["table_bytes"], charged(fd), used(directory)) == (0, 0, 0)
    os.close(fd)


# ---- protections ----


@pytest.mark.timeout(300)
def test_protection_ranges_are_limited(mount: Callable[[str], pathlib.Path]) -> None:
    """Every second page of a sparse file is protected, until size= is used up.  Protected pages stay protected.

    Seen before, on 6.12: no limit after 6,096 ranges.
    """
    directory = mount("size=256k")
    fd = new(directory / "f", 16 * TIB)
    most = 64 * 64

    def as_many_as_there_is_room() -> int:
        for number in range(most + 2000):
            try:
                mfs.protect(fd, 2 * number * mfs.PAGE, mfs.PAGE, mfs.READ if number % 3 else mfs.NONE)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return number
        raise AssertionError(f"no limit after {most + 2000} ranges")

    done = as_many_as_there_is_room()
    assert most // 2 <= done <= most
    assert charged(fd) == used(directory) == -(-done // 64) * mfs.PAGE
    # Every further range is refused and changes nothing.
    generation = mfs.info(fd)["generation"]
    mfs.refused(errno.ENOSPC, mfs.protect, fd, 8 * TIB, mfs.PAGE, mfs.NONE)
    assert mfs.info(fd)["generation"] == generation
    assert os.pread(fd, 1, 8 * TIB) == b"\0"
    for number in (0, 1, 2, done // 2, done - 1):
        mfs.refused(errno.EACCES, os.pwrite, fd, b"x", 2 * number * mfs.PAGE)
        if number % 3:
            assert os.pread(fd, 1, 2 * number * mfs.PAGE) == b"\0"
        else:
            mfs.refused(errno.EACCES, os.pread, fd, 1, 2 * number * mfs.PAGE)
        assert os.pread(fd, 1, (2 * number + 1) * mfs.PAGE) == b"\0"
    # Existing ranges can be changed and joined.
    mfs.protect(fd, 0, mfs.PAGE, mfs.READ)
    assert os.pread(fd, 1, 0) == b"\0"
    mfs.protect(fd, 0, 16 * TIB, mfs.NONE)
    assert charged(fd) == used(directory) == mfs.PAGE
    mfs.protect(fd, 0, 16 * TIB, mfs.READWRITE)
    assert charged(fd) == used(directory) == 0
    assert os.pwrite(fd, b"x", 0) == 1
    os.close(fd)


# ---- strangers ----


@pytest.mark.timeout(300)
def test_a_refused_reservation_takes_nothing_from_others(mount: Callable[[str], pathlib.Path], attack: Program) -> None:
    """Two users ask for 16 TiB all the time; another one touches pages, and there is room.

    Seen before, on 6.12: touches=13743 sigbus=1, and then the program stops.
    """
    directory = mount("size=64m")
    for name in ("victim", "other"):
        os.close(new(directory / name, mode=0o666))
    text = attack("reserve", directory / "victim", directory / "other", 60_000)
    print(text)
    assert text.split()[1:] == ["sigbus=0", "writes=0", "reservations=0"]
    assert used(directory) == 0


def test_handles_are_made_where_no_inode_is_left(mount: Callable[[str], pathlib.Path], attack: Program) -> None:
    """Two users try to create files all the time.

    Seen before, on 6.12: refused=1, the first map-only handle.
    """
    assert attack("inodes", mount("size=1m,nr_inodes=16"), 3000) == "refused=0\n"


def test_handles_of_a_reader_leave_the_inodes_to_others(mount: Callable[[str], pathlib.Path]) -> None:
    """Seen before, on 6.12: the reader got ENOSPC and ended early."""
    directory = mount("size=1m,nr_inodes=16")
    fd = new(directory / "f", 1, mode=0o644)
    free = os.statvfs(directory).f_ffree

    def reader(ready: mfs.Ready, wait: mfs.Wait) -> None:
        become_nobody()
        own = os.open(directory / "f", os.O_RDONLY)
        for _ in range(100):
            mfs.map_only(own, False)
        ready()
        wait()

    child = mfs.Child(reader)
    child.wait_ready()
    assert os.statvfs(directory).f_ffree == free
    for number in range(free):
        os.close(new(directory / f"own{number}"))
    mfs.refused(errno.ENOSPC, new, directory / "toomany")
    child.proceed()
    assert child.result() == 0
    assert os.statvfs(directory).f_ffree == 0
    os.close(fd)
