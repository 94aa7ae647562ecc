"""Bad sizes, limits, addresses, flags and modes."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import pickle
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core.geometry import PAGE, PMD, PUD, USER_END, WINDOW
from mshare.testing.conformance import files
from mshare.testing.processes import in_child
from tests.helpers.worlds import free_bytes, needs_root, small_tmpfs, window_mappings


@pytest.mark.parametrize("size", [0, -1, -PAGE, 1 << 62, 1 << 63, 1 << 64, 1 << 100])
def test_impossible_sizes(world: Path, size: int) -> None:
    with pytest.raises(mshare.InvalidSizeError):
        mshare.create("r", size)
    with pytest.raises(mshare.InvalidSizeError):
        mshare.mshare("r", None, size, os.O_CREAT | os.O_RDWR)
    assert files() == []


@pytest.mark.parametrize("size", [1.5, "1", None, True])
def test_sizes_of_other_types(world: Path, size: Any) -> None:
    with pytest.raises(TypeError):
        mshare.create("r", size)
    assert files() == []


@pytest.mark.parametrize("size", [64 << 30, 1 << 42, 1 << 45])
def test_larger_than_memory(backend: str, size: int) -> None:
    with pytest.raises(mshare.NoSpaceError, match="iB"):
        mshare.create("r", size, backend=backend)
    assert files() == []
    assert window_mappings() == []


@needs_root
@pytest.mark.parametrize("name", ["shm", "thp", None])
@pytest.mark.parametrize("limit", ["1M", "16M"])
def test_larger_than_the_file_system(world: Path, name: str | None, limit: str) -> None:
    with small_tmpfs(world / "shm", limit):
        before = free_bytes(world / "shm")
        with pytest.raises(mshare.NoSpaceError, match=r"needs 20 MiB .* only \d+ MiB") as caught:
            mshare.create("r", (20 << 20) - PAGE, backend=name)
        assert caught.value.errno == errno.ENOSPC
        assert files() == []
        assert free_bytes(world / "shm") == before
        assert window_mappings() == []


@needs_root
@pytest.mark.parametrize("name", ["shm", "thp"])
def test_a_file_system_that_fills_up_in_the_middle(world: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the space between the look and the reservation."""
    with small_tmpfs(world / "shm", "64M"):
        monkeypatch.setattr("mshare._core.backends.thp._STEP", 4 * PMD)
        monkeypatch.setattr("mshare._core.backends._files._STEP", 4 * PMD)
        hog = world / "shm" / "hog"

        def fill(*_: int) -> None:
            if not hog.exists():
                hog.touch()
                fd = os.open(hog, os.O_RDWR)
                os.posix_fallocate(fd, 0, free_bytes(world / "shm") - 3 * PMD)
                os.close(fd)

        with pytest.raises(mshare.NoSpaceError, match=r"needs 40 MiB on .* can be had"):
            mshare.create("r", (40 << 20) - PAGE, backend=name, progress=fill)
        assert [path.name for path in files()] == ["hog"]
        assert free_bytes(world / "shm") == 3 * PMD + 4 * PMD  # with the memory that had been reserved by then
        assert window_mappings() == []
        if name == "thp":
            hog.unlink()
            with mshare.create("r", 4 * PMD, backend="thp"):
                pass


@pytest.mark.parametrize("limited", ["RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_resource_limits_leave_nothing_behind(backend: str, limited: str) -> None:
    mshare.create("small", PAGE, backend=backend).close()

    def run() -> list[str]:
        limits = {"RLIMIT_AS": 32 << 20, "RLIMIT_FSIZE": PMD, "RLIMIT_NOFILE": 0}
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        limit = limits[limited] + (used if limited == "RLIMIT_AS" else 0)
        which = getattr(resource, limited)
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (limit, hard))
        outcomes = []
        try:
            mshare.create("r", 64 << 20, backend=backend)
        except OSError as error:
            outcomes.append(type(error).__name__)
        resource.setrlimit(which, (hard, hard))
        with mshare.attach("small"):
            outcomes += [str(len(window_mappings())), *(path.name for path in files())]
        return outcomes

    wrong = "DescriptorLimitError" if limited == "RLIMIT_NOFILE" else "NoSpaceError"
    assert in_child(run).value == [wrong, "1", "small"]


def test_an_address_in_use_is_named(backend: str) -> None:
    mshare.create("r", PMD, backend=backend, addr=WINDOW[0] + PUD).close()
    with mshare.create("in-the-way", PMD, backend=backend, addr=WINDOW[0] + 2 * PUD) as other:
        with pytest.raises(mshare.AddressTakenError, match="in-the-way") as caught:
            mshare.attach("r", addr=other.addr)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(mshare.AddressTakenError, match=r"in-the-way.*rw-s"):
            mshare.create("new", PMD, backend=backend, addr=other.addr)
        with mshare.attach("r", addr=mshare.ANYWHERE) as region:
            assert region.addr != other.addr
    assert [path.name for path in files()] == ["in-the-way", "r"]
    with tempfile.TemporaryFile() as file:
        file.truncate(5 * PMD)
        with mmap.mmap(file.fileno(), 5 * PMD) as foreign:
            start = ctypes.addressof(ctypes.c_char.from_buffer(foreign))
            with pytest.raises(mshare.AddressTakenError, match=r"/.*deleted.*rw-s"):
                mshare.attach("r", addr=start // PMD * PMD + PMD)
            gc.collect()


BAD_ADDRESSES = [-PAGE, 1, PAGE - 1, WINDOW[0] + 1, USER_END, USER_END + PAGE, 1 << 47, 1 << 63, 1 << 64, 1 << 100]


@pytest.mark.parametrize("addr", BAD_ADDRESSES)
def test_impossible_addresses(backend: str, addr: int) -> None:
    with pytest.raises(mshare.InvalidAddressError):
        mshare.create("r", PMD, addr=addr, backend=backend)
    mshare.create("r", PMD, backend=backend).close()
    with pytest.raises(mshare.InvalidAddressError):
        mshare.attach("r", addr=addr)
    with pytest.raises(mshare.InvalidAddressError):
        mshare.mshare("r", addr, 0, os.O_RDWR)
    assert window_mappings() == []


def test_the_last_addresses_of_user_space(backend: str) -> None:
    """The region is at the very end of user space, where a mapping that the backend has rounded up may not fit."""
    last = USER_END // PMD * PMD
    mshare.create("r", 1, backend=backend).close()
    try:
        with mshare.attach("r", addr=last) as region:
            assert region.buf[0] == 0
    except (mshare.AddressTakenError, mshare.InvalidAddressError):
        assert backend == "hugetlb" or window_mappings() == []


@pytest.mark.parametrize(
    "flags", [os.O_WRONLY, os.O_EXCL, os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_APPEND, 3, -1, 1 << 40]
)
def test_flags_without_meaning(world: Path, flags: int) -> None:
    with pytest.raises(mshare.InvalidArgumentError):
        mshare.mshare("r", None, PAGE, flags)


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755, 1 << 40, "rw"])
def test_modes_without_meaning(world: Path, mode: Any) -> None:
    with pytest.raises(mshare.InvalidArgumentError):
        mshare.create("r", PAGE, mode=mode)
    assert files() == []


def test_exclusive_creation_and_lengths(backend: str) -> None:
    exclusive = os.O_CREAT | os.O_EXCL | os.O_RDWR
    with mshare.mshare("r", 0, 3 * PAGE, exclusive) as region:
        assert region.size == 3 * PAGE
        with pytest.raises(FileExistsError):
            mshare.mshare("r", 0, 3 * PAGE, exclusive)
    for length in (1, PAGE, 3 * PAGE - 1, 3 * PAGE + 1, -1):
        for flags in (os.O_RDWR, os.O_CREAT | os.O_RDWR):
            with pytest.raises(mshare.InvalidSizeError) as caught:
                mshare.mshare("r", None, length, flags)
            assert caught.value.errno == errno.EINVAL
    with mshare.mshare("r", None, 0, os.O_RDONLY) as region:
        assert (region.size, region.readonly) == (3 * PAGE, True)
    with pytest.raises(mshare.RegionNotFoundError):
        mshare.mshare("other", None, PAGE, os.O_RDWR)
    with pytest.raises(mshare.InvalidSizeError):
        mshare.mshare("other", None, 0, os.O_CREAT | os.O_RDWR)


def test_errors_keep_their_class_over_a_pickle(world: Path) -> None:
    with pytest.raises(mshare.RegionNotFoundError) as caught:
        mshare.attach("nothing")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.errno) == (type(caught.value), str(caught.value), errno.ENOENT)
