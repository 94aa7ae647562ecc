"""The library in a guest: conformance suite and state machine on backend `msharefs`, and on those that need no module.

These versions are short, because Python computes about 19 times slower there. The host runs the long versions
(tests/integration, tests/property) on its backends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import pytest
from hypothesis import settings

import mshare
from mshare._core import backends
from mshare._core.geometry import PAGE, PMD, PUD, WINDOW
from mshare._core.linux import ioctl
from mshare._core.linux.descriptors import Descriptor
from mshare.shared_memory import ShareableList, SharedMemory, SharedMemoryManager
from mshare.testing.conformance import BackendConformance, table_bytes
from mshare.testing.processes import in_child
from mshare.testing.statemachine import check

pytestmark = pytest.mark.timeout(600)
MIB = 1 << 20


@pytest.fixture
def msharefs_world(world: Path) -> Iterator[Path]:
    """`world`, with a private msharefs in it. The unmount at the end proves that nothing is attached any more."""
    mount_point = world / "msharefs"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "msharefs", "-o", "mode=1777", "none", str(mount_point)], check=True)
    yield world
    subprocess.run(["umount", str(mount_point)], check=True)


@pytest.fixture
def huge_world(msharefs_world: Path) -> None:
    """The same, where regions may have pages of 2 MiB."""
    subprocess.run(["mount", "-o", "remount,huge=advise", str(msharefs_world / "msharefs")], check=True)


WORLDS = {"msharefs": "msharefs_world", "msharefs, 2 MiB": "huge_world", "thp": "world", "shm": "world"}


@pytest.fixture(params=list(WORLDS))
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn, by name, with a world in which it works."""
    request.getfixturevalue(WORLDS[request.param])
    return str(request.param).partition(",")[0]


class TestBackends(BackendConformance):
    """The promises of every backend, kept on this kernel."""


def test_every_backend_does_what_the_model_does(backend: str) -> None:
    check(backend, settings(max_examples=7 if backend == "msharefs" else 2, stateful_step_count=19, database=None))


def test_it_is_the_first_choice(msharefs_world: Path) -> None:
    with mshare.create("r", 1) as region:
        assert region.backend == "msharefs"
        assert region.info().reason.startswith("best of those usable: msharefs")
        assert Path(region.info().path) == msharefs_world / "msharefs" / "r"


def test_a_reserved_region_has_pages_of_2_mib(huge_world: None) -> None:
    with mshare.create("r", 5 * PMD) as region:
        info = region.info()
        assert (info.leaf_size, info.huge_pages, info.huge_fallbacks) == (PMD, 5, 0)
        assert "2 MiB leaves: all memory is reserved" in info.reason
    with mshare.attach("r") as region:
        assert region.info().leaf_size == PMD
    with mshare.create("small", PMD - 1) as region:
        assert (region.info().leaf_size, region.info().huge_pages) == (PAGE, 0)


def test_who_chooses_the_leaves(huge_world: None) -> None:
    for reserve, leaf, leaf_size, huge_pages in (
        (True, "4K", PAGE, 0),
        (True, "2M", PMD, 3),
        (False, None, PAGE, 0),
        (False, "2M", PMD, 1),
    ):
        with mshare.create("r", 3 * PMD, reserve=reserve, leaf=leaf) as region:
            region.buf[PMD] = 1
            info = region.info()
            assert (info.leaf_size, info.huge_pages) == (leaf_size, huge_pages), info.reason
        mshare.unlink("r")
    with pytest.raises(mshare.InvalidArgumentError):
        mshare.create("r", 3 * PMD, leaf="1G")
    with pytest.raises(mshare.InvalidArgumentError):
        mshare.create("r", PMD - 1, leaf="2M")


def test_a_mount_without_pages_of_2_mib(msharefs_world: Path) -> None:
    with mshare.create("r", PMD) as region:
        assert region.info().leaf_size == PAGE
        assert "4 KiB leaves: the mount has huge=never" in region.info().reason
    with pytest.raises(mshare.BackendUnavailableError, match="remount,huge=advise"):
        mshare.create("other", PMD, backend="msharefs", leaf="2M")
    with mshare.create("other", PMD, leaf="2M") as region:
        assert region.backend != "msharefs"


def test_the_kernel_knows_the_address(msharefs_world: Path) -> None:
    with mshare.create("r", 5 * PAGE) as region:
        with Descriptor(region.info().path, 0) as fd:
            facts = ioctl.region_facts(fd)
        assert facts is not None
        assert (facts.base, facts.attachments, facts.size_bytes) == (region.addr, 1, 6 * PAGE)


def test_segments_of_the_drop_in_are_on_it(msharefs_world: Path) -> None:
    with SharedMemoryManager() as manager:
        segment, numbers = manager.SharedMemory(3 * PAGE), manager.ShareableList(range(3))
        assert {info.backend for info in mshare.regions()} == {"msharefs"}
        assert segment.buf is not None
        segment.buf[PAGE] = 7

        def read() -> list[int]:
            other = SharedMemory(segment.name)
            assert other.buf is not None
            items = ShareableList(name=numbers.shm.name)
            return [other.buf[PAGE], *(items[number] for number in range(3))]

        assert in_child(read).value == [7, 0, 1, 2]
        segment.close()
        numbers.shm.close()
    assert mshare.regions() == []


def foreign(world: Path, name: str, size: int) -> Path:
    """Make a region as a program without the library does."""
    path = world / "msharefs" / name
    with path.open("xb") as file:
        file.truncate(size)
    return path


def test_a_region_made_without_the_library_is_one(msharefs_world: Path) -> None:
    path = foreign(msharefs_world, "plain", 3 * PAGE + 1)
    path.write_bytes(b"ab" * PAGE + b"\x01" * (PAGE + 1))
    with mshare.attach("plain") as region:
        assert (region.size, region.backend, region.addr % PUD) == (3 * PAGE + 1, "msharefs", 0)
        assert WINDOW[0] <= region.addr < WINDOW[1]
        assert region.buf[0] == ord("a")
        region.buf[-1] = 7
        assert path.read_bytes()[-1] == 7
        assert region.info().pids
    assert [info.name for info in mshare.gc()] == ["plain"]


def test_an_empty_file_and_the_file_systems_own_are_none(msharefs_world: Path) -> None:
    foreign(msharefs_world, "empty", 0)
    for name in ("empty", "mshare_info"):
        with pytest.raises(mshare.NotARegionError):
            mshare.attach(name, readonly=True)
        with pytest.raises((mshare.NotARegionError, mshare.AccessDeniedError)):
            mshare.unlink(name)
    assert (msharefs_world / "msharefs" / "empty").exists()
    assert mshare.regions() == []


ATTACH = """
import os, sys
sys.path.insert(0, sys.argv[1])
from mshare._core.linux import libc
os.setgid(1001)
os.setuid(1001)
fd = os.open(sys.argv[2], os.O_RDWR)
libc.mmap_into([], fd, 1 << 30, writable=True)
os.close(fd)
print("attached", flush=True)
sys.stdin.read()
"""


def test_a_stranger_without_our_lock_protects_what_he_uses(msharefs_world: Path) -> None:
    """The process is another user's, so that the owner, who is not root, sees nothing of the process in /proc."""
    mshare.create("r", PAGE, mode=0o666).close()
    path = msharefs_world / "msharefs" / "r"
    library = Path(mshare.__file__).parents[1]
    command = [sys.executable, "-S", "-c", ATTACH, str(library), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"attached\n"
        os.chown(path, 1002, 1002)

        def owner() -> list[object]:
            seen = mshare.regions()[0]
            with pytest.raises(mshare.RegionBusyError):
                mshare.mshare_unlink("r")
            return [list(seen.pids), seen.orphan, len(mshare.gc())]

        assert in_child(owner, uid=1002).value == [[], False, 0]
        stranger.kill()
        stranger.wait()
        assert in_child(lambda: [info.name for info in mshare.gc()], uid=1002).value == ["r"]


def test_page_tables_are_paid_once(msharefs_world: Path) -> None:
    """A process that touches 64 MiB pays one page, which leads to the shared tables, and no fault."""

    def attach_and_touch() -> list[int]:
        before, faults = table_bytes(), getrusage(RUSAGE_SELF).ru_minflt
        with mshare.attach("r") as region:
            total = sum(region.buf[::PAGE])
            return [table_bytes() - before, total, getrusage(RUSAGE_SELF).ru_minflt - faults]

    def second_time() -> list[int]:
        attach_and_touch()  # so that the interpreter has all its memory before the measurement
        return attach_and_touch()

    with mshare.create("r", 64 * MIB) as region:
        assert region.info().page_table_bytes == PAGE
        region.buf[PAGE] = 5
    grown, total, faults = in_child(second_time).value
    assert (grown, total) == (PAGE, 5)
    assert faults < 64, "16,384 pages, so these are the interpreter's own"


def test_what_a_region_holds_and_counts(msharefs_world: Path) -> None:
    length = 64 * MIB + PAGE  # with its record
    with mshare.create("r", 64 * MIB, backend="msharefs") as region:
        assert region.info() == mshare.regions()[0]
        region.buf[0] = 1  # the first touch makes the tables
        info = region.info()
        assert info.memory_bytes == length
        assert info.charged_bytes == backends.ALL[0].charge(length)
        assert info.shared_table_bytes == (1 + 33) * PAGE  # one PMD page, a PTE page for each 2 MiB
    with mshare.create("sparse", 64 * MIB, backend="msharefs", reserve=False) as region:
        before = region.info().memory_bytes
        region.buf[0] = region.buf[PAGE] = 1
        assert region.info().memory_bytes == before + 2 * PAGE


def test_a_handle_that_only_maps_a_region_takes_and_gives_back_nothing(msharefs_world: Path) -> None:
    with (
        mshare.create("r", 8 * MIB, backend="msharefs", reserve=False) as region,
        region.map_only(readonly=False) as handle,
        mshare.attach(handle, addr=mshare.ANYWHERE) as mine,
    ):
        region.populate(0, MIB)
        mine.buf[0] = 7
        before = region.resident()
        assert mine.resident() == before
        for call in (mine.populate, mine.discard):
            with pytest.raises(mshare.AccessDeniedError):
                call()
        assert (region.resident(), region.buf[0]) == (before, 7)


def test_a_range_that_the_mount_has_no_room_for(world: Path) -> None:
    mount_point = world / "msharefs"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "msharefs", "-o", "size=16m", "none", str(mount_point)], check=True)
    try:
        with mshare.create("r", 64 * MIB, backend="msharefs", reserve=False) as region:
            region.populate(4 * MIB, 4 * MIB)
            before = region.info().charged_bytes
            with pytest.raises(mshare.NoSpaceError, match="free space of"):
                region.populate(0, 16 * MIB)
            with region.handle() as handle, pytest.raises(OSError, match="No space left"):
                backends.ALL[0].take(handle.fileno(), 0, 16 * MIB, region.addr)
            assert region.info().charged_bytes == before
            region.populate(0, 15 * MIB)
            region.discard()
            assert region.resident() == PAGE
        mshare.unlink("r")
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


def test_a_mount_that_is_exactly_large_enough(world: Path) -> None:
    mount_point = world / "msharefs"
    mount_point.mkdir()
    needed = backends.ALL[0].charge(8 * MIB + PAGE)
    subprocess.run(["mount", "-t", "msharefs", "-o", f"size={needed}", "none", str(mount_point)], check=True)
    try:
        with mshare.create("r", 8 * MIB, backend="msharefs") as region:
            assert region.info().charged_bytes == needed
            assert os.statvfs(mount_point).f_bfree == 0
        mshare.unlink("r")
        with pytest.raises(
            mshare.NoSpaceError, match=r"needs \d+ bytes on msharefs .* its page tables.* but only \d+ byte"
        ):
            mshare.create("r", 8 * MIB + 1, backend="msharefs")
        assert os.statvfs(mount_point).f_bfree == needed // PAGE
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


def test_a_c_program_and_this_library_meet(
    msharefs_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """include/mshare.h attaches what Python made, at Python's address, and Python what C made."""
    program = tmp_path / "both"
    (tmp_path / "both.c").write_text(BOTH)
    include = Path(__file__).parents[2] / "include"
    subprocess.run(["gcc", "-pthread", f"-I{include}", "-o", program, tmp_path / "both.c"], check=True)
    monkeypatch.setenv("MSHAREFS_ROOT", str(msharefs_world / "msharefs"))
    with mshare.create("python", PAGE) as region:
        region.buf[0] = 41
        done = subprocess.run([program, "python", "0"], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [f"{region.addr:#x}", "41"]
        assert region.buf[0] == 42
    done = subprocess.run([program, "c", str(2 * PAGE)], capture_output=True, text=True, check=True)
    with mshare.attach("c") as region:
        assert (f"{region.addr:#x}", region.size, region.buf[0]) == (done.stdout.split()[0], 2 * PAGE, 1)


BOTH = """
#define _GNU_SOURCE
#include "mshare.h"

/* Attach or make the region argv[1], print address and first byte, and add 1 to it. */
int main(int argc, char **argv)
{
	size_t length = strtoul(argv[2], NULL, 0);
	unsigned char *at;

	if (mshare(argv[1], NULL, length, O_RDWR | (length ? O_CREAT : 0), 0600))
		return perror("mshare"), 1;
	at = mshare_address(argv[1]);
	printf("%p %d\\n", (void *)at, at[0]);
	at[0]++;
	return argc != 3;
}
"""


def test_a_read_only_region_over_a_writable_mapping_seals_it(msharefs_world: Path) -> None:
    """Both are of one mapping. It was left read-only, and the region unsealed."""
    with mshare.create("r", PAGE) as writer, mshare.attach("r", readonly=True) as reader:
        writer.buf[0] = 7
        reader.seal()
        assert reader.sealed
        assert writer.sealed
        assert reader.buf[0] == 7


def test_sealing_that_fails_leaves_the_mapping_writable(msharefs_world: Path) -> None:
    """The module refuses a user who is not the owner, when the mapping has been replaced already."""

    def stranger() -> str:
        with mshare.attach("r") as writer, mshare.attach("r", readonly=True) as reader:
            with pytest.raises(mshare.AccessDeniedError):
                reader.seal()
            writer.buf[0] = 9
            return reader.info().name

    with mshare.create("r", PAGE, mode=0o666) as region:

        def as_another() -> str:
            os.setresuid(54321, 54321, 54321)
            return stranger()

        assert in_child(as_another).value == "r"
        assert region.buf[0] == 9
