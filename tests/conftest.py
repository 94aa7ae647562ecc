"""Fixtures that all tests share: a private world for each test, real huge pages, and skips that CI makes failures."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import settings

from mshare._core.linux.mounts import private

settings.register_profile("mshare", deadline=None)  # on a busy machine any example can take long
settings.load_profile("mshare")

HUGE_PAGES = 96
"""2 MiB pages that tests of backend `hugetlb` may use at once: 192 MiB."""

_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


def pytest_configure() -> None:
    """Make a test's world independent of the program that starts the tests.

    Mounts of tests are hidden from other processes. A guest is ours alone, so its mounts are not hidden: the module's
    tests unmount for all processes. A shell starts a background job with SIGINT ignored, and the job's processes
    inherit the setting. Python's readline sets COLUMNS and LINES, so that a worker of pytest-xdist has them. Without
    bytecode each of the hundreds of commands that tests start compiles the whole package.
    """
    if not Path("/sys/module/mshare").exists():
        private()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("COLUMNS", "LINES", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
        os.unsetenv(name)  # readline sets the variable in C, where os.environ does not see it


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give all tests that are marked `machine`, or use the pool of huge pages, to one worker of pytest-xdist.

    This hook has to run before the hook of pytest-xdist, which reads the groups and is registered later.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.get_closest_marker("machine") or _uses_huge_pages(item):
            item.add_marker(pytest.mark.xdist_group("machine"))


def _uses_huge_pages(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    fixtures = item.fixturenames if isinstance(item, pytest.Function) else []
    return "hugetlb" in parameters.values() or not {"huge_pages", "grow_pool", "pool_turn"}.isdisjoint(fixtures)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Fail a test that leaves a signal with another handler. A later test's child processes would inherit the handler:
    `multiprocessing.Pool` ends its workers by SIGTERM, and waited forever for one that has a handler."""
    before = _handlers()
    yield
    assert _handlers() == before, "the test has left another handler for a signal"


def _handlers() -> dict[int, object]:
    timeouts = {signal.SIGALRM}  # pytest-timeout's
    return {number: signal.getsignal(number) for number in signal.valid_signals() - timeouts}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With MSHARE_NO_SKIPS=1 (CI) a skip is a failure: say in the test's reason what the machine lacks, and fix it."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("MSHARE_NO_SKIPS") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, and skips are failures here: {report.longrepr}"
    return report


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an empty MSHARE_ROOT on tmpfs for one test. The fixture checks nothing and removes everything."""
    root = Path(mkdtemp(prefix="mshare-test-", dir="/dev/shm"))
    root.chmod(0o755)
    shm = root / "shm"
    shm.mkdir()
    shm.chmod(0o1777)
    monkeypatch.setenv("MSHARE_ROOT", str(root))
    monkeypatch.delenv("MSHARE_BACKEND", raising=False)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def huge_pages() -> Iterator[int]:
    """A pool of free 2 MiB pages, given back at the end of the session."""
    if os.geteuid() != 0:
        pytest.skip("needs root to set vm.nr_hugepages and mount hugetlbfs")
    gained = _resize_pool(HUGE_PAGES)
    try:
        if gained < HUGE_PAGES:
            pytest.skip(f"the kernel gave {gained} huge pages, not {HUGE_PAGES}")
        yield HUGE_PAGES
    finally:
        _resize_pool(-gained)


@pytest.fixture
def grow_pool() -> Iterator[Callable[[int], int]]:
    """Give a function that adds 2 MiB pages to the pool and returns their number. The test's end gives them back."""
    gained: list[int] = []

    def grow(pages: int) -> int:
        gained.append(_resize_pool(pages))
        return gained[-1]

    yield grow
    _resize_pool(-sum(gained))


def _resize_pool(by: int) -> int:
    """Change the pool by so many pages and return the real change. Sessions that run at the same time take turns. Each
    adds and removes pages and never sets the total, so that no session takes another's pages."""
    with _POOL.open() as turn:
        flock(turn, LOCK_EX)
        before = int(_POOL.read_text())
        _POOL.write_text(str(max(0, before + by)))
        return int(_POOL.read_text()) - before


@pytest.fixture
def pool_turn() -> Iterator[None]:
    """Hold the turn of `_resize_pool` during a test whose program changes the pool. A test cannot also use `grow_pool`,
    which takes the turn for itself."""
    if not _POOL.exists():
        yield
        return
    with _POOL.open() as turn:
        flock(turn, LOCK_EX)
        yield


@pytest.fixture
def hugetlb_world(world: Path, huge_pages: int) -> Iterator[Path]:
    """`world`, with a hugetlbfs in it."""
    mount_point = world / "hugetlb"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "hugetlbfs", "-o", "mode=1777,pagesize=2M", "none", str(mount_point)], check=True)
    try:
        yield world
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


@pytest.fixture(params=["shm", "thp", "hugetlb"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn, by name, with a world in which it works.

    `msharefs` is not among them: it needs a kernel module that no test inserts into the host's kernel. The same suites
    run on it inside a guest, where `python3 -m vm test` has inserted it: tests/kernel/test_backend.py.
    """
    name = str(request.param)
    request.getfixturevalue("hugetlb_world" if name == "hugetlb" else "world")
    return name


@pytest.fixture(params=["shm", "thp", "hugetlb"])
def nameless(request: pytest.FixtureRequest, world: Path) -> str:
    """Each backend in turn, by name, able to create regions without a name: no mount is needed for those."""
    if request.param == "hugetlb":
        request.getfixturevalue("huge_pages")
    return str(request.param)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a Unix socket."""
    here, there = socket.socketpair()
    with here, there:
        yield here, there
