"""Real core dumps, read as ELF, show whether the region's bytes are in them."""

import os
import pathlib
import resource
import signal
import struct
from collections.abc import Iterator

import pytest

from . import mfs
from .regions import Regions

AT = 0x300000000000
MAPPED_SHARED = 0x8  # bit of coredump_filter, see core(5)


@pytest.fixture
def cores(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Core files go here, and are named core."""
    with open("/proc/sys/kernel/core_pattern", "r+") as f:
        before = f.read()
        f.seek(0)
        f.write(f"{tmp_path}/core")
    yield tmp_path / "core"
    with open("/proc/sys/kernel/core_pattern", "w") as f:
        f.write(before)


def value(page: int, offset: int) -> int:
    return (page * 41 + offset * 7 + 3) % 256


def segment(path: pathlib.Path) -> tuple[int, int, int]:
    """(offset in the file, bytes in the file, bytes in memory) of the segment that begins at AT."""
    with open(path, "rb") as f:
        header = f.read(64)
        assert header[:4] == b"\x7fELF"
        start, size, count = struct.unpack_from("=Q", header, 32)[0], *struct.unpack_from("=HH", header, 54)
        f.seek(start)
        table = f.read(size * count)
    for n in range(count):
        kind, _flags, offset, vaddr, _paddr, in_file, in_memory, _align = struct.unpack_from(
            "=IIQQQQQQ", table, n * size
        )
        if kind == 1 and vaddr == AT:
            return offset, in_file, in_memory
    raise AssertionError("the attachment has no segment")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    ("named", "extra", "dumped"),
    [(True, 0, False), (True, MAPPED_SHARED, True), (False, 0, True)],
    ids=["by default left out", "with shared file mappings", "without a name"],
)
def test_core(region: Regions, cores: pathlib.Path, readonly: bool, named: bool, extra: int, dumped: bool) -> None:
    fd = region(3)
    for page in range(3):
        for offset in range(0, mfs.PAGE, 61):  # never as a whole in this process's memory
            os.pwrite(fd, bytes([value(page, offset)]), page * mfs.PAGE + offset)
    if not named:
        os.unlink(region.path)

    def die() -> None:
        mfs.mmap(fd, mfs.UNIT, prot=mfs.PROT_READ | (0 if readonly else mfs.PROT_WRITE), addr=AT)
        with open("/proc/self/coredump_filter", "r+") as f:
            bits = int(f.read(), 16)
            f.seek(0)
            f.write(hex(bits | extra))
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.kill(os.getpid(), signal.SIGABRT)

    assert mfs.outcome(die) == -signal.SIGABRT
    offset, in_file, in_memory = segment(cores)
    assert (in_file, in_memory) == (mfs.UNIT if dumped else 0, mfs.UNIT)
    if dumped:
        with open(cores, "rb") as f:
            f.seek(offset)
            data = f.read(5 * mfs.PAGE)
        for page in range(3):
            for at in range(0, mfs.PAGE, 61):
                assert data[page * mfs.PAGE + at] == value(page, at)
        assert data[3 * mfs.PAGE :] == bytes(2 * mfs.PAGE), "beyond the end there is nothing"
    assert mfs.info(fd)["pages"] == 3
    assert mfs.info(fd)["attachments"] == 0
