"""The ioctls: their answers, and the errors of a hostile caller."""

import ctypes
import errno
import fcntl
import itertools
import os
import random
import struct
from collections.abc import Callable, Iterator

import pytest

from . import mfs
from .regions import Regions

FUZZ_ROUNDS = int(os.environ.get("MSHARE_FUZZ_ROUNDS", "3000"))


def test_info_of_a_fresh_region(region: Regions) -> None:
    fd = region(5)
    facts = mfs.info(fd)
    assert facts["abi"] == 1
    assert facts["unit_bytes"] == mfs.UNIT
    assert (facts["size"], facts["pages"]) == (5 * mfs.PAGE, 5)
    assert (facts["attachments"], facts["processes"], facts["generation"], facts["flags"]) == (0, 0, 0, 0)


def test_bases_do_not_overlap(mounted: str) -> None:
    descriptors, spans = [], []
    for number, units in enumerate((1, 3, 2, 5)):
        descriptors.append(os.open(f"{mounted}/r{number}", os.O_RDWR | os.O_CREAT))
        os.ftruncate(descriptors[-1], units * mfs.UNIT)
        base = mfs.info(descriptors[-1])["base"]
        assert base % mfs.UNIT == 0
        assert 0x200000000000 <= base < 0x400000000000
        spans.append((base, base + units * mfs.UNIT))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for fd in descriptors:
        os.close(fd)
    os.unlink(f"{mounted}/r1")
    fd = os.open(f"{mounted}/again", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 3 * mfs.UNIT)
    assert mfs.info(fd)["base"] < max(spans)[1], "the address of a region that is gone is used again"
    os.close(fd)


class Bases:
    """Makes sparse regions: bases(units, user=0) -> (descriptor, base) of a new region of that user."""

    def __init__(self, mounted: str) -> None:
        self.mounted = mounted
        self.made: dict[int, str] = {}
        self.numbers = itertools.count()

    def __call__(self, units: int, user: int = 0) -> tuple[int, int]:
        path = f"{self.mounted}/base{next(self.numbers)}"
        os.setresuid(-1, user, 0)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self.made[fd] = path
            os.ftruncate(fd, units * mfs.UNIT)
        finally:
            os.setresuid(-1, 0, 0)
        return fd, mfs.info(fd)["base"]

    def remove(self, fd: int) -> None:
        path = self.made.pop(fd)
        os.close(fd)
        os.unlink(path)


@pytest.fixture
def make_base(mounted: str) -> Iterator[Bases]:
    made = Bases(mounted)
    yield made
    for fd in made.made:
        os.close(fd)


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (base, units) have an address in common."""
    return one[0] < other[0] + other[1] * mfs.UNIT and other[0] < one[0] + one[1] * mfs.UNIT


def test_an_address_set_by_the_owner_is_reserved(make_base: Bases) -> None:
    free, base = make_base(3)
    make_base.remove(free)
    first, _ = make_base(3)
    mfs.set_base(first, base + mfs.UNIT)
    taken = (base + mfs.UNIT, 3)
    second, own = make_base(3)
    assert not overlap((own, 3), taken)
    # The owner may set the same base: both regions keep it, and it stays reserved until the last one is gone.
    mfs.set_base(second, taken[0])
    assert mfs.info(first)["base"] == mfs.info(second)["base"] == taken[0]
    for gone in (first, second):
        third, own = make_base(3)
        assert not overlap((own, 3), taken)
        make_base.remove(third)
        make_base.remove(gone)
    assert overlap((make_base(5)[1], 5), taken), "free again"


def test_a_region_that_grows_keeps_more_addresses(make_base: Bases) -> None:
    fd, base = make_base(1)
    os.ftruncate(fd, 4 * mfs.UNIT)
    assert mfs.info(fd)["base"] == base
    assert not overlap((make_base(2)[1], 2), (base, 4))


def test_a_base_set_before_the_size_is_reserved(make_base: Bases) -> None:
    fd, base = make_base(2)
    make_base.remove(fd)
    fd, _ = make_base(0)
    mfs.set_base(fd, base)
    os.ftruncate(fd, 2 * mfs.UNIT)
    assert not overlap((make_base(2)[1], 2), (base, 2))


def test_no_user_takes_all_addresses_or_one_of_others(make_base: Bases) -> None:
    mine, base = make_base(2)
    for _ in range(3):  # more than all addresses
        fd, own = make_base(16384, user=65534)
        assert own
        mfs.set_base(fd, base)
    for _ in range(40):  # five times the share of one user
        assert make_base(512, user=65534)[1]
    assert mfs.info(mine)["base"] == base
    spans = [(make_base(units, user)[1], units) for units, user in ((100, 65533), (4096, 0), (300, 65533))]
    spans.append((base, 2))
    assert all(start for start, _ in spans)
    assert not any(overlap(*pair) for pair in itertools.combinations(spans, 2))
    mfs.set_base(mine, base + 7 * mfs.UNIT)


def test_an_empty_file_has_no_base_yet(mounted: str) -> None:
    fd = os.open(f"{mounted}/empty", os.O_RDWR | os.O_CREAT)
    assert mfs.info(fd)["base"] == 0
    os.ftruncate(fd, 1)
    assert mfs.info(fd)["base"] != 0
    os.close(fd)


def test_set_base(region: Regions) -> None:
    fd = region(16)
    mfs.set_base(fd, 0x300000000000)
    assert mfs.info(fd)["base"] == 0x300000000000
    for bad in (0, 0x300000001000, 1 << 47, (1 << 64) - mfs.UNIT, (1 << 47) - mfs.PAGE):
        mfs.refused(errno.EINVAL, mfs.set_base, fd, bad)
    addr = mfs.mmap(fd, mfs.UNIT)
    mfs.refused(errno.EBUSY, mfs.set_base, fd, 0x310000000000)
    mfs.munmap(addr, mfs.UNIT)
    readonly = os.open(region.path, os.O_RDONLY)
    mfs.refused(errno.EBADF, mfs.set_base, readonly, 0x310000000000)
    os.close(readonly)


@pytest.mark.parametrize(
    "arguments",
    [
        (1, mfs.PAGE, 1, 0),
        (0, 1, 1, 0),
        (0, 0, 1, 0),
        (0, 17 * mfs.PAGE, 1, 0),
        (16 * mfs.PAGE, mfs.PAGE, 1, 0),
        (0, mfs.PAGE, 2, 0),
        (0, mfs.PAGE, 4, 0),
        (0, mfs.PAGE, 1, 1),
        ((1 << 64) - mfs.PAGE, mfs.PAGE, 1, 0),
        ((1 << 64) - mfs.PAGE, 2 * mfs.PAGE, 1, 0),
        (1 << 63, mfs.PAGE, 1, 0),
    ],
)
def test_protect_refuses(region: Regions, arguments: tuple[int, int, int, int]) -> None:
    fd = region(16)
    mfs.refused(errno.EINVAL, mfs.protect, fd, *arguments)
    assert mfs.info(fd)["flags"] == 0


def test_protect_needs_a_writable_descriptor(region: Regions) -> None:
    region(16)
    readonly = os.open(region.path, os.O_RDONLY)
    mfs.refused(errno.EBADF, mfs.protect, readonly, 0, mfs.PAGE, mfs.NONE)
    os.close(readonly)


def test_protection_costs_by_the_range_not_by_the_page(region: Regions) -> None:
    fd = region(0, reserve=False)
    os.ftruncate(fd, 1 << 44)
    before = mfs.meminfo("Slab")
    mfs.protect(fd, 0, 1 << 44, mfs.NONE)
    mfs.protect(fd, 1 << 40, mfs.PAGE, mfs.READ)
    mfs.protect(fd, (1 << 40) + 2 * mfs.PAGE, mfs.PAGE, mfs.READWRITE)
    rights: dict[int, str] = {}
    for page in range(-1, 4):
        at = (1 << 40) + page * mfs.PAGE
        for name, call in (("r", lambda at=at: os.pread(fd, 1, at)), ("w", lambda at=at: os.pwrite(fd, b"x", at))):
            try:
                call()
                rights[page] = rights.get(page, "") + name
            except PermissionError:
                pass
    assert rights == {0: "r", 2: "rw"}
    assert mfs.meminfo("Slab") - before < 4096, "kB"
    mfs.protect(fd, 0, 1 << 44, mfs.READWRITE)
    assert os.pwrite(fd, b"x", 1 << 43) == 1


def test_generation_moves(region: Regions) -> None:
    fd = region(16)
    seen = [mfs.info(fd)["generation"]]
    changes: tuple[Callable[[], None], ...] = (
        lambda: mfs.protect(fd, 0, mfs.PAGE, mfs.READ),
        lambda: mfs.protect(fd, 0, mfs.PAGE, mfs.READWRITE),
        lambda: mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, mfs.PAGE),
        lambda: os.ftruncate(fd, mfs.PAGE),
    )
    for change in changes:
        change()
        seen.append(mfs.info(fd)["generation"])
    assert seen == sorted(set(seen))


def test_unknown_commands(region: Regions) -> None:
    fd = region(1)
    for number in range(6, 20):
        mfs.refused(errno.ENOTTY, fcntl.ioctl, fd, 0xBC00 | number)
    mfs.refused(errno.ENOTTY, fcntl.ioctl, fd, mfs.IOC_INFO + (1 << 16), bytearray(200))
    mfs.refused(errno.EINVAL, fcntl.ioctl, fd, mfs.IOC_PIDS, bytearray(struct.pack("=QII", 0, 65537, 0)))
    for command in (mfs.IOC_INFO, mfs.IOC_PIDS, mfs.IOC_PROTECT, mfs.IOC_SET_BASE, mfs.IOC_HANDLE):
        for pointer in (0, 1, 0xFFFF888000000000, (1 << 64) - 8):
            assert mfs.libc.syscall(16, fd, command, ctypes.c_ulong(pointer)) == -1


def test_fuzz(region: Regions) -> None:
    """Random commands, structures and mappings: an error or a success, never a complaint of the kernel."""
    fd = region(64)
    handles = [
        fd,
        os.open(region.path, os.O_RDONLY),
        os.open(mfs.ROOT, os.O_RDONLY),
        os.open(f"{mfs.ROOT}/mshare_info", os.O_RDONLY),
    ]
    rng = random.Random(20261123)
    special = [
        0,
        1,
        mfs.PAGE,
        mfs.UNIT,
        mfs.UNIT - 1,
        1 << 47,
        (1 << 47) - mfs.UNIT,
        (1 << 63) - 1,
        1 << 63,
        (1 << 64) - 1,
        (1 << 64) - mfs.PAGE,
        (1 << 64) - mfs.UNIT,
        0x300000000000,
    ]

    def number() -> int:
        return rng.choice(special) if rng.random() < 0.7 else rng.getrandbits(64)

    def fuzz() -> None:
        mapped: list[tuple[int, int]] = []
        done = 0
        for _ in range(FUZZ_ROUNDS):
            handle = rng.choice(handles)
            try:
                match rng.randrange(9):
                    case 0:
                        command = rng.choice(
                            [
                                mfs.IOC_INFO,
                                mfs.IOC_PIDS,
                                mfs.IOC_PROTECT,
                                mfs.IOC_SET_BASE,
                                mfs.IOC_HANDLE,
                                rng.getrandbits(32),
                            ]
                        )
                        argument = struct.pack("=QQQ", number(), number(), number()) + bytes(200)
                        fcntl.ioctl(handle, command & 0xFFFFFFFF, bytearray(argument))
                    case 1:
                        mfs.protect(handle, number() & ~0xFFF, number() & 0xFFFFFF, rng.randrange(5), rng.randrange(2))
                    case 2 if len(mapped) < 20:
                        length = rng.choice([mfs.UNIT, 2 * mfs.UNIT, number()])
                        addr = mfs.mmap(
                            handle,
                            length,
                            rng.randrange(8),
                            rng.choice([1, 1, 2, 3, 0x8001, 0x2001]),
                            None,
                            rng.choice([0, mfs.UNIT, number() & ~0xFFF & (1 << 63) - 1]),
                        )
                        mapped.append((addr, length))
                    case 3 if mapped:
                        addr, length = mapped[rng.randrange(len(mapped))]
                        mfs.madvise(addr, length, rng.randrange(26))
                    case 4 if mapped:
                        mfs.munmap(*mapped.pop())
                    case 5:
                        mfs.fallocate(
                            handle,
                            rng.choice([0, 3, 1, 2, rng.getrandbits(8)]),
                            rng.randrange(1 << 18),
                            rng.randrange(1 << 18),
                        )
                    case 6 if mapped:
                        addr, length = mapped.pop(rng.randrange(len(mapped)))
                        place = rng.choice([0x500000000000, 0x500040000000, 0x500000001000, 1 << 63])
                        old, new = (rng.choice([length, length, number()]) for _ in range(2))
                        moved = mfs.libc.mremap(addr, old, new, rng.randrange(8), place)
                        mapped.append((addr if moved == (1 << 64) - 1 else moved or 0, length))
                    case 7 if mapped:
                        addr, length = rng.choice(mapped)
                        mfs.check(mfs.libc.mprotect(addr + (number() & 0x3FFFF000), mfs.PAGE, rng.randrange(8)))
                    case 8 if mapped:  # parts only: other mappings may lie beyond
                        offset = mfs.PAGE + (number() & 0x1FFFF000)
                        mfs.munmap(rng.choice(mapped)[0] + offset, mfs.PAGE + (number() & 0x1FFFF000))
                done += 1
            except OSError:
                pass
        assert done > FUZZ_ROUNDS // 50

    assert mfs.outcome(fuzz) == 0
    for handle in handles[1:]:
        os.close(handle)
