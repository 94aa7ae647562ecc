"""Measured costs against what is known: table pages by geometry, faults by leaf size, the kernel's own totals."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import mshare
from mshare._core import backends
from mshare._core.geometry import PMD
from mshare._core.units import MIB
from mshare.measure import Cost, Mechanism, Mshare, Nothing, SharedMemory, Slope, measure, measure_slope
from mshare.measure.cost import existing, page_tables_growth, process_costs
from mshare.measure.mechanisms import load
from mshare.measure.probe import scan
from mshare.measure.projection import SLOPE_BYTES

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

SIZE = 16 * MIB
SHM = Path("/dev/shm")


def cost_of(mechanism: Mechanism) -> Cost:
    return measure(mechanism, SIZE, name="mshare-test-measure", processes=2, runs=1, cycles=3)


def test_vmpte_is_what_geometry_says(backend: str) -> None:
    with mshare.create("reference", SIZE, backend=backend) as region:
        expected = region.info().page_table_bytes
    mshare.unlink("reference")
    assert cost_of(Mshare(backend)).vmpte_bytes == expected


def test_faults_are_one_per_leaf_or_less(backend: str) -> None:
    """The kernel maps up to 64 KiB per fault where leaves are 4 KiB (fault-around, fault_around_bytes)."""
    faults = cost_of(Mshare(backend)).minor_faults
    per_fault = 64 << 10 if backend == "shm" else PMD
    assert faults == SIZE // per_fault


def test_everything_takes_time_and_nothing_stays(backend: str) -> None:
    cost = cost_of(Mshare(backend))
    assert min(cost.process[2:]) > 0
    assert cost.create_ns > 0
    assert cost.first_touch_ns > 0
    assert mshare.regions() == []


def test_a_process_that_shares_nothing_pays_nothing() -> None:
    paid = cost_of(Nothing()).process
    assert paid.vmpte_bytes == 0
    assert paid.minor_faults <= 4  # its own page, and what else the interpreter may touch


def test_the_standard_library_goes_through_the_same_code(world: Path) -> None:
    cost = cost_of(SharedMemory())
    assert SIZE // PMD * 4096 <= cost.vmpte_bytes <= (SIZE // PMD + 4) * 4096  # not aligned to 2 MiB
    assert cost.minor_faults >= SIZE // (64 << 10)
    assert not (SHM / "mshare-test-measure").exists()


def test_a_measured_process_does_not_take_the_segment_along(world: Path) -> None:
    """Before Python 3.13 a process that ends removes the segments it has attached (cpython #82300)."""
    mechanism = SharedMemory()
    with existing(mechanism, f"mshare-test-tracker-{os.getpid()}", MIB) as memory:
        assert len(process_costs(mechanism, memory.token, runs=2, cycles=1)) == 2
        assert (SHM / f"mshare-test-tracker-{os.getpid()}").exists()


def test_the_machines_page_tables_grow_by_what_processes_say(world: Path) -> None:
    """Other programs' tables are in the figure, so it is asked up to ten times for one that nobody disturbed."""
    mechanism, size, processes = Mshare("shm"), 64 * MIB, 3
    expected = 32 * 4096 + 2 * 4096
    with existing(mechanism, "growth", size) as memory:
        grown = (page_tables_growth(mechanism, memory.token, size, processes) for _ in range(10))
        assert any(abs(growth - expected) <= expected // 4 for growth in grown)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_what_was_created_goes_when_measuring_fails(world: Path, failure: type[BaseException]) -> None:
    def fail() -> None:
        with existing(Mshare("shm"), "doomed", MIB):
            assert [info.name for info in mshare.regions()] == ["doomed"]
            raise failure

    with pytest.raises(failure):
        fail()
    assert mshare.regions() == []


def test_a_name_that_exists_is_left_alone(world: Path) -> None:
    mshare.create("theirs", MIB).close()
    with pytest.raises(FileExistsError), existing(Mshare("shm"), "theirs", MIB):
        pass
    assert [info.name for info in mshare.regions()] == ["theirs"]


def test_a_probe_that_dies_is_an_error_and_not_a_hang(world: Path) -> None:
    with pytest.raises(mshare.MshareError, match="ended with status 1"):
        process_costs(Mshare("shm"), "no such region", runs=1, cycles=1)


def test_a_slope_is_one_table_of_2_mib_leaves(world: Path) -> None:
    """The slope is one page per GiB, and one more for each 2 MiB page that a kernel short of memory has split."""
    if backends.ALL[-1].space().free_bytes < 2 * SLOPE_BYTES:
        pytest.skip("needs 4 GiB of free memory")
    slope: Slope = measure_slope(Mshare("thp"), name="slope", processes=2)
    assert 4096 <= slope.vmpte_bytes_per_gib <= 4 * 4096


@pytest.mark.parametrize(
    "mechanism", [Mshare("shm"), Nothing(), SharedMemory()], ids=lambda mechanism: str(mechanism.label)
)
def test_a_mechanism_comes_back_from_its_spec(mechanism: Mechanism) -> None:
    assert load(mechanism.spec).label == mechanism.label


def test_scan_reads_every_byte(world: Path) -> None:
    with mshare.create("scanned", MIB) as region:
        for offset in (0, 4095, 4096, MIB - 1):
            before = scan(region.buf)
            region.buf[offset] = 1
            assert scan(region.buf) != before


def test_children_see_what_mechanisms_attach(world: Path) -> None:
    mechanism = Mshare("shm")
    with existing(mechanism, "seen", MIB) as memory, closing(mechanism.attach(memory.token)) as attachment:
        assert attachment.buf is not None
        assert len(attachment.buf) == MIB


def test_a_child_that_nobody_hears_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    reader, writer = os.pipe()
    os.close(reader)
    code = "from mshare.measure.child import say; say('hello')"
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
