"""Pages of 2 MiB: one leaf for a block, in both trees, and everything else as exact as with pages of 4096 bytes."""

import contextlib
import ctypes
import errno
import os
import pathlib
import random
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from . import mfs, oracle
from .programs import Program, figures
from .regions import Regions

PAGES = mfs.BLOCK // mfs.PAGE  # of a block
COLD, PAGEOUT = 20, 21
HWPOISON = 100
NOISE = 40  # faults that Python takes for itself


def huge(fd: int) -> int:
    return mfs.info(fd)["huge_pages"]


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def faults_of_reading(address: int, pages: list[int]) -> int:
    before = faults()
    for page in pages:
        mfs.peek(address + page * mfs.PAGE)
    return faults() - before


def fill(fd: int, pages: int) -> None:
    for page in range(pages):
        os.pwrite(fd, bytes([page % 251 + 1]), page * mfs.PAGE)


@pytest.fixture
def blocks(region: Regions) -> Iterator[tuple[int, int, int]]:
    """Give a region of three blocks, each page with its own byte, attached for writing and for reading."""
    fd = region(3 * PAGES, huge=True)
    assert (huge(fd), mfs.info(fd)["huge_fallbacks"]) == (3, 0)
    fill(fd, 3 * PAGES)
    addresses = mfs.mmap(fd, mfs.UNIT), mfs.mmap(fd, mfs.UNIT, prot=mfs.PROT_READ)
    yield fd, *addresses
    for each in addresses:
        mfs.munmap(each, mfs.UNIT)


def byte(page: int) -> int:
    return page % 251 + 1


def same(addresses: tuple[int, int], fd: int, gone: set[int] = frozenset(), pages: int = 3 * PAGES) -> None:  # type: ignore[assignment]
    """Compare every page in both trees and in the file; pages that are gone are zeroes."""
    for page in range(pages):
        wanted = 0 if page in gone else byte(page)
        found = [mfs.peek(each + page * mfs.PAGE) for each in addresses] + [os.pread(fd, 1, page * mfs.PAGE)[0]]
        assert found == [wanted] * 3, page


# ---- what it is for ----


def test_a_unit_needs_one_table_per_tree(blocks: tuple[int, int, int]) -> None:
    fd, *addresses = blocks
    assert mfs.info(fd)["table_bytes"] == 2 * mfs.PAGE
    frames = [oracle.frame(addresses[1] + page * mfs.PAGE) for page in range(PAGES)]
    assert frames == list(range(frames[0], frames[0] + PAGES))
    assert frames[0] % PAGES == 0
    same((addresses[0], addresses[1]), fd)


def test_one_fault_per_block_for_the_first_and_none_for_others(region: Regions, client: Program) -> None:
    """Failed when the region did not ask for pages of 2 MiB: 4096 faults."""
    count = 8
    fd = region(count * PAGES, reserve=False, huge=True)
    addr = mfs.mmap(fd, mfs.UNIT)
    before = faults()
    for page in range(0, count * PAGES, 64):
        mfs.poke(addr + page * mfs.PAGE, 1)
    assert faults() - before <= count + NOISE
    facts = mfs.info(fd)
    assert (facts["huge_pages"], facts["pages"], facts["filled"]) == (count, count * PAGES, count)
    assert facts["table_bytes"] == mfs.PAGE
    for mode in ("rw", "fork"):
        assert figures(client("fleet", region.path, 5, mode))["worst_faults"] <= 2
    mfs.munmap(addr, mfs.UNIT)


def test_sparse_units_cost_a_table_each(region: Regions) -> None:
    units = 30
    fd = region(units * mfs.UNIT // mfs.PAGE, reserve=False, huge=True)
    addr = mfs.mmap(fd, units * mfs.UNIT)
    for unit in range(units):
        mfs.poke(addr + unit * mfs.UNIT + 5 * mfs.PAGE, unit + 1)
    assert mfs.info(fd)["table_bytes"] == units * mfs.PAGE
    assert huge(fd) == units
    mfs.munmap(addr, units * mfs.UNIT)


# ---- the file's ends, and parts of blocks ----


def test_only_blocks_inside_the_file(region: Regions) -> None:
    fd = region(2 * PAGES + 16, huge=True)
    addr = mfs.mmap(fd, mfs.UNIT)
    facts = mfs.info(fd)
    assert (facts["huge_pages"], facts["pages"], facts["huge_fallbacks"]) == (2, 2 * PAGES + 16, 0)
    mfs.poke(addr + (2 * PAGES + 15) * mfs.PAGE, 1)
    assert mfs.outcome(lambda: mfs.peek(addr + (2 * PAGES + 16) * mfs.PAGE)) == -7
    mfs.munmap(addr, mfs.UNIT)


@pytest.mark.parametrize("grown", [3 * PAGES, 3 * PAGES + 100])
def test_a_reservation_that_grows_the_file(region: Regions, grown: int) -> None:
    """The block with the old end gets single pages; the leaves of all are there when the call returns."""
    fd = region(PAGES + 7, huge=True)
    addr = mfs.mmap(fd, mfs.UNIT)
    mfs.fallocate(fd, 0, 0, grown * mfs.PAGE)
    assert huge(fd) == 2
    assert faults_of_reading(addr, list(range(grown))) <= NOISE
    assert mfs.info(fd)["pages"] == grown
    mfs.munmap(addr, mfs.UNIT)


@pytest.mark.parametrize(
    ("first", "last"),
    [(5, 5), (0, 0), (511, 511), (511, 512), (0, 511), (100, 1400), (512, 1023), (0, 1535), (3, 1023)],
)
def test_a_hole(blocks: tuple[int, int, int], first: int, last: int) -> None:
    fd, *addresses = blocks
    mfs.fallocate(fd, mfs.PUNCH_HOLE, first * mfs.PAGE, (last - first + 1) * mfs.PAGE)
    gone = set(range(first, last + 1))
    assert mfs.info(fd)["pages"] == 3 * PAGES - len(gone)
    cut = {page // PAGES for page in gone}
    assert huge(fd) == 3 - len(cut)
    for each in addresses:
        left = [page for page in range(3 * PAGES) if page not in gone]
        assert faults_of_reading(each, left) <= NOISE, "what stays has its leaves"
    same((addresses[0], addresses[1]), fd, gone)


def test_a_hole_of_bytes(blocks: tuple[int, int, int]) -> None:
    fd, *addresses = blocks
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 7 * mfs.PAGE + 100, 50)
    same((addresses[0], addresses[1]), fd)
    assert os.pread(fd, 1, 7 * mfs.PAGE + 120) == b"\0"
    assert mfs.info(fd)["pages"] == 3 * PAGES


@pytest.mark.parametrize("pages", [0, 1, 511, 512, 513, 1000])
def test_shrink_and_grow(blocks: tuple[int, int, int], pages: int) -> None:
    fd, *addresses = blocks
    os.ftruncate(fd, pages * mfs.PAGE)
    assert mfs.info(fd)["pages"] == pages
    assert mfs.outcome(lambda: mfs.peek(addresses[1] + pages * mfs.PAGE)) == -7
    os.ftruncate(fd, 3 * mfs.BLOCK)
    same((addresses[0], addresses[1]), fd, set(range(pages, 3 * PAGES)))


def test_a_block_that_was_emptied_is_one_page_again(blocks: tuple[int, int, int]) -> None:
    fd, *addresses = blocks
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 5 * mfs.PAGE, mfs.PAGE)
    assert huge(fd) == 2
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, mfs.BLOCK)
    mfs.poke(addresses[0] + 17 * mfs.PAGE, 1)
    assert huge(fd) == 3
    assert mfs.peek(addresses[1] + 17 * mfs.PAGE) == 1


# ---- protection ----


def test_a_whole_block_keeps_its_leaf(blocks: tuple[int, int, int]) -> None:
    """Without huge_fault the kernel split the leaf at the store, for everybody, and counted pages it never had."""
    fd, writable, readable = blocks
    mfs.protect(fd, mfs.BLOCK, mfs.BLOCK, mfs.READ)
    assert mfs.info(fd)["table_bytes"] == 2 * mfs.PAGE
    assert faults_of_reading(readable, list(range(3 * PAGES))) <= NOISE
    assert mfs.outcome(lambda: mfs.poke(writable + mfs.BLOCK + 5, 1)) == -11
    same((writable, readable), fd)
    assert mfs.info(fd)["table_bytes"] == 2 * mfs.PAGE
    mfs.protect(fd, mfs.BLOCK, mfs.BLOCK, mfs.READWRITE)
    mfs.poke(writable + mfs.BLOCK + 5, 1)
    assert mfs.info(fd)["table_bytes"] == 2 * mfs.PAGE


@pytest.mark.parametrize("prot", [mfs.NONE, mfs.READ])
def test_one_page_of_a_block(blocks: tuple[int, int, int], prot: int) -> None:
    fd, writable, readable = blocks
    at = (PAGES + 9) * mfs.PAGE
    mfs.protect(fd, at, mfs.PAGE, prot)
    assert huge(fd) == 3, "the memory stays one page"
    refused = mfs.outcome(lambda: mfs.peek(readable + at))
    assert refused == (-11 if prot == mfs.NONE else 0)
    assert mfs.outcome(lambda: mfs.poke(writable + at, 1)) == -11
    for page in (PAGES + 8, PAGES + 10, 2 * PAGES - 1, PAGES):
        mfs.poke(writable + page * mfs.PAGE, byte(page))
    mfs.protect(fd, at, mfs.PAGE, mfs.READWRITE)
    same((writable, readable), fd)
    mfs.poke(writable + at, byte(PAGES + 9))


def test_one_page_of_a_read_only_block_is_given_back(blocks: tuple[int, int, int]) -> None:
    """Only a part changes, to more rights: the leaf of the block must go all the same."""
    fd, writable, readable = blocks
    mfs.protect(fd, 0, 3 * mfs.BLOCK, mfs.READ)
    mfs.protect(fd, 3 * mfs.PAGE, mfs.PAGE, mfs.READWRITE)
    mfs.poke(writable + 3 * mfs.PAGE, byte(3))
    for page in (2, 4, 511):
        assert mfs.outcome(lambda page=page: mfs.poke(writable + page * mfs.PAGE, 1)) == -11  # type: ignore[misc]
    same((writable, readable), fd)


def test_a_seal(blocks: tuple[int, int, int]) -> None:
    fd, writable, readable = blocks
    mfs.protect(fd, 5 * mfs.PAGE, mfs.PAGE, mfs.NONE)
    mfs.protect(fd, 5 * mfs.PAGE, mfs.PAGE, mfs.READWRITE)
    mfs.seal(fd)
    assert faults_of_reading(writable, list(range(3 * PAGES))) <= NOISE
    same((writable, readable), fd)
    for page in (0, 5, 3 * PAGES - 1):
        assert mfs.outcome(lambda page=page: mfs.poke(writable + page * mfs.PAGE, 1)) == -11  # type: ignore[misc]


# ---- who holds a page ----


@pytest.fixture
def pinned(blocks: tuple[int, int, int]) -> Iterator[tuple[int, int, int, int]]:
    """The regions' addresses, and a pipe that holds page 7 of the region."""
    fd, writable, readable = blocks
    source, sink = os.pipe()
    vector = mfs.Iovec(writable + 7 * mfs.PAGE, mfs.PAGE)
    assert mfs.libc.vmsplice(sink, ctypes.byref(vector), 1, 0) == mfs.PAGE
    yield fd, writable, readable, source
    os.close(source)
    os.close(sink)


def test_a_page_that_is_held_is_cleared_and_its_memory_stays(pinned: tuple[int, int, int, int]) -> None:
    """Such a block cannot be split. The same holds on tmpfs."""
    fd, writable, readable, source = pinned
    mfs.refused(errno.EBUSY, mfs.seal, fd)
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 5 * mfs.PAGE, 4 * mfs.PAGE)
    assert mfs.info(fd)["pages"] == 3 * PAGES
    same((writable, readable), fd, {5, 6, 7, 8})
    os.pwrite(fd, b"new", 7 * mfs.PAGE)
    assert os.read(source, 3) == b"new", "the pipe has the region's own page"
    os.read(source, mfs.PAGE)
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 5 * mfs.PAGE, 4 * mfs.PAGE)
    assert mfs.info(fd)["pages"] == 3 * PAGES - 4
    same((writable, readable), fd, {5, 6, 7, 8})


def test_the_end_of_the_file_in_a_block_that_is_held(pinned: tuple[int, int, int, int]) -> None:
    fd, writable, readable, source = pinned
    os.ftruncate(fd, 9 * mfs.PAGE)
    assert mfs.outcome(lambda: mfs.peek(readable + 9 * mfs.PAGE)) == -7
    same((writable, readable), fd, pages=9)
    os.ftruncate(fd, 3 * mfs.BLOCK)
    same((writable, readable), fd, set(range(9, 3 * PAGES)))
    assert os.read(source, 1) == bytes([byte(7)])


@pytest.mark.parametrize("then", ["shrink", "punch", "grow"])
def test_a_block_that_the_end_has_cut_is_let_go(pinned: tuple[int, int, int, int], then: str) -> None:
    """A later split would take the pages beyond the end out, which the kernel counts as pages that were written back.

    Found by reading: a NULL pointer in the kernel, or a negative nr_dirty.
    """
    fd, writable, readable, source = pinned
    os.ftruncate(fd, 9 * mfs.PAGE)
    os.read(source, mfs.PAGE)
    if then == "shrink":
        os.ftruncate(fd, 3 * mfs.PAGE)
        same((writable, readable), fd, pages=3)
    elif then == "punch":
        mfs.fallocate(fd, mfs.PUNCH_HOLE, 2 * mfs.PAGE, 3 * mfs.PAGE)
        same((writable, readable), fd, {2, 3, 4}, pages=9)
    else:
        os.ftruncate(fd, 2 * mfs.BLOCK)
        mfs.fallocate(fd, mfs.PUNCH_HOLE, 2 * mfs.PAGE, 3 * mfs.PAGE)
        same((writable, readable), fd, {2, 3, 4, *range(9, 2 * PAGES)}, pages=2 * PAGES)
    pathlib.Path("/proc/sys/vm/stat_refresh").read_text()
    assert int(mfs.found(r"^nr_dirty (-?\d+)", pathlib.Path("/proc/vmstat").read_text())[1]) >= 0
    os.ftruncate(fd, 0)
    assert mfs.info(fd)["pages"] == 0


def test_a_hole_beside_a_page_that_others_read_takes_nothing_else(blocks: tuple[int, int, int]) -> None:
    """From 6.15 on the kernel splits in two steps. If the second failed it threw the pages behind the hole away."""
    fd, writable, readable = blocks

    def read(ready: mfs.Ready, wait: mfs.Wait) -> None:
        ready()
        while True:
            os.pread(fd, 8, 300 * mfs.PAGE)

    readers = [mfs.Child(read) for _ in range(2)]
    for reader in readers:
        reader.wait_ready()
    for _ in range(30):
        mfs.fallocate(fd, mfs.PUNCH_HOLE, 100 * mfs.PAGE, 200 * mfs.PAGE)
        gone = set(range(100, 300))
        for page in (0, 99, 300, 301, 383, 384, 511):
            assert mfs.peek(readable + page * mfs.PAGE) == byte(page)
        mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, mfs.BLOCK)
        fill(fd, PAGES)
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 100 * mfs.PAGE, 200 * mfs.PAGE)
    for reader in readers:
        reader.kill()
    same((writable, readable), fd, gone)


@pytest.mark.parametrize("advice", [COLD, PAGEOUT])
def test_a_reader_cannot_split_a_block(blocks: tuple[int, int, int], advice: int) -> None:
    """Without the region's own reference 6.12 split the folio under the leaf, and free pages were in use."""
    fd, writable, readable = blocks
    mfs.madvise(readable + 3 * mfs.PAGE, mfs.PAGE, advice)
    mfs.madvise(readable, 3 * mfs.BLOCK, advice)
    frames = [oracle.frame(writable + page * mfs.PAGE) for page in range(PAGES)]
    assert frames == list(range(frames[0], frames[0] + PAGES))
    source, sink = os.pipe()
    vector = mfs.Iovec(readable + 3 * mfs.PAGE, 2 * mfs.PAGE)
    assert mfs.libc.vmsplice(sink, ctypes.byref(vector), 1, 0) == 2 * mfs.PAGE
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, mfs.BLOCK)
    mfs.poke(writable + mfs.BLOCK, byte(PAGES))
    assert os.read(source, 1) == bytes([byte(3)])
    os.close(source)
    os.close(sink)
    same((writable, readable), fd, set(range(PAGES)))


def test_others_of_the_kernel_leave_a_block_alone(blocks: tuple[int, int, int]) -> None:
    fd, writable, readable = blocks
    for path, text in (
        ("/proc/sys/vm/drop_caches", "3"),
        ("/proc/sys/vm/compact_memory", "1"),
        ("/sys/kernel/debug/split_huge_pages", "1"),
        ("/sys/kernel/debug/split_huge_pages", f"{os.getpid()},{writable:#x},{writable + 3 * mfs.BLOCK:#x},0"),
        ("/proc/self/clear_refs", "1"),
        ("/proc/self/clear_refs", "4"),
    ):
        try:
            pathlib.Path(path).write_text(text)
        except (FileNotFoundError, OSError) as error:
            assert "split_huge_pages" in path or "compact" in path, error
    for advice in (0, 1, 2, 3, 4, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 22, 23, 24, 25, 101):
        for start, length in ((0, mfs.BLOCK), (5 * mfs.PAGE, mfs.PAGE), (mfs.BLOCK - mfs.PAGE, 3 * mfs.PAGE)):
            for address in (writable, readable):
                mfs.libc.madvise(ctypes.c_void_p(address + start), ctypes.c_size_t(length), advice)
    assert huge(fd) == 3
    same((writable, readable), fd)
    assert mfs.info(fd)["table_bytes"] == 2 * mfs.PAGE


def test_direct_io_across_blocks(blocks: tuple[int, int, int], tmp_path: pathlib.Path) -> None:
    """The kernel pins pages of three blocks at once, for a device's writes and reads."""
    fd, writable, readable = blocks
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2 * mfs.BLOCK))
    try:
        disk = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError:
        disk = os.open(path, os.O_RDWR)  # tmpfs of old kernels: then the copy goes by read(2)
    start = mfs.BLOCK // 2
    buffer = (ctypes.c_char * (2 * mfs.BLOCK)).from_address(writable + start)
    assert os.preadv(disk, [buffer], 0) == 2 * mfs.BLOCK
    assert os.pread(fd, 2 * mfs.BLOCK, start) == path.read_bytes()
    os.pwrite(fd, bytes(3 * mfs.BLOCK), 0)
    assert os.pwritev(disk, [buffer], 0) == 2 * mfs.BLOCK
    assert path.read_bytes() == bytes(2 * mfs.BLOCK)
    os.close(disk)
    assert huge(fd) == 3
    assert mfs.info(fd)["table_bytes"] == 2 * mfs.PAGE
    assert mfs.peek(readable) == 0


@pytest.mark.only_if(oracle.KNOWS_BAD_PAGES)
@pytest.mark.parametrize("punched", [range(5, 9), range(PAGES), range(3 * PAGES)])
def test_a_bad_page(blocks: tuple[int, int, int], punched: range) -> None:
    """The kernel cannot split the block, so it tells the module of nothing, and leaves the leaf where it is.

    System calls refuse the page; all other pages go on.  The frame of a punched page is not used again.
    """
    fd, writable, readable = blocks
    bad = oracle.frame(writable + 7 * mfs.PAGE)

    def report() -> None:
        signal.signal(signal.SIGBUS, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            mfs.madvise(writable + 7 * mfs.PAGE, mfs.PAGE, HWPOISON)

    assert mfs.outcome(report) in (0, -signal.SIGBUS)
    assert oracle.frame_flags(bad) & oracle.HWPOISON
    mfs.refused(errno.EIO, os.pread, fd, 1, 7 * mfs.PAGE)
    mfs.refused(errno.EIO, os.pwrite, fd, b"x", 7 * mfs.PAGE)
    for page in [*range(7), *range(8, 3 * PAGES)]:
        assert mfs.peek(readable + page * mfs.PAGE) == byte(page)
        mfs.poke(writable + page * mfs.PAGE, byte(page))
    mfs.fallocate(fd, mfs.PUNCH_HOLE, punched[0] * mfs.PAGE, len(punched) * mfs.PAGE)
    same((writable, readable), fd, set(punched))
    assert oracle.frame_flags(bad) & oracle.HWPOISON
    assert not oracle.frame_flags(bad) & oracle.BUDDY
    for page in range(3 * PAGES):
        mfs.poke(writable + page * mfs.PAGE, 1)
        assert oracle.frame(writable + page * mfs.PAGE) != bad


# ---- when there is no such page ----


def test_a_small_mount_gets_single_pages(mount: Callable[[str], pathlib.Path]) -> None:
    path = mount("size=1200k,huge=always") / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 4 * mfs.BLOCK)
    addr = mfs.mmap(fd, mfs.UNIT)
    for page in (0, 100, PAGES):
        mfs.poke(addr + page * mfs.PAGE, 1)
    facts = mfs.info(fd)
    assert (facts["huge_pages"], facts["huge_fallbacks"], facts["pages"]) == (0, 2, 3)
    assert facts["charged_bytes"] == (3 + 3 + 2 * 2) * mfs.PAGE
    mfs.refused(errno.ENOSPC, mfs.fallocate, fd, 0, 0, mfs.BLOCK)
    mfs.munmap(addr, mfs.UNIT)
    os.close(fd)
    path.unlink()


def test_a_control_group_gets_single_pages_and_nobody_is_killed(
    region: Regions, control_group: Callable[..., str]
) -> None:
    group = pathlib.Path(control_group("memory"))
    fd = region(4 * PAGES, reserve=False, huge=True)
    (group / "memory.max").write_text("1500K")

    def child() -> None:
        addr = mfs.mmap(fd, mfs.UNIT)
        (group / "cgroup.procs").write_text(str(os.getpid()))
        for page in (0, 3 * PAGES):
            mfs.poke(addr + page * mfs.PAGE, 1)

    assert mfs.outcome(child) == 0
    facts = mfs.info(fd)
    assert (facts["huge_pages"], facts["huge_fallbacks"], facts["pages"]) == (0, 2, 2)


# ---- the interface ----


def test_the_option_and_the_call(mount: Callable[[str], pathlib.Path]) -> None:
    place = mount("size=64m")

    def shown() -> str:
        lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
        return next(line for line in lines if str(place) in line)

    def made(name: str, ask: int | None = None) -> tuple[int, int]:
        fd = os.open(place / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if ask is not None:
                mfs.huge(fd, ask)
            mfs.fallocate(fd, 0, 0, mfs.BLOCK)
            facts = mfs.info(fd)
        finally:
            os.close(fd)
        return facts["flags"] >> 3, facts["huge_pages"]

    assert "huge=" not in shown(), "never"
    mfs.refused(errno.EOPNOTSUPP, made, "a", 1)
    subprocess.run(["mount", "-o", "remount,huge=advise", place], check=True)
    assert (made("b"), made("c", 1)) == ((0, 0), (1, 1))
    subprocess.run(["mount", "-o", "remount,huge=always", place], check=True)
    assert "huge=always" in shown()
    assert (made("d"), made("e", 0)) == ((1, 1), (0, 0))
    subprocess.run(["mount", "-o", "remount,huge=never", place], check=True)
    assert "huge=" not in shown()
    assert made("f") == (0, 0)
    subprocess.run(["mount", "-o", "remount,huge=always", place], check=True)
    subprocess.run(["mount", "-o", "remount,size=32m", place], check=True)
    assert "huge=always" in shown()
    assert subprocess.run(["mount", "-o", "remount,huge=perhaps", place], capture_output=True, check=False).returncode
    for each in place.iterdir():
        if each.name != "mshare_info":
            each.unlink()


def test_who_may_ask(region: Regions) -> None:
    fd = region()
    os.fchmod(fd, 0o666)
    mfs.refused(errno.EINVAL, mfs.huge, fd, 2)
    reader = os.open(region.path, os.O_RDONLY)
    mfs.refused(errno.EBADF, mfs.huge, reader, 1)
    os.close(reader)

    def stranger() -> None:
        os.setresuid(65534, 65534, 65534)
        mfs.huge(os.open(region.path, os.O_RDWR), 1)

    assert mfs.outcome(stranger) == errno.EPERM
    handle = mfs.map_only(fd, True)
    mfs.refused(errno.ENOTTY, mfs.huge, handle, 1)
    os.close(handle)
    mfs.seal(fd)
    mfs.refused(errno.EPERM, mfs.huge, fd, 1)


# ---- all of it together ----


class Model:
    """Random holes, sizes, rights and stores on four blocks, and lists of what each page must hold and allow."""

    def __init__(self, fd: int, seed: int) -> None:
        self.fd, self.chance = fd, random.Random(seed)
        self.size = 4 * PAGES
        self.values, self.rights = [0] * self.size, [mfs.READWRITE] * self.size
        self.writable, self.readable = mfs.mmap(fd, mfs.UNIT), mfs.mmap(fd, mfs.UNIT, prot=mfs.PROT_READ)

    def some(self) -> tuple[int, int]:
        """A range of pages: its first, and the first after it."""
        first = self.chance.randrange(self.size)
        first = self.chance.choice([first, first // PAGES * PAGES])
        length = self.chance.choice([1, 1, 2, PAGES, PAGES - 1, self.chance.randrange(1, 4 * PAGES)])
        return first, min(first + length, self.size)

    def cut(self, pages: range, call: Callable[..., object], *arguments: int) -> bool:
        """Do what takes pages away, which protected pages refuse."""
        if any(self.rights[page] != mfs.READWRITE for page in pages):
            mfs.refused(errno.EACCES, call, *arguments)
            return False
        call(*arguments)
        for page in pages:
            self.values[page] = 0
        return True

    def resize(self) -> None:
        size = self.chance.randrange(1, 4 * PAGES + 1)
        if self.cut(range(min(size, self.size), self.size), os.ftruncate, self.fd, size * mfs.PAGE):
            self.size = size

    def punch(self) -> None:
        first, end = self.some()
        where = first * mfs.PAGE, (end - first) * mfs.PAGE
        self.cut(range(first, end), mfs.fallocate, self.fd, mfs.PUNCH_HOLE, *where)

    def reserve(self) -> None:
        first, end = self.some()
        mfs.fallocate(self.fd, 0, first * mfs.PAGE, (end - first) * mfs.PAGE)

    def protect(self) -> None:
        first, end = self.some()
        prot = self.chance.choice([mfs.NONE, mfs.READ, mfs.READWRITE, mfs.READWRITE])
        mfs.protect(self.fd, first * mfs.PAGE, (end - first) * mfs.PAGE, prot)
        self.rights[first:end] = [prot] * (end - first)

    def store(self) -> None:
        first, end = self.some()
        for page in self.chance.sample(range(first, end), min(20, end - first)):
            if self.rights[page] != mfs.READWRITE:
                continue
            self.values[page] = self.chance.randrange(256)
            if self.chance.randrange(2):
                mfs.poke(self.writable + page * mfs.PAGE, self.values[page])
            else:
                os.pwrite(self.fd, bytes([self.values[page]]), page * mfs.PAGE)

    def verify(self) -> None:
        for page in range(self.size):
            if self.rights[page] != mfs.NONE:
                found = [mfs.peek(each + page * mfs.PAGE) for each in (self.writable, self.readable)]
                assert found == [self.values[page]] * 2, page
        refusing = [page for page in range(self.size) if self.rights[page] != mfs.READWRITE]
        for page in self.chance.sample(refusing, min(3, len(refusing))):
            assert mfs.outcome(lambda page=page: mfs.poke(self.writable + page * mfs.PAGE, 1)) == -11  # type: ignore[misc]
        assert mfs.outcome(lambda: mfs.peek(self.readable + self.size * mfs.PAGE)) == -7


@pytest.mark.parametrize("seed", range(6))
def test_a_model(region: Regions, seed: int) -> None:
    model = Model(region(4 * PAGES, reserve=False, huge=True), seed)
    for _ in range(60):
        model.chance.choice([model.resize, model.punch, model.reserve, model.protect, model.store, model.store])()
    model.verify()
    for each in (model.writable, model.readable):
        mfs.munmap(each, mfs.UNIT)
