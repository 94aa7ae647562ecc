"""Calls inside finalizers, which can run at a `del`, in the garbage collector, and at the end of the interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mshare
from mshare.testing.conformance import files

PREAMBLE = """
import atexit, builtins, gc, sys, threading, weakref
import mshare

def read(region):
    print(region.buf[0])

def close(region):
    region.close()
    print(7 if region.closed else "open")

def unlink(region):
    mshare.unlink("g")
    print(7)

def mshare_unlink(region):
    print(7 if mshare.mshare_unlink("g") else "stays")

act = CALL

class Holder:
    def __init__(self):
        self.region = mshare.attach("g")
        self.region.buf.release()

class Finalized(Holder):
    def __del__(self):
        act(self.region)
"""

PLACES = {
    "del": "holder = Finalized(); del holder",
    "end": "holder = Finalized()",
    "cycle": "holder = Finalized(); holder.me = holder; del holder; gc.collect()",
    "cycle through the region": "holder = Finalized(); holder.region.holder = holder; del holder; gc.collect()",
    "cycle with a region of its own class": (
        "class Mine(mshare.Region):\n    def __del__(self): pass\n"
        "holder = Finalized(); holder.region.__class__ = Mine; holder.region.holder = holder; del holder; gc.collect()"
    ),
    "cycle at the end": "holder = Finalized(); holder.region.holder = holder",
    "cycle at the end that nothing reaches": "gc.disable(); holder = Finalized(); holder.me = holder; del holder",
    "finalize": "holder = Holder(); weakref.finalize(holder, act, holder.region); del holder",
    "finalize at the end": "holder = Holder(); weakref.finalize(holder, act, holder.region)",
    "finalize of a cycle": (
        "holder = Holder(); holder.me = holder; weakref.finalize(holder, act, holder.region); del holder; gc.collect()"
    ),
    "callback of a reference": (
        "holder = Holder(); kept = holder.region; watch = weakref.ref(holder, lambda _: act(kept)); del holder"
    ),
    "atexit": "holder = Holder(); atexit.register(act, holder.region)",
    "generator": (
        "def work():\n    region = mshare.attach('g')\n    try:\n        yield\n    finally:\n        act(region)\n"
        "made = work(); next(made)"
    ),
    "another thread": (
        "def work():\n    holder = Finalized(); holder.me = holder; del holder; gc.collect()\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()"
    ),
    "two in one cycle": (
        "holder, other = Finalized(), Holder(); holder.other = other; other.other = holder; del holder, other; "
        "gc.collect()"
    ),
    "two in one cycle at the end": "a, b = Finalized(), Holder(); a.other = b; b.other = a; del a, b",
}

# Here the region is part of the cycle, and the finalizer knows only the name.
BY_NAME = {
    "finalize": "weakref.finalize(holder, act, None)",
    "reference": "watch = weakref.ref(holder, lambda _: act(None))",
}


def run(program: str, call: str = "read") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE.replace("CALL", call) + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def region(world: Path) -> Path:
    """Make a region that nobody is attached to. Its first byte is a 7."""
    mshare.create("g", 1 << 20, backend="shm", fill=lambda view: view.__setitem__(0, 7)).close()
    return world / "shm" / "g"


@pytest.mark.parametrize("call", ["read", "close", "unlink", "mshare_unlink"])
@pytest.mark.parametrize("place", PLACES)
def test_calls_are_right_in_finalizers(region: Path, place: str, call: str) -> None:
    done = run(PLACES[place], call)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")
    left = [] if "unlink" in call else ["g"]
    assert [path.name for path in files()] == left
    assert [info.orphan for info in mshare.regions()] == [True] * len(left)


@pytest.mark.parametrize("call", ["unlink", "mshare_unlink"])
@pytest.mark.parametrize("place", BY_NAME)
def test_a_name_is_enough_in_a_finalizer(region: Path, place: str, call: str) -> None:
    done = run(f"holder = Holder(); holder.region.holder = holder; {BY_NAME[place]}; del holder; gc.collect()", call)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")
    assert files() == []


def test_a_view_in_a_finalizer_forbids_what_a_view_forbids(region: Path) -> None:
    program = """
class Viewer(Holder):
    def __del__(self):
        for call in (self.region.close, lambda: mshare.mshare_unlink("g")):
            try:
                call()
            except BufferError:
                print(self.view[0], self.region.closed)
viewer = Viewer(); viewer.view = viewer.region.buf; viewer.me = viewer; viewer.region.viewer = viewer
del viewer; gc.collect()
print(mshare.regions()[0].orphan)
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7 False\n7 False\nTrue\n", "")


def test_a_region_that_a_finalizer_saves_stays_attached(region: Path) -> None:
    program = """
class Saved(Holder):
    def __del__(self):
        global kept
        kept = self.region
saved = Saved(); saved.region.saved = saved; del saved; gc.collect()
mshare.attach("g").close()
print(kept.buf[0], mshare.regions()[0].orphan)
kept.saved = None; kept.close()
print(mshare.regions()[0].orphan)
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7 False\nTrue\n", "")


def test_what_attaches_during_a_finalizer_finds_the_mapping(region: Path) -> None:
    """The old one is still there, and the new one outlives it."""
    program = """
class Attaches(Holder):
    def __del__(self):
        global kept
        kept = mshare.attach("g")
attaches = Attaches(); attaches.region.attaches = attaches; del attaches; gc.collect()
print(kept.buf[0], kept.addr == kept.info().addr)
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7 True\n", "")


@pytest.mark.parametrize("keep", ["builtins.kept", "sys.kept", "threading.kept", "mshare.kept", "type(sys).kept"])
def test_the_very_last_to_go_goes_in_silence(region: Path, keep: str) -> None:
    """The interpreter empties modules, ours among them, before it lets go of what others keep."""
    if keep == "type(sys).kept":
        keep = "sys.modules['encodings'].kept"
    program = f"{keep} = [mshare.attach('g'), mshare.attach('g', addr=mshare.ANYWHERE).buf, mshare.create_anonymous(9)]"
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [info.orphan for info in mshare.regions()] == [True]


@pytest.mark.parametrize("call", ["read", "close", "unlink", "mshare_unlink"])
@pytest.mark.parametrize("where", ["holder = Finalized()", "holder = Finalized(); holder.region.holder = holder"])
def test_a_thread_that_the_end_stops_in_the_middle_of_a_call_stops_nobody_else(
    region: Path, where: str, call: str
) -> None:
    """The interpreter stops daemon threads wherever they are: also where they hold our lock."""
    program = f"""
from mshare._core import mapping
holding = threading.Event()
names = dict(lock=mapping.lock, holding=holding, never=threading.Event())  # the thread keeps no other names alive
exec("def hold():\\n with lock:\\n  holding.set()\\n  never.wait()", names)
{where}
threading.Thread(target=names["hold"], daemon=True).start()
holding.wait()
"""
    done = run(program, call)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")
