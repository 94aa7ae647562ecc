"""Nothing can reach memory that is not mapped any more. No file of another user stops a listing."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mshare

PREAMBLE = """
import gc, mshare, numpy
mshare.create("g", 1 << 20, fill=lambda view: view.__setitem__(0, 7)).close()
"""

READS_IN_DEL = """
class Holder:
    def __init__(self):
        self.region = mshare.attach("g"); self.view = self.region.buf; self.me = self
    def __del__(self):
        print(self.view[0])
holder = Holder(); del holder; gc.collect()
"""

RESURRECTS = """
class Table:
    def __init__(self):
        self.array = mshare.attach("g").ndarray("u1", 16); self.me = self
    def __del__(self):
        global kept
        kept = self
table = Table(); del table; gc.collect()
print(kept.array[0])
"""

GENERATOR = """
def worker(box):
    with mshare.attach("g") as region:
        view = region.buf
        try:
            yield
        finally:
            print(view[0]); view.release()
box = []; made = worker(box); box.append(made); next(made); del made, box; gc.collect()
"""

AT_EXIT = """
import atexit
atexit.register(lambda: print(7 if mshare.mshare_unlink("g") else "stays"))
kept = mshare.attach("g")
"""


@pytest.mark.parametrize(
    "program", [READS_IN_DEL, RESURRECTS, GENERATOR, AT_EXIT], ids=["del", "resurrected", "generator", "atexit"]
)
def test_what_can_be_reached_is_mapped(world: Path, program: str) -> None:
    run = subprocess.run([sys.executable, "-c", PREAMBLE + program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "7\n"), run


def test_a_collected_cycle_gives_the_memory_back(world: Path) -> None:
    mshare.create("g", 1 << 20).close()
    program = (
        "import gc, mshare\nclass C: pass\n"
        "c = C(); c.region = mshare.attach('g'); c.view = c.region.buf; c.me = c\n"
        "del c; gc.collect(); print(mshare.regions()[0].orphan)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"


def test_an_array_of_no_elements_and_one_of_negative_shape(world: Path) -> None:
    pytest.importorskip("numpy")
    with mshare.create("r", 4096) as region:
        assert region.ndarray("f8", 0).shape == (0,)
        assert region.ndarray("f8", (3, 5)).shape == (3, 5)
        for shape in ((2, -3), (1 << 20,)):
            with pytest.raises(mshare.InvalidSizeError):
                region.ndarray("f8", shape)


def test_an_array_of_python_objects_or_a_writable_one_of_a_read_only_region_is_refused(world: Path) -> None:
    numpy = pytest.importorskip("numpy")
    mshare.create("r", 4096).close()
    with mshare.attach("r", readonly=True) as region:
        for dtype in (object, [("a", "i4"), ("b", object)]):
            with pytest.raises(mshare.InvalidArgumentError):
                region.ndarray(dtype, 1)
        array = region.ndarray("u1", 16)
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        assert isinstance(array, numpy.ndarray)
        del array


def test_what_watches_an_exporter_is_nothing_the_collector_tracks(world: Path) -> None:
    """The collector would otherwise call us before the last user of the memory is gone."""
    with mshare.create("r", 4096) as region:
        assert not gc.is_tracked(vars(region.buf.obj)["anchor"])


def test_waiting_for_a_region_takes_no_memory(world: Path) -> None:
    """A client may look for its server's region for days."""

    def look(times: int) -> None:
        for _ in range(times):
            with pytest.raises(mshare.RegionNotFoundError):
                mshare.attach("not-yet")

    look(3)
    gc.collect()
    before = len(gc.get_objects())
    look(211)
    gc.collect()
    assert len(gc.get_objects()) - before < 211


def test_a_lease_of_a_hostile_owner_stops_nobody_else(world: Path) -> None:
    mshare.create("leased", 4096).close()
    mshare.create("mine", 4096).close()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the signal by which the kernel asks for a lease back
    with (world / "shm" / "leased").open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert [info.name for info in mshare.regions()] == ["mine"]
        mshare.create("another", 4096).close()
        for call in (mshare.attach, mshare.unlink, mshare.mshare_unlink):
            with pytest.raises(mshare.RegionBusyError, match="lease"):
                call("leased")
        assert {info.name for info in mshare.gc()} == {"mine", "another"}
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    assert [info.name for info in mshare.gc()] == ["leased"]
    signal.signal(signal.SIGIO, before)
    assert os.listdir(world / "shm") == []
