"""Runs inside a guest, as root, with mshare.ko built for its kernel.

MSHARE_KO names the module (default: kernel/mshare.ko).  A module that is loaded and mounted already is used as it is.
MSHARE_NO_SKIPS=1 turns skips into failures.  MSHARE_STRESS_SECONDS sets how long the stress test runs.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import mfs
import probe as oracle

HERE = pathlib.Path(__file__).parent
COMPLAINTS = (
    "BUG:",
    "WARNING:",
    "Oops",
    "INFO: possible",
    "Bad page",
    "bad pmd",
    "bad pud",
    "Bad rss",
    "soft lockup",
    "rcu_sched self-detected",
    "non-zero pgtables",
    "mshare: ",
)


def pytest_configure(config):
    config.addinivalue_line("markers", "only_if(condition): the test is for kernels and machines of that kind")


def pytest_collection_modifyitems(config, items):
    """What cannot be tested here is not collected.  A skip would count as a failure."""
    kept = [item for item in items if all(mark.args[0] for mark in item.iter_markers("only_if"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def is_mounted():
    with open("/proc/self/mounts") as f:
        return any(line.split()[1:3] == [mfs.ROOT, "msharefs"] for line in f)


@pytest.fixture(scope="session", autouse=True)
def mounted():
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
        subprocess.run(["mount", "-t", "msharefs", "-o", "mode=1777", "msharefs", mfs.ROOT], check=True)
    yield mfs.ROOT
    if inserted:
        subprocess.run(["umount", mfs.ROOT], check=True)
        subprocess.run(["rmmod", "mshare"], check=True)


def _give_up(reason):
    if os.environ.get("MSHARE_NO_SKIPS") == "1":
        pytest.exit(reason, 1)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kernel_log():
    """What the kernel has said since the last call.  Starting dmesg for it takes a tenth of a second and more."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)

    def new():
        lines = []
        while True:
            try:
                lines.append(os.read(fd, 8192).decode(errors="replace"))
            except BlockingIOError:
                return lines

    yield new
    os.close(fd)


@pytest.fixture(autouse=True)
def nothing_left(mounted, kernel_log):
    """After each test: no name, page or inode of ours is left, no complaint in the kernel's log."""
    kernel_log()
    before = os.statvfs(mounted)
    yield
    for name in os.listdir(mounted):
        if name != "mshare_info":
            os.unlink(f"{mounted}/{name}")

    def free():
        now = os.statvfs(mounted)
        return now.f_bfree, now.f_ffree

    # A killed process lets go of its descriptors a moment after it can be waited for.
    wanted = before.f_bfree, before.f_ffree
    mfs.eventually(lambda: free() == wanted, f"pages or inodes leaked: {wanted} are free no more")
    new = kernel_log()
    assert not [line for line in new if any(word in line for word in COMPLAINTS)], "".join(new)


@pytest.fixture
def region(mounted):
    """Make a region: region(pages, reserve=True) -> a descriptor open for both; the name is in .path."""
    made = []

    def make(pages=16, reserve=True, name="region", mode=0o600):
        path = f"{mounted}/{name}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        made.append(fd)
        if reserve:
            mfs.fallocate(fd, 0, 0, pages * mfs.PAGE)
        else:
            os.ftruncate(fd, pages * mfs.PAGE)
        return fd

    make.path = f"{mounted}/region"
    yield make
    for fd in made:
        os.close(fd)


@pytest.fixture
def placed(region):
    """A region whose pages hold a pattern; afterwards all are where they were and hold it still."""
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
def attached(region):
    """A region of 16 reserved pages and its address, one unit, unmapped at the end."""
    fd = region(16)
    addr = mfs.mmap(fd, mfs.UNIT)
    yield fd, addr
    mfs.munmap(addr, mfs.UNIT)


def compiled(tmp_path_factory, name):
    """Compile name.c or name/*.c; returns a function that runs it with arguments and returns its output."""
    program = tmp_path_factory.mktemp(name) / name
    sources = sorted((HERE / name).glob("*.c")) or [HERE / f"{name}.c"]
    command = ["gcc", "-O1", "-Wall", "-Wno-unused-result", "-pthread", "-o", program, *sources]
    subprocess.run(command, check=True)

    def run(*args, timeout=300):
        # Without randomised addresses two runs need the same private page tables.
        command = ["setarch", "-R", program, *map(str, args)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.program = str(program)
    return run


@pytest.fixture(scope="session")
def client(tmp_path_factory):
    """Run client/ with arguments; returns its output."""
    return compiled(tmp_path_factory, "client")


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """Run probe.c with arguments; returns its output."""
    return compiled(tmp_path_factory, "probe")


@pytest.fixture(scope="session")
def attack(tmp_path_factory):
    """Run attack.c with arguments; returns its output."""
    return compiled(tmp_path_factory, "attack")


@pytest.fixture
def mount():
    """Make a mount for everybody: mount("size=1m") -> its directory.  It must be possible to unmount it at the end."""
    made = []

    def make(options):
        place = pathlib.Path(tempfile.mkdtemp())  # not in tmp_path, which only root may enter
        subprocess.run(["mount", "-t", "msharefs", "-o", f"mode=1777,{options}", "m", place], check=True)
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


@pytest.fixture
def control_group():
    """Make a cgroup: control_group("memory") -> its directory, removed at the end, when the last member is gone."""
    made = []

    def make(controller=None):
        path = f"/sys/fs/cgroup/mshare-test{len(made)}"
        os.mkdir(path)
        made.append(path)
        if controller:
            with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f:
                f.write(f"+{controller}")
        return path

    yield make
    for path in made:
        mfs.eventually(lambda path=path: mfs.removed(path), "the cgroup is still in use")
