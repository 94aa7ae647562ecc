"""`mshare run` on msharefs: the preload library in real programs, with the module."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from mshare._tools.preload import library
from tests.helpers.waiting import eventually

from . import mfs

PROGRAMS = pathlib.Path(__file__).parents[1] / "preload"
MIB = 1 << 20
SIZE = 66 * MIB
STRANGER = 54321
ON_MSHAREFS = "shared page tables (msharefs)"

DIFFERENCES = [
    ("mprotect to read: 0", "mprotect to read: -1 EACCES"),
    ("store where only reading is allowed: SIGSEGV", "store where only reading is allowed: stored 4"),
    ("mprotect of one page to nothing: 0", "mprotect of one page to nothing: -1 EACCES"),
    ("load where nothing is allowed: SIGSEGV", "load where nothing is allowed: loaded 0"),
    ("second half: SIGSEGV", "second half: loaded 0"),
    ("what was unmapped: SIGSEGV", "what was unmapped: loaded 4"),
    ("the middle: SIGSEGV", "the middle: loaded 0"),
]
"""docs/databases.md, "What differs on msharefs", as lines of tests/preload/api.c: elsewhere, and on msharefs."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with the programs, which everybody may execute."""
    place = pathlib.Path("/tmp/mshare-programs")
    place.mkdir(mode=0o755)
    for name in ("api", "forks", "holder", "map"):
        command: list[str | pathlib.Path] = ["gcc", "-O1", "-pthread", "-o", place / name, PROGRAMS / f"{name}.c"]
        subprocess.run(command, check=True)
    return place


@pytest.fixture(scope="module")
def preload() -> str:
    return str(library.ensure())


Started = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def start(preload: str, programs: pathlib.Path) -> Started:
    """Run a program with the library: start("asked", "holder", ...) -> the ended process."""

    def run(asked: str, program: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [programs / program, *map(str, arguments)],
            env={**os.environ, "LD_PRELOAD": preload, "MSHARE_RUN": asked},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    return run


def test_calls_do_the_same_but_for_what_is_documented(start: Started, programs: pathlib.Path) -> None:
    plain = subprocess.run([programs / "api"], capture_output=True, text=True, check=True).stdout
    done = start("", "api")
    assert done.returncode == 0
    assert ON_MSHAREFS in done.stderr
    pairs = zip(plain.splitlines(), done.stdout.splitlines(), strict=True)
    assert [(one, other) for one, other in pairs if one != other] == DIFFERENCES


def test_a_program_that_ignores_rights_finds_mprotect_successful(start: Started) -> None:
    done = start("mprotect=ignore", "api")
    assert "mprotect to read: 0\nstore where only reading is allowed: stored 4\n" in done.stdout


CHILD_READS = """
import mmap, os, re, resource
def vmpte():
    return int(re.search(r"VmPTE:\\s+(\\d+)", open("/proc/self/status").read())[1])
memory = mmap.mmap(-1, 64 << 20)
for at in range(0, len(memory), 4096):
    memory[at] = 7
if os.fork() == 0:
    total = sum(memory[at] for at in range(0, 1 << 20, 4096))
    before = vmpte(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for at in range(0, len(memory), 4096):
        total += memory[at]
    after = vmpte(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(total, after[0] - before[0], after[1] - before[1], flush=True)
    os._exit(0)
os.wait()
"""


def test_a_child_pays_no_page_table_and_no_fault(preload: str) -> None:
    """Reading 64 MiB takes 16,384 faults and 128 KiB of page tables elsewhere. What is left is Python's: a few faults,
    and a page table where one of these is the first in its 2 MiB."""
    environment = {**os.environ, "LD_PRELOAD": preload, "MSHARE_RUN": "quiet=yes"}
    command = [sys.executable, "-S", "-c", CHILD_READS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    total, tables, faults = map(int, done.stdout.split())
    assert total == 7 * (16384 + 256)
    assert tables <= 8
    assert faults <= 8
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "asked", "reason"),
    [
        ("size=40m", "", "msharefs has "),
        ("size=66m", "", "msharefs did not give the memory: ENOSPC"),
        ("size=1g,mode=0755", "", "EACCES"),
        ("size=1g,ro", "", "EROFS"),
    ],
)
def test_where_msharefs_gives_nothing_the_program_has_2_mib_leaves(
    start: Started, mount: Callable[[str], pathlib.Path], options: str, asked: str, reason: str
) -> None:
    place = mount(options)
    if "mode" in options:
        place.chmod(0o755)
    done = start(
        f"root={place},fill=ahead", "holder", "anonymous", SIZE, user=STRANGER, group=STRANGER, extra_groups=[]
    )
    assert done.stdout == "ready\n"
    line = done.stderr.splitlines()[-1]  # a slow guest says before how far it is
    assert "33 of 33 blocks" in line
    assert reason in line


def test_without_a_mount_the_line_says_so(start: Started, tmp_path: pathlib.Path) -> None:
    assert "no msharefs is mounted on" in start(f"root={tmp_path}", "holder", "anonymous", SIZE).stderr
    assert "nothing is mounted on" in start("root=/no/such/place", "holder", "anonymous", SIZE).stderr


KEEPS = """
import mmap, os, sys
memory = mmap.mmap(-1, 64 << 20)
memory[0] = 7
print("mapped", flush=True)
sys.stdin.readline()
if os.fork() == 0:
    memory[8 << 20] = memory[0] + 1
    os._exit(0)
os.wait()
more = mmap.mmap(-1, 64 << 20)
more[0] = 1
print(memory[8 << 20], more[0])
"""


def test_a_program_keeps_its_memory_when_msharefs_is_unmounted_lazily(preload: str) -> None:
    """Its forks share the memory, also pages that nobody had touched before. New memory is the program's own."""
    users = pathlib.Path("/sys/module/mshare/refcnt")
    before = users.read_text()
    place = tempfile.mkdtemp()
    subprocess.run(["mount", "-t", "msharefs", "-o", "mode=1777,size=1g", "m", place], check=True)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", KEEPS],
        env={**os.environ, "LD_PRELOAD": preload, "MSHARE_RUN": f"root={place}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mapped\n"
    subprocess.run(["umount", "--lazy", place], check=True)
    os.rmdir(place)
    output, errors = process.communicate("\n")
    assert (process.returncode, output) == (0, "8 1\n"), errors
    first, second = (line for line in errors.splitlines() if " of 64 MiB at " in line)
    assert ON_MSHAREFS in first
    assert f"nothing is mounted on {place}" in second
    eventually(lambda: users.read_text() == before, "the unmounted file system has not gone")


def test_memory_that_is_required_of_msharefs_is_refused_elsewhere(
    start: Started, mount: Callable[[str], pathlib.Path]
) -> None:
    place = mount("size=40m")
    done = start(f"root={place},backend=msharefs,require=yes", "holder", "anonymous", SIZE)
    assert done.stdout == "refused ENOMEM\n"
    assert "the call fails with ENOMEM" in done.stderr
    done = start("backend=msharefs,require=yes", "holder", "anonymous", SIZE)
    assert done.stdout == "ready\n"
    assert ON_MSHAREFS in done.stderr


@pytest.mark.parametrize("kind", ["sysv", "posix", "memfd"])
def test_objects_that_others_can_find_never_lie_on_msharefs(start: Started, kind: str) -> None:
    done = start("fill=ahead", "holder", kind, SIZE)
    assert done.stdout == "ready\n"
    assert ON_MSHAREFS not in done.stderr
    assert "33 of 33 blocks" in done.stderr


@pytest.mark.parametrize("limit", ["memory.max", "memory.high"])
def test_a_control_group_of_version_2_with_little_room(
    start: Started, control_group: Callable[[str], str], programs: pathlib.Path, limit: str
) -> None:
    """The group has room for half of the memory: nothing is filled ahead, and no process is killed for it."""
    group = control_group("memory")
    pathlib.Path(group, limit).write_text(str(SIZE // 2))

    def join() -> None:
        pathlib.Path(group, "cgroup.procs").write_text(str(os.getpid()))

    for backend in ("auto", "thp"):
        done = start(f"backend={backend},fill=ahead", "map", preexec_fn=join)
        assert (done.returncode, done.stdout) == (0, "mapped\n"), done
        assert "the control group has " in done.stderr


def test_a_threaded_program_forks_in_the_middle_of_mmap(start: Started) -> None:
    done = start("min=2M,quiet=yes", "forks")
    assert done.stdout == "0 of 211 failed\n"


def test_more_mappings_than_the_kernel_takes(preload: str) -> None:
    program = (
        "import mmap; all = [mmap.mmap(-1, 2 << 20) for _ in range(1030)]; all[-1][0] = all[0][0] = 1; print(len(all))"
    )
    environment = {**os.environ, "LD_PRELOAD": preload, "MSHARE_RUN": "min=2M,fill=never"}
    command = [sys.executable, "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "1030\n"
    lines = done.stderr.splitlines()
    assert sum(ON_MSHAREFS in line for line in lines) == 1024
    assert sum("aligned to 2 MiB" in line for line in lines) == 6


def test_a_kill_in_the_middle_of_mmap_leaves_nothing(preload: str, programs: pathlib.Path) -> None:
    """The fixture `nothing_left` counts names, pages and inodes afterwards."""
    environment = {**os.environ, "LD_PRELOAD": preload, "MSHARE_RUN": "fill=ahead,quiet=yes"}
    for least in (0, 4 * MIB, 64 * MIB, 256 * MIB):
        process = subprocess.Popen(
            [programs / "holder", "anonymous", str(512 * MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        eventually(partial(holds, process, least), "no page was reserved")
        process.kill()
        assert process.wait() == -9
        assert process.stdin is not None
        process.stdin.close()


def holds(process: subprocess.Popen[bytes], least: int) -> bool:
    """Tell whether msharefs has given out more than that many bytes, or the process has ended."""
    space = os.statvfs(mfs.ROOT)
    return process.poll() is not None or (space.f_blocks - space.f_bfree) * space.f_frsize > least
