"""The promises of every backend, as a pytest class to inherit.

    class TestMine(BackendConformance):
        @pytest.fixture
        def backend(self, ...): return "mine"     # by name, in a world (MSHARE_ROOT) that has no region

Oracles are independent of what they check: `stat`, /proc/self/smaps, /proc/self/status, other processes.

May depend on: processes, strategies, backend, backends, mshare, geometry, record, pytest, roots.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from pathlib import Path

import pytest

import mshare
from mshare._core import backends
from mshare._core.backend import Backend
from mshare._core.geometry import PAGE, PMD, PUD, WINDOW, round_up
from mshare._core.record import RECORD_SIZE, file_size
from mshare._core.roots import directories as roots

from .processes import in_child
from .strategies import edge_sizes

NO_REGIONS = ("hugetlb", "mshare_info")
"""Files that may lie under a root besides regions: a mount point, and msharefs' own file."""


def backend_of(name: str) -> Backend:
    """Return the backend called `name`."""
    return next(backend for backend in backends.ALL if backend.name == name)


def smaps_of(addr: int) -> dict[str, int]:
    """Return the fields of /proc/self/smaps, in bytes, of the mapping at `addr`."""
    fields: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = int(words[0].partition("-")[0], 16) == addr
        elif inside and len(words) == 3 and words[2] == "kB":
            fields[words[0].rstrip(":")] = int(words[1]) * 1024
    return fields


def table_bytes() -> int:
    """Return `VmPTE` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmPTE")) * 1024


def files() -> list[Path]:
    """Return every file under the roots, as a directory listing shows it."""
    return sorted(path for root in roots() for path in Path(root).iterdir() if path.name not in NO_REGIONS)


class BackendConformance:
    """Tests that take `backend`, the name of a backend that can be used."""

    def test_it_says_what_it_is(self, backend: str) -> None:
        tested = backend_of(backend)
        able = tested.capabilities
        assert able.leaf_size in (PAGE, PMD)
        assert able.file_unit in (PAGE, PMD)
        assert able.file_unit <= able.leaf_size
        assert able.map_unit in (able.file_unit, PUD)
        assert able.needs
        assert able.shared_tables
        assert tested.availability().usable
        assert tested.availability().reason
        root = tested.root()
        assert root is not None
        assert Path(root).is_dir()
        assert tested.space().free_bytes > 0

    @pytest.mark.parametrize("size", edge_sizes)
    def test_its_costs_are_those_of_its_regions_and_grow_with_processes(self, backend: str, size: int) -> None:
        one, three = (backend_of(backend).costs(size, processes) for processes in (1, 3))
        with mshare.create("r", size, backend=backend) as region:
            assert one.all_process == three.all_process == region.info().page_table_bytes
        for cost, processes in ((one, 1), (three, 3)):
            assert cost.leaf_process <= cost.all_process
            assert cost.leaf_total <= cost.all_total <= max(one.all_total, cost.all_process) * processes
        assert one.all_process <= one.all_total <= three.all_total

    @pytest.mark.parametrize("size", edge_sizes)
    def test_it_has_exactly_the_size_asked_for_and_is_zero(self, backend: str, size: int) -> None:
        with mshare.create("r", size, backend=backend) as region:
            assert (region.size, len(region.buf), region.info().size) == (size, size, size)
            assert not any(region.buf)
            region.buf[-1] = 251
            assert Path(region.info().path).stat().st_size == file_size(
                size, backend_of(backend).capabilities.file_unit
            )
        with mshare.attach("r") as region:
            assert (len(region.buf), region.buf[-1]) == (size, 251)

    @pytest.mark.parametrize("size", edge_sizes)
    def test_its_memory_is_reserved_at_creation(self, backend: str, size: int) -> None:
        with mshare.create("r", size, backend=backend) as region:
            allocated = Path(region.info().path).stat().st_blocks * 512
            assert allocated >= round_up(size + RECORD_SIZE, PAGE)

    @pytest.mark.parametrize("size", edge_sizes)
    def test_leaves_and_tables_are_as_stated(self, backend: str, size: int) -> None:
        def measure() -> tuple[int, int, dict[str, int]]:
            before = table_bytes()
            with mshare.attach("r") as region:
                for offset in range(0, size, PAGE):
                    region.buf[offset] = 1
                return region.addr, table_bytes() - before, smaps_of(region.addr)

        def measure_warm() -> tuple[int, int, dict[str, int]]:
            measure()  # so that the interpreter has all its memory before the measurement
            return measure()

        with mshare.create("r", size, backend=backend) as region:
            info = region.info()
        addr, grown, seen = in_child(measure_warm).value
        assert addr == info.addr
        assert seen["Size"] == round_up(size, info.map_unit)
        large = seen["KernelPageSize"] == PMD or seen["ShmemPmdMapped"] > 0 or seen["FilePmdMapped"] > 0
        assert large == (info.leaf_size == PMD)
        assert grown == info.page_table_bytes

    def test_every_process_has_it_at_one_aligned_address(self, backend: str) -> None:
        with mshare.create("r", PMD + 1, backend=backend) as region:
            assert region.addr % PUD == 0
            assert WINDOW[0] <= region.addr < WINDOW[1]
            addr = region.addr
        assert in_child(lambda: mshare.attach("r").addr).value == addr
        with mshare.attach("r") as region:
            assert region.addr == addr
            assert smaps_of(addr)["Size"] == round_up(PMD + 1, region.info().map_unit)

    def test_its_addresses_are_multiples_of_its_unit(self, backend: str) -> None:
        able = backend_of(backend).capabilities
        align = max(able.leaf_size, able.map_unit)
        addr = WINDOW[0] + 7919 * PUD + align // 2
        with pytest.raises((mshare.BackendUnavailableError, mshare.InvalidAddressError)):
            mshare.create("r", PMD, backend=backend, addr=addr)
        mshare.create("r", PMD, backend=backend).close()
        with pytest.raises(mshare.InvalidAddressError):
            mshare.attach("r", addr=addr)
        with mshare.attach("r", addr=addr + align // 2) as region:
            assert region.addr == addr + align // 2

    def test_an_address_of_ones_own(self, backend: str) -> None:
        addr = WINDOW[0] + 7919 * PUD
        with mshare.create("r", PMD, backend=backend, addr=addr) as region:
            assert region.addr == addr
        with mshare.attach("r", addr=addr + 2 * PUD) as other, mshare.attach("r") as region:
            assert (region.addr, other.addr) == (addr, addr + 2 * PUD)
            other.buf[PMD - 1] = 7
            assert region.buf[PMD - 1] == 7

    def test_anywhere_is_elsewhere_when_it_must_be(self, backend: str) -> None:
        with mshare.create("r", PMD, backend=backend) as region, mshare.attach("r", addr=mshare.ANYWHERE) as other:
            assert other.addr != region.addr
            other.buf[0] = 3
            assert region.buf[0] == 3

    def test_what_one_process_stores_another_loads(self, backend: str) -> None:
        with mshare.create("r", 3 * PMD, backend=backend) as region:
            places = range(0, 3 * PMD, PMD // 4 + 1)
            for place in places:
                region.buf[place] = place % 251 + 1

            def read() -> list[int]:
                seen = mshare.attach("r", readonly=True, addr=mshare.ANYWHERE)
                return [seen.buf[place] for place in places]

            assert in_child(read).value == [place % 251 + 1 for place in places]

    def test_the_record_is_out_of_reach(self, backend: str) -> None:
        for size in edge_sizes:
            with mshare.create("r", size, backend=backend) as region:
                region.buf[:] = b"\xff" * size
                assert mshare.regions()[0].size == size
            mshare.unlink("r")

    def test_a_read_only_attachment_is_read_only_to_the_kernel(self, backend: str) -> None:
        mshare.create("r", PMD, backend=backend).close()
        with mshare.attach("r", readonly=True) as region:
            assert region.readonly
            assert region.buf.readonly
            line = next(
                line
                for line in Path("/proc/self/maps").read_text().splitlines()
                if int(line.partition("-")[0], 16) == region.addr
            )
            assert line.split()[1] == "r--s"

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400, 0o777])
    def test_the_mode_is_taken_exactly(self, backend: str, mode: int) -> None:
        before = os.umask(0o077)
        try:
            with mshare.create("r", 1, backend=backend, mode=mode) as region:
                info = region.info()
        finally:
            os.umask(before)
        status = Path(info.path).stat()
        assert stat.S_IMODE(status.st_mode) == info.mode == mode
        assert status.st_uid == info.uid == os.geteuid()

    def test_removing_the_name_leaves_the_memory(self, backend: str) -> None:
        with mshare.create("r", PMD, backend=backend) as region:
            region.buf[0] = 1
            mshare.unlink("r")
            assert files() == []
            assert region.buf[0] == 1
            assert not region.info().named
            with pytest.raises(mshare.RegionNotFoundError):
                mshare.attach("r", addr=mshare.ANYWHERE)
            with mshare.create("r", PMD, backend=backend) as second:
                assert (second.buf[0], region.buf[0]) == (0, 1)

    def test_nobody_sees_a_region_before_it_is_complete(self, backend: str) -> None:
        seen: list[object] = []

        def look(*_: int) -> None:
            seen.extend([files(), mshare.regions()])
            with pytest.raises(mshare.RegionNotFoundError):
                mshare.attach("r")

        mshare.create("r", 2 * PMD, backend=backend, progress=look).close()
        assert all(found == [] for found in seen)
        assert len(files()) == 1

    def test_a_name_is_given_once(self, backend: str) -> None:
        with mshare.create("r", 1, backend=backend) as region:
            region.buf[0] = 5
            for other in backends.ALL:
                if other.availability().usable:
                    with pytest.raises(mshare.RegionExistsError):
                        mshare.create("r", PMD, backend=other.name)
            assert region.buf[0] == 5

    def test_a_newer_region_takes_over_a_name(self, backend: str) -> None:
        mshare.create("r", PMD + 1, backend=backend).close()
        with mshare.attach("r") as old:
            old.buf[PMD] = 5
            with mshare.create("r", 2 * PMD, backend=backend, replace=True) as new:
                assert (old.superseded, new.superseded) == (True, False)
                assert (old.buf[PMD], new.buf[PMD]) == (5, 0)
                new.buf[PMD] = 6
                (held,) = mshare.held_regions()
                assert (held.name, held.addr, held.pids, held.superseded) == ("r", old.addr, (os.getpid(),), True)
            with mshare.reattach(old) as moved:
                assert (moved.size, moved.buf[PMD]) == (2 * PMD, 6)
        assert mshare.held_regions() == []
        assert len(files()) == 1

    def test_a_process_that_dies_while_it_replaces_leaves_the_older_region(self, backend: str) -> None:
        mshare.create("r", PMD, backend=backend).close()

        def die() -> None:
            os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
            mshare.create("r", PMD + 1, backend=backend, replace=True)

        assert in_child(die).status == -signal.SIGKILL
        with mshare.attach("r") as region:
            assert region.size == PMD
        assert len(files()) == 2
        assert [info.name for info in mshare.gc()] == ["r"]
        assert files() == []

    def test_what_does_not_fit_is_refused_and_leaves_nothing(self, backend: str) -> None:
        free = backend_of(backend).space().free_bytes
        with pytest.raises(mshare.NoSpaceError, match=r"needs .*GiB.* but only .* can be had"):
            mshare.create("r", free + (64 << 30), backend=backend)
        assert files() == []
        assert not any(smaps_of(addr) for addr in range(*WINDOW, 1 << 44))

    def test_memory_that_is_not_reserved_comes_on_touch(self, backend: str) -> None:
        page = backend_of(backend).capabilities.file_unit
        with mshare.create("r", 64 * PMD, backend=backend, reserve=False) as region:
            info = region.info()
            assert (info.reserved, region.resident()) == (False, page)  # the record's
            region.buf[63 * PMD] = 1
            assert Path(info.path).stat().st_blocks * 512 == region.resident() == 2 * page
            with mshare.attach("r", addr=mshare.ANYWHERE) as other:
                assert (other.buf[63 * PMD], other.resident()) == (1, 2 * page)
            assert in_child(lambda: mshare.attach("r", addr=mshare.ANYWHERE).buf[0]).value == 0
        with mshare.create("full", PMD, backend=backend) as region:
            assert region.info().reserved

    def test_populate_takes_whole_pages_and_keeps_the_bytes(self, backend: str) -> None:
        page = backend_of(backend).capabilities.file_unit
        with mshare.create("r", 8 * PMD + 5, backend=backend, reserve=False) as region:
            before = region.resident()
            region.buf[2 * PMD] = 7
            region.populate(PMD + 1, 2 * PMD)
            assert region.resident() == before + round_up(2 * PMD + 1, page)
            region.populate(PMD + 1, 2 * PMD)
            region.populate(0, 0)
            assert region.resident() == before + round_up(2 * PMD + 1, page)
            assert [region.buf[offset] for offset in (PMD, 2 * PMD, 3 * PMD)] == [0, 7, 0]
            region.populate()
            assert region.resident() == Path(region.info().path).stat().st_size
            assert region.buf[2 * PMD] == 7
            if backend_of(backend).capabilities.leaf_size == PMD != page:
                assert smaps_of(region.addr)["ShmemPmdMapped"] == 8 * PMD

    def test_discarded_memory_goes_back_and_is_zero_for_everybody(self, backend: str) -> None:
        page = backend_of(backend).capabilities.file_unit
        with mshare.create("r", 4 * PMD + 5, backend=backend) as region, mshare.attach("r", readonly=True) as reader:
            before = region.resident()
            region.buf[:] = b"\xff" * region.size
            region.discard(PMD, 2 * PMD) if page == PAGE else region.discard(2 * PMD, 2 * PMD)
            assert region.resident() == before - 2 * PMD
            start = PMD if page == PAGE else 2 * PMD
            places = (start - 1, start, start + 2 * PMD - 1, start + 2 * PMD)
            assert [reader.buf[place] for place in places] == [255, 0, 0, 255]
            assert in_child(lambda: mshare.attach("r", addr=mshare.ANYWHERE).buf[start]).value == 0
            region.discard()
            assert region.resident() == page
            assert not any(region.buf[place] for place in (0, start, 4 * PMD, 4 * PMD + 4))
            region.populate()
            assert region.resident() == before
            assert mshare.regions()[0].size == 4 * PMD + 5, "the record is not a part of the region"

    def test_ranges_that_are_not_ones_are_refused(self, backend: str) -> None:
        page = backend_of(backend).capabilities.file_unit
        with mshare.create("r", 2 * PMD + 5, backend=backend) as region:
            region.buf[:] = b"\xff" * region.size
            before = region.resident()
            for offset, length in ((1, None), (0, page - 1), (0, page + 1), (page // 2, page)):
                with pytest.raises(mshare.InvalidSizeError, match="whole pages"):
                    region.discard(offset, length)
            for offset, length in ((-1, None), (0, -1), (2 * PMD + 6, None), (1, 2 * PMD + 5)):
                for call in (region.discard, region.populate):
                    with pytest.raises(mshare.InvalidSizeError, match="not a range"):
                        call(offset, length)
            region.discard(0, 0)
            assert (bytes(region.buf), region.resident()) == (b"\xff" * region.size, before)

    def test_a_read_only_attachment_neither_takes_memory_nor_gives_it_back(self, backend: str) -> None:
        mshare.create("r", PMD, backend=backend, reserve=False).close()
        with mshare.attach("r", readonly=True) as reader:
            before = reader.resident()
            for call in (reader.populate, reader.discard):
                with pytest.raises(mshare.ReadOnlyMappingError, match="attached read-only"):
                    call()
            assert reader.resident() == before
        for closed in (reader.populate, reader.discard, reader.resident):
            with pytest.raises(mshare.RegionClosedError):
                closed()

    def test_what_is_sealed_stays(self, backend: str) -> None:
        with mshare.create_anonymous(PMD + 5, backend=backend, reserve=False) as region:
            region.buf[0] = 7
            region.populate(PMD)
            before = region.resident()
            region.seal()
            for call in (region.populate, region.discard):
                with pytest.raises(mshare.ReadOnlyMappingError):
                    call()
            assert (region.buf[0], region.resident()) == (7, before)

    def test_a_range_that_does_not_fit_is_refused_and_takes_nothing(self, backend: str) -> None:
        size = backend_of(backend).space().free_bytes // PMD * PMD + (64 << 30)
        with mshare.create("r", size, backend=backend, reserve=False) as region:
            region.buf[0] = 7
            before = region.resident()
            with pytest.raises(mshare.NoSpaceError, match=r"needs up to .*GiB more .* but only .* can be had"):
                region.populate()
            assert (region.resident(), region.buf[0]) == (before, 7)
            region.populate(0, 2 * PMD)

    def test_a_fork_keeps_it_and_counts_for_itself(self, backend: str) -> None:
        with mshare.create("r", PMD, backend=backend) as region:

            def child() -> list[int]:
                region.buf[0] = 11
                return [os.getpid(), *mshare.regions()[0].pids]

            pid, *pids = in_child(child).value
            assert pids == sorted([os.getpid(), pid])
            assert region.buf[0] == 11
            assert region.info().pids == (os.getpid(),)

    def test_an_orphan_is_one_and_is_collected(self, backend: str) -> None:
        with mshare.create("r", PMD, backend=backend):
            assert not mshare.regions()[0].orphan
            assert mshare.gc() == []
        assert mshare.regions()[0].orphan
        assert [info.name for info in mshare.gc()] == ["r"]
        assert files() == []

    def test_without_a_name_it_lives_by_its_handles(self, backend: str) -> None:
        region = mshare.create_anonymous(PMD + 5, backend=backend)
        assert (region.name, region.backend, region.addr % PUD) == ("", backend, 0)
        region.buf[-1] = 7
        handle = region.handle()
        region.close()
        assert mshare.regions() == []
        assert not smaps_of(region.addr)

        def child() -> list[int]:
            with mshare.attach(handle) as mine:
                mine.buf[0] = 11
                return [mine.addr, mine.size, mine.buf[-1]]

        assert in_child(child).value == [region.addr, PMD + 5, 7]
        with mshare.attach(handle) as again:
            assert (again.buf[0], again.buf[-1]) == (11, 7)
        handle.close()
        assert files() == []

    def test_a_name_that_comes_later(self, backend: str) -> None:
        with mshare.create_anonymous(PMD, backend=backend, linkable=True) as region:
            region.buf[0] = 7
            region.link("r")
            assert mshare.regions()[0].pids == (os.getpid(),)
            assert in_child(lambda: mshare.attach("r", addr=mshare.ANYWHERE).buf[0]).value == 7
            with pytest.raises(mshare.RegionExistsError):
                region.link("again")
        assert [info.name for info in mshare.gc()] == ["r"]

    def test_handles_can_do_what_is_stated_and_no_more(self, backend: str) -> None:
        handle_rights = backend_of(backend).capabilities.handle_rights
        with mshare.create("r", PMD, backend=backend) as region:
            for readonly in (True, False):
                if not handle_rights:
                    with pytest.raises(mshare.BackendUnavailableError):
                        region.map_only(readonly=readonly)
                    continue
                with region.map_only(readonly=readonly) as handle, mshare.attach(handle, addr=mshare.ANYWHERE) as mine:
                    assert (mine.size, mine.readonly, mine.info().pids) == (PMD, readonly, (os.getpid(),))
                    if not readonly:
                        mine.buf[0] = 9
                        assert region.buf[0] == 9
                    for call in (lambda: handle.map_only(readonly=False), mine.seal):
                        with pytest.raises(mshare.MshareError):
                            call()
            if not handle_rights:
                with pytest.raises(mshare.BackendUnavailableError):
                    region.seal()
                return
            region.seal()
            assert (region.sealed, region.readonly) == (True, True)
            with pytest.raises(mshare.AccessDeniedError):
                mshare.attach("r")
            mshare.attach("r", readonly=True, require_sealed=True).close()
        assert mshare.mshare_unlink("r")

    def test_sealed_memory_is_read_only_for_everybody(self, backend: str) -> None:
        with mshare.create_anonymous(PMD, backend=backend) as region:
            region.buf[0] = 7
            region.seal()
            with region.handle() as handle:
                assert handle.sealed
                with mshare.attach(handle, require_sealed=True) as again:
                    assert again.buf[0] == 7

            def store() -> None:
                ctypes.c_ubyte.from_address(region.addr).value = 9

            assert in_child(store).status == -signal.SIGSEGV
            assert region.buf[0] == 7
