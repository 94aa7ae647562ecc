"""Runs inside a guest, as root, with mshare.ko built for its kernel.

MSHARE_KO names the module (default: kernel/mshare.ko).  The tests use a module that is already loaded and mounted.
MSHARE_NO_SKIPS=1 turns skips into failures.  MSHARE_STRESS_SECONDS sets how long the stress test runs.
"""

import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn

import pytest

from tests.helpers.waiting import eventually
from vm import dmesg

from . import mfs, oracle
from .programs import Program
from .regions import Regions

HERE = pathlib.Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only_if(condition): the test is for kernels and machines of that kind")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Do not collect tests that cannot run here, because a skip would count as a failure."""
    kept = [item for item in items if all(mark.args[0] for mark in item.iter_markers("only_if"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def is_mounted() -> bool:
    with open("/proc/self/mounts") as f:
        return any(line.split()[1:3] == [mfs.ROOT, "msharefs"] for line in f)


@pytest.fixture(scope="session", autouse=True)
def mounted() -> Iterator[str]:
    """The file system on /sys/fs/mshare."""
    if os.geteuid():
        _give_up("needs root in a guest")
    inserted = False
    if not os.path.isdir("/sys/module/mshare"):
        module = os.environ.get("MSHARE_KO", str(HERE.parents[1] / "kernel" / "mshare.ko"))
        if not os.path.exists(module):
            _give_up(f"no module at {module}: make -C kernel")
        subprocess.run(["insmod", module], check=True)
        inserted = True
    if not is_mounted():
        subprocess.run(["mount", "-t", "msharefs", "-o", "mode=1777,huge=advise", "msharefs", mfs.ROOT], check=True)
    yield mfs.ROOT
    if inserted:
        subprocess.run(["umount", mfs.ROOT], check=True)
        subprocess.run(["rmmod", "mshare"], check=True)


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("MSHARE_NO_SKIPS") == "1":
        pytest.exit(reason, 1)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kernel_log() -> Iterator[Callable[[], list[str]]]:
    """Return the kernel's messages since the last call, one text each.  Starting dmesg takes a tenth of a second."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)

    def new() -> list[str]:
        lines = []
        while True:
            try:
                record = os.read(fd, 8192).decode(errors="replace")
                lines.append(record.partition(";")[2].partition("\n")[0])
            except BlockingIOError:
                return lines

    yield new
    os.close(fd)


@pytest.fixture(autouse=True)
def nothing_left(mounted: str, kernel_log: Callable[[], list[str]]) -> Iterator[None]:
    """Check after each test that no name, page or inode of ours is left, and no complaint in the kernel's log."""
    kernel_log()
    before = os.statvfs(mounted)
    yield
    for name in os.listdir(mounted):
        if name != "mshare_info":
            os.unlink(f"{mounted}/{name}")

    def free() -> tuple[int, int]:
        now = os.statvfs(mounted)
        return now.f_bfree, now.f_ffree

    # A killed process releases its descriptors a moment after it can be waited for.
    wanted = before.f_bfree, before.f_ffree
    eventually(lambda: free() == wanted, f"pages or inodes leaked: {wanted} are free no more")
    new = kernel_log()
    complaints = [line for line in new if line.startswith("mshare: ")]
    complaints += [complaint.text for complaint in dmesg.scan("\n".join(new))]
    assert complaints == [], "\n".join(new)


@pytest.fixture
def region(mounted: str) -> Iterator[Regions]:
    """Make a region: region(pages, reserve=True) -> a descriptor open for both; the name is in .path."""
    made = Regions(mounted)
    yield made
    made.close()


@pytest.fixture
def placed(region: Regions) -> Iterator[tuple[int, int]]:
    """Give a region whose pages hold a pattern.  Afterwards no page has moved or lost its pattern."""
    fd = region(oracle.PLACED)
    addr = mfs.mmap(fd, mfs.UNIT)
    pages = range(oracle.PLACED)
    for page in pages:
        mfs.poke(addr + page * mfs.PAGE, page + 1)
    frames = [oracle.frame(addr + page * mfs.PAGE) for page in pages]
    yield fd, addr
    assert [mfs.peek(addr + page * mfs.PAGE) for page in pages] == [page + 1 for page in pages]
    assert [oracle.frame(addr + page * mfs.PAGE) for page in pages] == frames, "pages have moved"
    mfs.poke(addr, 1)
    assert os.pread(fd, 1, mfs.PAGE) == b"\x02"
    assert mfs.info(fd)["pages"] == oracle.PLACED
    mfs.munmap(addr, mfs.UNIT)


@pytest.fixture
def attached(region: Regions) -> Iterator[tuple[int, int]]:
    """A region of 16 reserved pages and its address, one unit, unmapped at the end."""
    fd = region(16)
    addr = mfs.mmap(fd, mfs.UNIT)
    yield fd, addr
    mfs.munmap(addr, mfs.UNIT)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Run client/ with arguments; returns its output."""
    return Program(HERE / "client", tmp_path_factory.mktemp("client"), HERE / "common")


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Run probe/ with arguments; returns its output."""
    return Program(HERE / "probe", tmp_path_factory.mktemp("probe"), HERE / "common")


@pytest.fixture(scope="session")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Run attack/ with arguments; returns its output."""
    return Program(HERE / "attack", tmp_path_factory.mktemp("attack"), HERE / "common")


@pytest.fixture
def mount() -> Iterator[Callable[[str], pathlib.Path]]:
    """Make a mount for everybody: mount("size=1m") -> its directory.  It must be possible to unmount it at the end."""
    made = []

    def make(options: str) -> pathlib.Path:
        place = pathlib.Path(tempfile.mkdtemp())  # not in tmp_path, which only root may enter
        subprocess.run(["mount", "-t", "msharefs", "-o", f"mode=1777,{options}", "m", place], check=True)
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


@pytest.fixture
def control_group() -> Iterator[Callable[..., str]]:
    """Make a cgroup: control_group("memory") -> its directory, removed at the end, when the last member is gone."""
    made: list[str] = []

    def make(controller: str | None = None) -> str:
        path = f"/sys/fs/cgroup/mshare-test{len(made)}"
        os.mkdir(path)
        made.append(path)
        if controller:
            with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f:
                f.write(f"+{controller}")
        return path

    yield make
    for path in made:
        eventually(partial(mfs.removed, path), (pathlib.Path(path) / "cgroup.procs").read_text)
