"""Memory of ranges: too little of it, signals, kills, crowds, and what has lost its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mshare
from mshare._core.backends.shm import Shm
from mshare._core.geometry import PAGE, PMD, PUD
from mshare._core.linux import libc
from mshare._core.units import MIB
from mshare._tools.lab.limit import control_group
from mshare.testing.conformance import backend_of, files, smaps_of
from mshare.testing.processes import in_child
from tests.helpers.waiting import eventually
from tests.helpers.worlds import free_bytes, needs_root, small_tmpfs

POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
on_tmpfs = pytest.mark.parametrize("tmpfs", ["shm", "thp"])


def pool() -> tuple[int, int]:
    """Return the free and the promised pages."""
    return int((POOL / "free_hugepages").read_text()), int((POOL / "resv_hugepages").read_text())


# the choice of the backend


def test_the_best_backend_but_hugetlb_is_chosen(hugetlb_world: Path) -> None:
    with mshare.create("r", 4 * PMD, reserve=False) as region:
        assert region.backend == "thp"
        assert "hugetlb: a touch without a free page there is SIGBUS" in region.info().reason


def test_page_tables_of_small_pages_are_the_bound(world: Path) -> None:
    with mshare.create("r", 4 * PMD, backend="thp", reserve=False) as sparse:
        assert sparse.info().page_table_bytes == (4 + 1 + 1) * PAGE
    with mshare.create("full", 4 * PMD, backend="thp") as full:
        assert full.info().page_table_bytes == 2 * PAGE


def test_a_sparse_region_of_huge_pages_promises_nothing(hugetlb_world: Path) -> None:
    """A mapping without MAP_NORESERVE, by any process, would promise all of it."""
    before = pool()
    with mshare.create("r", 1 << 40, backend="hugetlb", reserve=False) as region:
        with (
            mshare.attach("r", addr=mshare.ANYWHERE) as other,
            region.handle() as handle,
            mshare.attach(handle, readonly=True, addr=mshare.ANYWHERE),
        ):
            other.buf[0] = 7
            assert pool() == (before[0] - 2, before[1])
        assert in_child(lambda: mshare.attach("r", readonly=True, addr=mshare.ANYWHERE).buf[0]).value == 7
        assert pool() == (before[0] - 2, before[1])
    mshare.unlink("r")
    assert pool() == before


def test_a_pool_that_is_empty_at_last_is_an_error_of_create_and_no_sigbus(hugetlb_world: Path) -> None:
    """The record needs a page of its own."""

    def create() -> str:
        other = mshare.create("other", 1 << 40, backend="hugetlb", reserve=False)

        def fill(view: memoryview) -> None:
            view[0] = 7
            free, promised = pool()
            other.populate(0, (free - promised) * PMD)

        try:
            mshare.create("r", 2 * PMD, backend="hugetlb", reserve=False, fill=fill)
        except mshare.NoSpaceError as error:
            return str(error)
        return "created"

    before = pool()
    ended = in_child(create)
    assert (ended.status, ended.value[:12]) == (0, "region 'r' n")
    mshare.unlink("other")
    assert files() == []
    assert pool() == before


@needs_root
@on_tmpfs
def test_memory_beyond_the_end_of_the_file_is_not_taken_for_the_range_s(world: Path, tmpfs: str) -> None:
    """The file has as much memory as it is long, and a hole: a huge page reaches beyond its end, or a writer put memory
    there. Both lay about `st_blocks`."""
    with (
        small_tmpfs(world / "shm", "64m", "huge=always"),
        mshare.create("r", 4 * MIB, backend=tmpfs, reserve=False) as region,
    ):
        region.populate()
        region.discard(0, MIB)
        with region.handle() as handle:
            libc.fallocate(handle.fileno(), 1, 8 * MIB, 2 * MIB)  # FALLOC_FL_KEEP_SIZE
            region.populate(0, MIB)
            assert os.lseek(handle.fileno(), 0, os.SEEK_HOLE) >= 4 * MIB


# too little memory


@needs_root
@on_tmpfs
def test_a_full_file_system_is_an_error_and_nothing_is_taken(world: Path, tmpfs: str) -> None:
    with small_tmpfs(world / "shm", "16m"), mshare.create("r", 64 * MIB, backend=tmpfs, reserve=False) as region:
        region.populate(4 * MIB, 4 * MIB)
        region.buf[5 * MIB] = 7
        before = region.resident(), free_bytes(world / "shm")
        with pytest.raises(
            mshare.NoSpaceError, match=r"region 'r' needs up to 12 MiB more on .* only 11\.9 MiB .*free space of"
        ):
            region.populate(0, 16 * MIB)
        assert (region.resident(), free_bytes(world / "shm")) == before
        region.populate(0, 15 * MIB)
        assert (region.buf[5 * MIB], region.resident()) == (7, 15 * MIB + PAGE)
        region.discard(0, 8 * MIB)
        region.populate(32 * MIB, 8 * MIB)


@needs_root
@on_tmpfs
def test_a_failure_in_the_middle_takes_its_pages_back_and_no_others(world: Path, tmpfs: str) -> None:
    """The look at the free space beforehand is left out, as if other programs had taken the space since."""
    with small_tmpfs(world / "shm", "16m"), mshare.create("r", 64 * MIB, backend=tmpfs, reserve=False) as region:
        region.populate(4 * MIB, 2 * MIB)  # and nobody touches these pages
        region.buf[9 * MIB] = 7
        before = region.resident()
        with region.handle() as handle, pytest.raises(OSError, match="No space left"):
            backend_of(tmpfs).take(handle.fileno(), 0, 64 * MIB, region.addr)
        assert region.resident() == before
        assert (region.buf[4 * MIB], region.buf[9 * MIB]) == (0, 7)
        assert region.resident() == before


def test_an_empty_pool_is_an_error_and_nothing_is_taken_or_promised(hugetlb_world: Path) -> None:
    with mshare.create("r", 1 << 40, backend="hugetlb", reserve=False) as region:
        region.populate(4 * PMD, 3 * PMD)
        region.buf[5 * PMD] = 7
        before = pool()
        with pytest.raises(mshare.NoSpaceError, match=r"free 2 MiB pages \(vm.nr_hugepages\)"):
            region.populate()
        assert pool() == before
        assert region.buf[5 * PMD] == 7
        rest = before[0] - before[1]
        with pytest.raises(mshare.NoSpaceError):
            region.populate(0, (rest + 4) * PMD)
        assert pool() == before
        region.populate(0, (rest + 3) * PMD)
        region.populate(0, (rest + 3) * PMD)  # an empty pool does not matter to pages that are there
        assert pool()[0] == before[1]


@needs_root
@on_tmpfs
def test_the_limit_of_a_control_group_is_an_error_and_nobody_is_killed(world: Path, tmpfs: str) -> None:
    mshare.create("r", PUD, backend=tmpfs, reserve=False).close()
    with control_group(256 * MIB) as limit:

        def populate() -> list[object]:
            limit.enter(os.getpid())
            with mshare.attach("r") as region:
                region.populate(0, 32 * MIB)
                before = region.resident()
                try:
                    region.populate()
                except mshare.NoSpaceError as error:
                    return [str(error), region.resident() - before]
            return ["populated", 0]

        said, more = in_child(populate).value
        assert "memory limit of control group" in said
        assert more == 0
        assert limit.oom_kills() == 0


def test_a_region_that_has_its_memory_needs_none(backend: str) -> None:
    """Not even a look at the machine: the pool may be empty, and the file system full."""
    with mshare.create("r", 2 * PMD, backend=backend) as region:
        before = region.resident()
        region.populate()
        assert region.resident() == before


# signals and kills


def test_signals_wait_and_nothing_is_done_twice(world: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        with mshare.create("r", 256 * MIB, backend="shm", reserve=False) as region:
            region.populate()
            assert region.resident() == 256 * MIB + PAGE
            eventually(lambda: heard)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_signals_that_come_during_a_call_are_handled_behind_it(world: Path) -> None:
    """The handler raises, and the thread takes signals as before."""

    def child() -> list[object]:
        seen: list[object] = []

        def call() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("kept")

        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            libc.without_signals(call)
        except KeyboardInterrupt:
            seen.append("raised")
        return [*seen, signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask]

    assert in_child(child).value == ["kept", "raised", True]


KILLED = """
import mshare, sys
region = mshare.attach("r")
print("ready", flush=True)
sys.stdin.readline()
region.populate()
"""


@pytest.mark.parametrize("eighths", [1, 3, 5])
def test_a_kill_in_the_middle_leaves_a_region_that_works(backend: str, eighths: int) -> None:
    size = (64 if backend == "hugetlb" else 256) * MIB
    region = mshare.create("r", size, backend=backend, reserve=False)
    region.buf[size - 1] = 7
    base = region.resident()
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.stdin.write(b"\n")
            child.stdin.flush()
            eventually(lambda: region.resident() >= base + eighths * size // 8)
        finally:
            child.kill()
    assert child.returncode in (-signal.SIGKILL, 0)
    if backend == "shm":  # the kernel's one call
        assert region.resident() in (base, size + PAGE)
    assert region.buf[size - 1] == 7
    region.populate()
    assert region.resident() == Path(region.info().path).stat().st_size
    region.discard()
    assert region.resident() == (PMD if backend == "hugetlb" else PAGE)
    region.close()
    mshare.unlink("r")
    assert files() == []


# crowds


def test_a_crowd_that_populates_one_range_does_no_harm(backend: str) -> None:
    """200 threads, and 7 processes with 20 threads each, that also store."""
    with mshare.create("r", 8 * PMD, backend=backend, reserve=False) as region:
        page = backend_of(backend).capabilities.file_unit

        def populate(number: int) -> None:
            region.populate(2 * PMD, 4 * PMD)
            region.buf[2 * PMD + number] = number % 251 + 1
            region.populate(PMD, 4 * PMD)

        def process(which: int) -> Callable[[], None]:
            def run() -> None:
                with ThreadPoolExecutor(20) as threads:
                    list(threads.map(populate, range(200 + which * 20, 220 + which * 20)))

            return run

        pids = []
        for which in range(7):
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    process(which)()
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        with ThreadPoolExecutor(200) as threads:
            list(threads.map(populate, range(200)))
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 7
        assert list(region.buf[2 * PMD : 2 * PMD + 340]) == [number % 251 + 1 for number in range(340)]
        assert region.resident() == 5 * PMD + page  # and the record's


def test_a_region_that_is_closed_during_a_call_stays_mapped_for_the_call(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, seen = Shm.take, list[bool]()

    def closing(backend: Shm, fd: int, start: int, end: int, addr: int) -> None:
        region.close()
        seen.append(bool(smaps_of(addr)))
        take(backend, fd, start, end, addr)

    monkeypatch.setattr(Shm, "take", closing)
    region = mshare.create("r", PMD, backend="shm", reserve=False)
    region.populate()
    assert (seen, smaps_of(region.addr)) == ([True], {})


@pytest.mark.parametrize("call", ["populate", "discard"])
def test_threads_attach_and_close_while_others_change_the_memory(world: Path, call: str) -> None:
    mshare.create("r", 8 * PMD, reserve=False).close()
    stop = threading.Event()

    def change() -> int:
        done = 0
        while not stop.is_set():
            with mshare.attach("r") as region:
                getattr(region, call)()
                done += 1
        return done

    with ThreadPoolExecutor(4) as threads:
        counts = [threads.submit(change) for _ in range(4)]
        for _ in range(100):
            mshare.attach("r").close()
        stop.set()
    assert all(count.result() for count in counts)


# what has lost its name, and what is locked


def test_memory_of_an_older_version_is_given_back(world: Path) -> None:
    with mshare.create("r", PMD) as old:
        mshare.create("r", PMD, replace=True).close()
        file = os.stat(f"/proc/self/map_files/{old.addr:x}-{old.addr + PMD:x}")
        assert file.st_blocks * 512 == PMD + PAGE
        old.buf[0] = 7
        old.discard()
        assert old.buf[PAGE] == 0
        assert os.stat(f"/proc/self/map_files/{old.addr:x}-{old.addr + PMD:x}").st_blocks * 512 < PMD
        for call in (old.populate, old.resident):
            with pytest.raises(mshare.RegionNotFoundError, match="has lost its name"):
                call()


def test_locked_memory_is_given_back(backend: str) -> None:
    def child() -> list[int]:
        region = mshare.create("r", 2 * PMD, backend=backend)
        region.buf[0] = 7
        libc.lock_memory()
        region.discard()
        libc.unlock_memory()
        return [region.resident(), region.buf[0]]

    page = backend_of(backend).capabilities.file_unit
    assert in_child(child).value == [page, 0]


def test_a_handle_that_only_maps_memory(world: Path) -> None:
    """On a memfd a map-only handle forbids holes, also to the creator."""
    with mshare.create_anonymous(PMD, backend="shm", reserve=False) as region, region.map_only() as handle:
        with mshare.attach(handle, addr=mshare.ANYWHERE) as reader, pytest.raises(mshare.ReadOnlyMappingError):
            reader.populate()
        region.populate()
        region.buf[0] = 7
        with pytest.raises(mshare.AccessDeniedError, match="sealed, protected or given out map-only"):
            region.discard()
        assert region.buf[0] == 7


def test_a_region_of_a_newer_version_is_refused(world: Path) -> None:
    with mshare.create("r", PAGE, reserve=False) as region:
        region._record = region._record._replace(backend="later")
        with pytest.raises(mshare.BackendUnavailableError, match="has no backend 'later'"):
            region.populate()


def test_memfds_obey_no_limit_of_a_file_system(nameless: str) -> None:
    with mshare.create_anonymous(2 * PMD, backend=nameless, reserve=False) as region:
        region.populate()
        assert region.resident() >= 2 * PMD + PAGE
        region.discard()
        assert region.resident() <= PMD
