"""`mshare.shared_memory`: what differs from the standard classes, and what must not.

tests/integration/test_shared_memory_model.py compares both classes, and test_shared_memory_cpython.py runs CPython's
own tests.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import shared_memory as standard
from pathlib import Path

import numpy
import pytest

import mshare
from mshare import shared_memory
from mshare.shared_memory import ShareableList, SharedMemory, SharedMemoryManager
from mshare.testing.processes import in_child
from tests.helpers.worlds import STRANGER, needs_root, window_mappings

MIB = 1 << 20
OURS, STANDARD = "mshare.shared_memory", "multiprocessing.shared_memory"


def names() -> list[str]:
    return [info.name for info in mshare.regions()]


def memory(segment: SharedMemory) -> memoryview:
    assert segment.buf is not None
    return segment.buf


def start(program: str, *arguments: str, own_group: bool = False) -> subprocess.Popen[str]:
    """Start a Python program, which tells its first line when it is ready and ends with its standard input."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=own_group,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program until its trackers have also ended: they have its standard error open."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def remove_standard(name: str) -> None:
    Path("/dev/shm", name).unlink(missing_ok=True)


# --- what programs see -----------------------------------------------------------------------------------------------


def test_a_segment_is_a_region(world: Path) -> None:
    segment = SharedMemory("r", create=True, size=10)
    (info,) = mshare.regions()
    assert (info.name, info.size, info.mode, info.pids) == ("r", 10, 0o600, (os.getpid(),))
    with mshare.attach("r", readonly=True, addr=mshare.ANYWHERE) as region:
        memory(segment)[3] = 7
        assert bytes(region.buf) == bytes([0, 0, 0, 7, 0, 0, 0, 0, 0, 0])
    segment.close()
    segment.unlink()
    assert names() == []
    assert window_mappings() == []


def test_large_segments_get_the_best_backend(world: Path) -> None:
    segment = SharedMemory("r", create=True, size=4 * MIB)
    assert mshare.regions()[0].backend == "thp"
    segment.close()
    segment.unlink()


def test_the_backend_can_be_forced(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    with SharedMemoryManager() as manager:
        segment = manager.SharedMemory(3 * MIB)
        assert [(info.name, info.backend) for info in mshare.regions()] == [(segment.name, backend)]
        assert (segment.size, len(memory(segment))) == (3 * MIB, 3 * MIB)
        segment.close()
    assert names() == []


def test_the_mode_is_the_subclass_s_and_the_umask_does_not_count(world: Path) -> None:
    class Shared(SharedMemory):
        _mode = 0o666

    before = os.umask(0o077)
    try:
        segment = Shared(create=True, size=1)
    finally:
        os.umask(before)
    assert mshare.regions()[0].mode == 0o666
    segment.close()
    segment.unlink()


@pytest.mark.parametrize("track", [True, False])
def test_no_tracker_is_ever_started(world: Path, track: bool) -> None:
    program = f"""
from multiprocessing import resource_tracker
from mshare.shared_memory import SharedMemory
segment = SharedMemory("r", create=True, size=10, track={track})
SharedMemory("r", track={track}).close()
assert resource_tracker._resource_tracker._pid is None
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert names() == ["r"]


@pytest.mark.parametrize(("name", "region"), [("r", "r"), ("/r", "r"), ("//r", "r"), ("psm_é", "psm_é")])
def test_names_are_those_of_shm_open(world: Path, name: str, region: str) -> None:
    segment = SharedMemory(name, create=True, size=1)
    assert (segment.name, names()) == (name, [region])
    for same in (name, segment.name, region):
        SharedMemory(same).close()
    segment.close()
    segment.unlink()
    assert names() == []


@pytest.mark.parametrize("name", ["", "/", "a/b", ".hidden", "a\0b", "a" * 256, "\udc80"])
@pytest.mark.parametrize("create", [True, False])
def test_invalid_names_are_refused(world: Path, name: str, create: bool) -> None:
    with pytest.raises(mshare.InvalidNameError) as caught:
        SharedMemory(name, create=create, size=1)
    assert isinstance(caught.value, (OSError, ValueError))


@needs_root
def test_another_user_s_segment_is_a_permission_error(world: Path) -> None:
    segment = SharedMemory("r", create=True, size=1)

    def try_it() -> bool:
        with pytest.raises(PermissionError, match="'r' has mode 0600"):
            SharedMemory("r")
        with pytest.raises(PermissionError, match="may not remove"):
            segment.unlink()
        segment.close()
        return mshare.regions() == []

    assert in_child(try_it, uid=STRANGER).value is True
    segment.close()
    segment.unlink()


def test_a_segment_of_the_standard_class_is_not_attached(world: Path) -> None:
    (world / "shm" / "theirs").write_bytes(bytes(4096))
    with pytest.raises(mshare.NotARegionError, match=r"if multiprocessing\.shared_memory made it"):
        SharedMemory("theirs")
    with pytest.raises(FileExistsError):
        SharedMemory("theirs", create=True, size=1)


def test_a_segment_that_does_not_fit_is_an_error_at_once(world: Path) -> None:
    with pytest.raises(OSError, match="but only") as caught:
        SharedMemory("huge", create=True, size=1 << 45)
    assert isinstance(caught.value, mshare.NoSpaceError)
    assert names() == []


# --- two objects, views and arrays -----------------------------------------------------------------------------------


def test_two_objects_of_a_process_close_independently(world: Path) -> None:
    first = SharedMemory("r", create=True, size=10)
    second = SharedMemory("r")
    view = memory(second)[2:]
    memory(first)[2] = 7
    first.close()
    assert first.buf is None
    with pytest.raises(mshare.ViewsAliveError, match="'r' are still alive"):
        second.close()
    assert (view[0], memory(second)[2]) == (7, 7)
    view.release()
    second.close()
    second.close()
    assert mshare.regions()[0].orphan
    first.unlink()


def test_an_address_that_is_taken_does_not_matter(world: Path) -> None:
    segment = SharedMemory("r", create=True, size=10)
    memory(segment)[0] = 7
    segment.close()
    addr = mshare.regions()[0].addr
    with mshare.create("other", 4096, backend="shm", addr=addr) as other:
        segment = SharedMemory("r")
        assert memory(segment)[0] == 7
        assert other.addr == addr
        segment.close()
    segment.unlink()


def test_a_read_only_attachment_of_this_process_does_not_matter(world: Path) -> None:
    segment = SharedMemory("r", create=True, size=10)
    segment.close()
    with mshare.attach("r", readonly=True) as region:
        segment = SharedMemory("r")
        memory(segment)[0] = 7
        assert region.buf[0] == 7
        segment.close()
    segment.unlink()


def test_numpy_arrays_outlive_close(world: Path) -> None:
    """`numpy.ndarray(buffer=...)` takes the memory without telling the view, as examples in Python's own manual do."""
    segment = SharedMemory("r", create=True, size=80)
    array = numpy.ndarray((10,), numpy.int64, buffer=memory(segment))
    array[:] = range(10)
    part = array[3:]
    segment.close()
    segment.unlink()
    assert segment.buf is None
    del array
    assert list(part) == [3, 4, 5, 6, 7, 8, 9]
    del part
    assert window_mappings() == []


@pytest.mark.parametrize(
    "make", [numpy.frombuffer, numpy.asarray, memoryview, lambda view: view[1:], lambda view: view.cast("b")]
)
def test_views_that_the_standard_class_knows_forbid_close(world: Path, make: type[memoryview]) -> None:
    segment = SharedMemory("r", create=True, size=8)
    view = make(memory(segment))
    with pytest.raises(BufferError):
        segment.close()
    memory(segment)[3] = 1
    del view
    segment.close()
    segment.unlink()
    assert window_mappings() == []


def test_slices_outlive_an_object_that_is_deleted(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    segment = SharedMemory("r", create=True, size=8)
    segment.unlink()
    view = memory(segment)[3:]
    del segment
    view[0] = 7
    assert (view[0], len(window_mappings())) == (7, 1)
    del view
    assert window_mappings() == []
    assert capfd.readouterr() == ("", "")


def test_the_view_of_a_closed_segment_is_released(world: Path) -> None:
    segment = SharedMemory("r", create=True, size=8)
    view = memory(segment)
    segment.close()
    with pytest.raises(ValueError, match="released memoryview"):
        view[0]
    segment.unlink()


def test_a_removed_name_that_is_used_again_belongs_to_the_newer_segment(world: Path) -> None:
    old = SharedMemory("r", create=True, size=1)
    SharedMemory("r").unlink()
    new = SharedMemory("r", create=True, size=2)
    with pytest.raises(FileNotFoundError, match="has been replaced"):
        old.unlink()
    assert names() == ["r"]
    old.close()
    new.close()
    new.unlink()


def test_a_list_that_cannot_be_made_leaves_nothing(world: Path) -> None:
    with pytest.raises(Exception, match=r"int too large|format requires|argument out of range"):
        ShareableList([1, 1 << 64])
    assert names() == []
    made = ShareableList([1], name="l")
    with pytest.raises(FileExistsError):
        ShareableList([1, 1 << 64], name="l")
    assert made[0] == 1
    made.shm.close()
    made.shm.unlink()


@pytest.mark.parametrize(
    "end",
    [
        "",
        "import builtins; builtins.kept = segment",
        "segment.me = segment",
        "view = segment.buf[1:]",
        "view = segment.buf; segment.close()",
        "import numpy; array = numpy.ndarray(10, 'u1', segment.buf); segment.close()",
        "import builtins, numpy; builtins.array = numpy.ndarray(10, 'u1', segment.buf); segment.close()",
        "import numpy; array = numpy.frombuffer(segment.buf, 'u1')",
    ],
)
def test_the_end_of_the_interpreter_is_silent(world: Path, end: str) -> None:
    done = run(f"from mshare.shared_memory import *; segment = SharedMemory('r', create=True, size=10)\n{end}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert mshare.regions()[0].orphan


def test_a_finalizer_in_a_cycle_reads_the_array_of_a_closed_segment(world: Path) -> None:
    class Holder:
        def __init__(self, segment: SharedMemory) -> None:
            self.me, self.segment, self.view = self, segment, memory(segment)
            self.array = numpy.ndarray((10,), numpy.uint8, self.view)
            self.array[:] = 7

        def __del__(self) -> None:
            read.append(int(self.array.sum()))

    read: list[int] = []
    holder = Holder(SharedMemory("r", create=True, size=10))
    holder.segment.close()
    del holder
    gc.collect()
    assert read == [70]
    assert window_mappings() == []


def test_threads_leave_no_mapping(world: Path) -> None:
    def work() -> None:
        for _ in range(20):
            segment = SharedMemory(create=True, size=10)
            other = SharedMemory(segment.name)
            memory(other)[0] = 1
            other.close()
            segment.unlink()
            segment.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert (names(), window_mappings()) == ([], [])


# --- deaths ----------------------------------------------------------------------------------------------------------

CREATOR = """
import sys
from mshare.shared_memory import SharedMemory
segment = SharedMemory("r", create=True, size=10)
segment.buf[:5] = b"hello"
print("ready", flush=True)
sys.stdin.read()
"""
READER = """
import sys
from mshare.shared_memory import SharedMemory
segment = SharedMemory("r")
print(bytes(segment.buf[:5]), flush=True)
sys.stdin.read()
print(bytes(segment.buf[:5]), flush=True)
"""


def test_kills_of_creator_and_readers_take_nothing_away(world: Path) -> None:
    creator = start(CREATOR)
    assert line(creator) == "ready"
    readers = [start(READER) for _ in range(2)]
    assert [line(reader) for reader in readers] == ["b'hello'"] * 2
    for killed in (creator, readers[0]):
        killed.kill()
        assert killed.communicate() == ("", "")
    assert readers[1].communicate() == ("b'hello'\n", "")
    assert mshare.regions()[0].orphan
    late = SharedMemory("r")
    assert bytes(memory(late)[:5]) == b"hello"
    late.close()
    assert [info.name for info in mshare.gc()] == ["r"]


def test_a_killed_manager_leaves_orphans(world: Path) -> None:
    manager = SharedMemoryManager()
    manager.start()
    segment = manager.SharedMemory(10)
    server = manager._process  # type: ignore[attr-defined]
    server.kill()
    server.join()
    memory(segment)[0] = 7
    segment.close()
    assert [info.name for info in mshare.gc()] == [segment.name]


@pytest.mark.parametrize("call", ["ftruncate", "fchmod", "link"])
def test_a_kill_while_creating_leaves_no_name(world: Path, call: str) -> None:
    program = f"""
import os, signal
from mshare.shared_memory import SharedMemory
os.{call} = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
SharedMemory("r", create=True, size=10)
"""
    assert run(program).returncode == -signal.SIGKILL
    assert names() == []
    segment = SharedMemory("r", create=True, size=10)
    segment.close()
    segment.unlink()


# --- complaints about the standard class, each shown with it and without ---------------------------------------------


@needs_root
@pytest.mark.parametrize(("module", "status"), [(OURS, 0), (STANDARD, -signal.SIGBUS)])
def test_a_full_file_system_is_an_error_at_creation(module: str, status: int) -> None:
    """cpython #114390, pytorch #5040, ray #14182: /dev/shm of a container has 64 MiB, here 1 MiB."""
    program = f"""
import errno
from {module} import SharedMemory
try:
    segment = SharedMemory(create=True, size=4 << 20)
    segment.buf[:] = bytes(4 << 20)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    assert "needs 4 MiB" in str(error), error
"""
    script = 'mount -t tmpfs -o size=1M none /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", program]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False, timeout=60).returncode == status


@pytest.mark.parametrize(("module", "stays"), [(OURS, True), (STANDARD, False)])
def test_the_exit_of_a_reader_removes_nothing(world: Path, module: str, stays: bool) -> None:
    """cpython #82300: the tracker of an unrelated reader removes the segment at the reader's end."""
    name = f"mshare-exit-{os.getpid()}"
    creator = start(
        f"import sys; from {module} import SharedMemory\n"
        "segment = SharedMemory(sys.argv[1], create=True, size=10); print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n    SharedMemory(sys.argv[1]); print('there')\nexcept FileNotFoundError:\n    print('gone')\n",
        name,
    )
    assert line(creator) == "ready"
    reader = run(f"import sys; from {module} import SharedMemory; SharedMemory(sys.argv[1]).close()", name)
    assert ("leaked shared_memory" in reader.stderr) is not stays
    output, _ = creator.communicate("\n")
    remove_standard(name)
    assert output.strip() == ("there" if stays else "gone")


def test_segments_that_a_kill_leaves_behind_are_found_and_removed(world: Path) -> None:
    """vllm #51579: a container's end kills the trackers as well, and the standard segments stay."""
    program = (
        "import sys; from {} import SharedMemory\n"
        "segment = SharedMemory(create=True, size=10); print(segment.name, flush=True); sys.stdin.read()"
    )
    left = []
    for module in (OURS, STANDARD):
        creator = start(program.format(module), own_group=True)
        left.append(line(creator))
        os.killpg(creator.pid, signal.SIGKILL)
        creator.communicate()
    assert Path("/dev/shm", left[1]).exists()
    remove_standard(left[1])
    assert [(info.name, info.orphan) for info in mshare.regions()] == [(left[0], True)]
    assert [info.name for info in mshare.gc()] == [left[0]]


@pytest.mark.parametrize(("module", "usable"), [(OURS, True), (STANDARD, False)])
def test_a_half_made_segment_does_not_stop_the_restart(world: Path, module: str, usable: bool) -> None:
    """boost.interprocess #128, iceoryx2 #1584: the creator is killed before the segment has its size."""
    name = f"mshare-half-{os.getpid()}"
    program = f"""
import os, signal, sys
from {module} import SharedMemory
KILL
try:
    try:
        SharedMemory(sys.argv[1], create=True, size=10)
    except FileExistsError:
        SharedMemory(sys.argv[1])
    print("usable")
except ValueError as error:
    print(error)
"""
    killed = run(program.replace("KILL", "os.ftruncate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"), name)
    assert killed.returncode == -signal.SIGKILL
    restarted = run(program.replace("KILL", ""), name).stdout.strip()
    remove_standard(name)
    assert restarted == ("usable" if usable else "cannot mmap an empty file")


@pytest.mark.parametrize(("module", "status"), [(OURS, 0), (STANDARD, -signal.SIGSEGV)])
def test_an_array_of_a_closed_segment_does_not_crash(world: Path, module: str, status: int) -> None:
    """numpy #23305, cpython #115635."""
    program = f"""
import numpy
from {module} import SharedMemory
segment = SharedMemory(create=True, size=1 << 20)
array = numpy.ndarray((10,), buffer=segment.buf)
array[:] = 7
segment.close()
segment.unlink()
assert array.sum() == 70
"""
    assert run(program).returncode == status


# --- install ---------------------------------------------------------------------------------------------------------

PROGRAM = """
from multiprocessing import get_context, shared_memory
from multiprocessing.managers import SharedMemoryManager

def work(name):
    segment = shared_memory.SharedMemory(name)
    print(segment.buf[0], type(segment).__module__, flush=True)
    segment.close()

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = get_context(method)
        with SharedMemoryManager(ctx=context) as manager:
            segment = manager.SharedMemory(size=10)
            segment.buf[0] = 7
            child = context.Process(target=work, args=(segment.name,))
            child.start()
            child.join()
            print(len(manager.ShareableList(range(3))), child.exitcode, flush=True)
"""


def test_one_line_is_enough_for_a_program(world: Path, tmp_path: Path) -> None:
    """The line is the first of the main module, so that children of every start method have it."""
    program = tmp_path / "program.py"
    program.write_text("import mshare.shared_memory; mshare.shared_memory.install()\n" + PROGRAM)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["7 mshare.shared_memory", "3 0"] * 3
    assert names() == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_manager_s_process_uses_our_classes_without_install(world: Path, method: str) -> None:
    """The main module is a string, which the manager's process cannot run again."""
    program = f"""
import multiprocessing
from multiprocessing.shared_memory import SharedMemory    # by a library, say; no warning is due
from mshare.shared_memory import SharedMemoryManager
multiprocessing.set_start_method({method!r})
with SharedMemoryManager() as manager:
    print(type(manager.ShareableList([1])).__module__, type(manager.SharedMemory(3)).__module__)
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "mshare.shared_memory mshare.shared_memory\n", "")
    assert names() == []


def test_install_names_the_modules_that_are_too_early(world: Path) -> None:
    program = """
import sys, types, warnings
early, subclass = types.ModuleType("early"), types.ModuleType("subclass")
sys.modules |= {"early": early, "subclass": subclass}
exec("from multiprocessing.shared_memory import SharedMemory", vars(early))
exec("from multiprocessing import shared_memory\\nclass Mine(shared_memory.SharedMemory): pass", vars(subclass))
import mshare.shared_memory
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    mshare.shared_memory.install()
    mshare.shared_memory.install()
(warning,) = caught
assert "early, subclass. Call install()" in str(warning.message), warning
assert warning.filename == "<string>"
from multiprocessing import managers, shared_memory
assert shared_memory.SharedMemory is mshare.shared_memory.SharedMemory
assert shared_memory.ShareableList is mshare.shared_memory.ShareableList
assert managers.SharedMemoryManager is mshare.shared_memory.SharedMemoryManager
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_import_alone_changes_nothing() -> None:
    assert shared_memory.__all__ == ["ShareableList", "SharedMemory", "SharedMemoryManager", "install"]
    assert standard.SharedMemory.__module__ == standard.__name__
