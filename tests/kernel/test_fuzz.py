"""Random system calls by many processes.  A model checks the calls on memory of one owner: see fuzz/main.c.

MSHARE_FUZZ_SECONDS, MSHARE_FUZZ_SEED and MSHARE_FUZZ_WORKERS set how long, which sequence, and how many workers.
MSHARE_FUZZ_REPLAY=WORKER.INCARNATION runs one worker alone.  MSHARE_FUZZ_SKIP=OPERATION,... leaves operations out.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from .programs import Program

SECONDS = int(os.environ.get("MSHARE_FUZZ_SECONDS", "120"))
SEED = os.environ.get("MSHARE_FUZZ_SEED", "1")
WORKERS = os.environ.get("MSHARE_FUZZ_WORKERS", "8")
REPLAY = os.environ.get("MSHARE_FUZZ_REPLAY")
SKIP = os.environ.get("MSHARE_FUZZ_SKIP", "")
SOURCE = pathlib.Path(__file__).parent / "fuzz"
TRACING = pathlib.Path("/sys/kernel/tracing")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Program(SOURCE, tmp_path_factory.mktemp("fuzz")).program


@pytest.fixture
def place() -> Iterator[pathlib.Path]:
    """A directory that every user can reach."""
    path = pathlib.Path("/run/mshare-fuzz")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["size=32m,huge=advise", "size=150m,huge=always"])
def mount(mounted: str, place: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[pathlib.Path]:
    """A small private mount, which runs out of pages and inodes, and one on which blocks are pages of 2 MiB."""
    path = place / "mount"
    path.mkdir()
    options = f"{request.param},nr_inodes=200,mode=1777"
    subprocess.run(["mount", "-t", "msharefs", "-o", options, "msharefs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture
def disk(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """An ext4 on a loop device, for O_DIRECT."""
    path = place / "disk"
    path.mkdir()
    image = place / "image"
    with image.open("wb") as f:
        f.truncate(32 << 20)
    subprocess.run(["modprobe", "loop"], check=False)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture
def groups(control_group: Callable[..., str]) -> tuple[pathlib.Path, pathlib.Path]:
    """Two memory cgroups: one is too small for the work of its members, and the fuzzer sets the limit of the other."""
    small, tight = pathlib.Path(control_group("memory")), pathlib.Path(control_group("memory"))
    (small / "memory.max").write_text("12M")
    return small, tight


@pytest.fixture
def trace() -> Iterator[None]:
    """The kernel prints the workers' lines in the trace buffer when it panics."""
    old = {}
    settings = {
        TRACING / "buffer_size_kb": "16",
        TRACING / "tracing_on": "1",
        pathlib.Path("/proc/sys/kernel/ftrace_dump_on_oops"): "1",
    }
    for path, value in settings.items():
        with contextlib.suppress(OSError):
            old[path] = path.read_text().split()[0]
            path.write_text(value)
    yield
    for path, value in old.items():
        with contextlib.suppress(OSError):
            path.write_text(value)


@pytest.mark.timeout(SECONDS + 600)
def test_random_calls(
    program: str, mount: pathlib.Path, disk: pathlib.Path, groups: tuple[pathlib.Path, pathlib.Path], trace: None
) -> None:
    words: list[str | pathlib.Path] = [program, "--dir", mount, "--scratch", disk]
    words += ["--cgroup", groups[0], "--tight", groups[1]]
    words += ["--seed", SEED, "--seconds", str(SECONDS), "--workers", WORKERS, "--skip", SKIP]
    if REPLAY:
        words += ["--replay", REPLAY]
    # The output goes into no pipe, so that it can be read even if the kernel dies.
    print(flush=True)
    log = mount.parent / "log"
    with log.open("w") as out:
        done = subprocess.run(words, stdout=out, stderr=subprocess.STDOUT, check=False, timeout=SECONDS + 500)
    text = log.read_text()
    print(text)
    assert done.returncode == 0, text
    never = set(re.findall(r"^(\w+) +0 +0 ", text, re.MULTILINE)) - set(SKIP.split(","))
    if SECONDS >= 30 and not REPLAY:
        assert not never, f"operations that never ran: {never}"
