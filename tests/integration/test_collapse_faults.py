"""`mshare collapse` that is ended, or whose target ends, on machines that are short of something or forbid the work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mshare._core.geometry import PAGE, PMD
from mshare._core.linux import incore
from mshare._tools.lab import limit
from mshare._tools.lab.run import V2
from mshare._tools.scan.case import SHMEM_ENABLED
from tests.helpers.mappers import LONELY, Mapping, mapped
from tests.helpers.terminal import Terminal
from tests.helpers.worlds import needs_root

from .test_collapse import BLOCKS, MSHARE, SIZE, collapse, document, link, memory_bytes

pytestmark = needs_root

HOOKED = """
import os, signal, sys
from mshare._core.linux import libc
from mshare.__main__ import main
call, number = libc.process_madvise, 0
at, when, pids = int(sys.argv[1]), sys.argv[2], [int(pid) for pid in sys.argv[3].split(",")]
def hooked(*arguments):
    global number
    number += 1
    for moment in ("before", "after"):
        if (number, moment) == (at, when):
            for pid in pids:
                os.kill(pid or os.getpid(), signal.SIGKILL)
        if moment == "before":
            call(*arguments)
libc.process_madvise = hooked
sys.exit(main(sys.argv[4:]))
"""
"""mshare that kills processes before or after its Nth call of the kernel; 0 is the command itself."""


def killing(at: int, when: str, pids: tuple[int, ...], *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HOOKED, str(at), when, ",".join(map(str, pids)), "collapse", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def object_of(pid: int) -> Iterator[int]:
    """Open the object that a process maps, to look at it also when the process has ended."""
    fd = os.open(link(pid, LONELY), os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def huge_blocks(fd: int) -> int:
    return sum(each.huge for each in incore.blocks(fd, SIZE))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [1, 7, BLOCKS])
def test_killed_in_the_middle_it_leaves_what_is_done(at: int, when: str) -> None:
    with mapped(Mapping("memfd", SIZE, processes=3)) as found, object_of(found.pids[0]) as fd:
        assert killing(at, when, (0,), "--pid", found.pids[0]).returncode == -signal.SIGKILL
        done = at if when == "after" else at - 1
        assert huge_blocks(fd) == done
        assert os.fstat(fd).st_blocks * 512 == SIZE
        again = document("--pid", found.pids[1])
        assert again["blocks"]["huge"] == done
        if done < BLOCKS:
            assert again["result"]["collapsed"] == BLOCKS - done
        assert huge_blocks(fd) == BLOCKS
        assert os.pread(fd, 2, 5 * PAGE) == b"\1\0"


@pytest.mark.parametrize("when", ["before", "after"])
def test_if_the_process_that_is_used_ends_another_one_is_used(when: str) -> None:
    with mapped(Mapping("memfd", SIZE, processes=3)) as found, object_of(found.pids[2]) as fd:
        done = killing(5, when, found.pids[:1], "--pid", found.pids[1], "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert huge_blocks(fd) == BLOCKS
    (said,) = json.loads(done.stdout)["objects"]
    assert said["result"]["collapsed"] == BLOCKS
    assert said["result"]["refused"] == {}
    assert str(found.pids[0]) not in said["result"]["vmpte_after"]


def test_if_all_processes_end_it_says_so() -> None:
    with mapped(Mapping("memfd", SIZE, processes=2)) as found:
        done = killing(5, "before", found.pids, "--pid", found.pids[0])
    assert done.returncode == 3
    assert "no process maps the object any more" in done.stdout
    assert "2 processes in the meantime" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended_between_two_blocks(number: signal.Signals) -> None:
    """0.1 % of the time: after the first block it pauses."""
    with mapped(Mapping("memfd", SIZE, processes=2)) as found, object_of(found.pids[0]) as fd:
        command = [*MSHARE, "collapse", "--pid", str(found.pids[0]), "--yes", "--max-cpu", "0.1"]
        with Terminal(command) as terminal:
            terminal.until(lambda text: "/34.0 MiB" in text and "0.0/34.0" not in text)
            terminal.process.send_signal(number)
            code = terminal.end()
        assert 0 < huge_blocks(fd) < BLOCKS
    if number == signal.SIGINT:
        assert code == 130
        assert re.search(r"ended early +interrupted", terminal.text)
        assert re.search(r"VmPTE +.* before, .* now, sum of 2 processes", terminal.text)
    else:
        assert code == -signal.SIGTERM


def test_interrupted_it_still_says_as_json_what_was_done() -> None:
    with mapped(Mapping("memfd", SIZE, processes=2)) as found, object_of(found.pids[0]) as fd:
        command = [*MSHARE, "collapse", "--pid", str(found.pids[0]), "--json", "--max-cpu", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            while not huge_blocks(fd):
                assert running.poll() is None
            running.send_signal(signal.SIGINT)
            out, err = running.communicate()
        assert (running.returncode, err) == (130, "")
        (said,) = json.loads(out)["objects"]
        assert said["result"]["collapsed"] == huge_blocks(fd) < BLOCKS
        assert said["result"]["stopped"] == "interrupted"


@pytest.mark.parametrize(("answer", "code"), [("n", 130), ("y", 0)])
def test_on_a_terminal_it_asks(answer: str, code: int) -> None:
    with mapped(Mapping("memfd", SIZE, processes=2)) as found, object_of(found.pids[0]) as fd:
        with Terminal([*MSHARE, "collapse", "--pid", str(found.pids[0])]) as terminal:
            text = terminal.until(lambda text: "Collapse the warm blocks?" in text)
            assert f"{BLOCKS} warm, to be collapsed" in text
            assert huge_blocks(fd) == 0
            terminal.press(f"{answer}\r")
            assert terminal.end() == code
        assert huge_blocks(fd) == (BLOCKS if code == 0 else 0)


def under(files: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return `collapse` with other texts in files of the kernel's, by path, in a mount namespace of its own."""
    mounts = []
    for number, (path, text) in enumerate(files.items()):
        fake = tmp_path / str(number)
        fake.write_text(text)
        mounts.append(f"mount --bind {fake} {path} && ")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        script = "".join(mounts) + 'exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *MSHARE, "collapse", *map(str, words)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    return run


def test_deny_is_respected(tmp_path: Path) -> None:
    """The kernel itself refuses; tests/kernel/test_collapse.py asks it, in a guest."""
    run = under({SHMEM_ENABLED: "always within_size advise never [deny] force\n"}, tmp_path)
    with mapped(Mapping("memfd", SIZE, processes=2)) as found, object_of(found.pids[0]) as fd:
        done = run("--pid", found.pids[0])
        followed = run("--pid", found.pids[0], "--follow", "--count", 2, "--every", "0s")
        assert huge_blocks(fd) == 0
    assert done.returncode == 8
    assert "is deny" in done.stdout
    assert "mshare collapse works with never" in done.stdout
    assert followed.returncode == 0
    assert followed.stdout.count("is deny") == 1


def meminfo(**fields: int) -> str:
    """Return /proc/meminfo with some lines changed, in kB."""
    text = Path("/proc/meminfo").read_text()
    for name, size in fields.items():
        text = re.sub(rf"^{name}:.*$", f"{name}: {size:>8} kB", text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("swap", [0, 4 << 20], ids=["no swap", "swap"])
def test_it_stops_before_memory_is_short(swap: int, tmp_path: Path) -> None:
    """With swap only free memory counts: the kernel then has no reason to swap."""
    fields = {"MemTotal": 64 << 20, "SwapTotal": swap, "SwapFree": swap}
    room = {"MemFree": 2 << 20, "MemAvailable": 1 << 10} if not swap else {"MemFree": 1 << 10, "MemAvailable": 2 << 20}
    run = under({"/proc/meminfo": meminfo(**fields, **room)}, tmp_path)
    with mapped(Mapping("memfd", SIZE, processes=2)) as found, object_of(found.pids[0]) as fd:
        done = run("--pid", found.pids[0])
        assert huge_blocks(fd) == 0
    assert done.returncode == 6
    assert f"0 B of {'free' if swap else 'available'} memory to spare" in done.stdout


def test_a_control_group_at_its_limit_stops_it_and_nobody_is_killed() -> None:
    with limit.control_group(1 << 30) as group:
        assert group.group is not None
        enter = ("sh", "-c", f'echo $$ > {group.group}/cgroup.procs && exec "$@"', "sh")
        with mapped(Mapping("memfd", SIZE, processes=2), *enter) as found, object_of(found.pids[0]) as fd:
            names = (
                ("memory.max", "memory.current")
                if group.kind == V2
                else (
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                )
            )
            used = int((group.group / names[1]).read_text())
            (group.group / names[0]).write_text(str(used + PMD // 2))
            done = collapse("--pid", found.pids[0])
            assert huge_blocks(fd) == 0
            assert [Path(f"/proc/{pid}").exists() for pid in found.pids] == [True, True]
            assert group.oom_kills() == 0
            assert done.returncode == 6
            assert "memory limit of control group" in done.stdout
            assert "raise the limit" in done.stdout
            (group.group / names[0]).write_text(str(1 << 30))
            assert document("--pid", found.pids[0])["result"]["collapsed"] == BLOCKS


FREE = "Node 0, zone   Normal  14712   8062   1781   1106    478    185     16     12     12     {}      0\n"
PRESSURE = "some avg10={} avg60=0.00 avg300=0.00 total=29627\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2258\n"


@pytest.mark.parametrize(
    ("waited", "free", "said"),
    [
        ("7.50", 16 + BLOCKS, "waited for memory 7.5 % of the time"),
        ("0.50", 20, "20 blocks of 2 MiB are free in one piece"),
        ("0.50", 16 + BLOCKS, ""),
    ],
)
def test_in_the_background_it_waits_for_better_times(waited: str, free: int, said: str, tmp_path: Path) -> None:
    run = under({"/proc/pressure/memory": PRESSURE.format(waited), "/proc/buddyinfo": FREE.format(free)}, tmp_path)
    with mapped(Mapping("memfd", SIZE, processes=2)) as found, object_of(found.pids[0]) as fd:
        done = run("--pid", found.pids[0], "--follow", "--count", 2, "--every", "0s", "--max-cpu", 100)
        assert huge_blocks(fd) == (0 if said else BLOCKS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert said in done.stdout
    assert ("made 2 MiB pages" in done.stdout) is not bool(said)


def test_in_the_background_it_finds_what_has_become_warm() -> None:
    """The object is empty at first. It is filled while the command runs."""
    with mapped(Mapping("memfd", SIZE, processes=2, part=0.0)) as found, object_of(found.pids[0]) as fd:
        command = [*MSHARE, "collapse", "--follow", "--every", "0s", "--pid", str(found.pids[0]), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            try:
                for first in (0, 3, 11):
                    with link(found.pids[1], LONELY).open("r+b") as file:
                        file.seek(first * PMD)
                        file.write(bytes(2 * PMD))
                    seen = 0
                    while seen < 2:
                        seen += json.loads(running.stdout.readline())["result"]["collapsed"]
                assert [each.number for each in incore.blocks(fd, SIZE) if each.huge] == [0, 1, 3, 4, 11, 12]
                running.send_signal(signal.SIGINT)
                assert running.wait(60) == 130
            finally:
                running.kill()
        assert memory_bytes(found.pids[0]) == 6 * PMD


def test_in_the_background_it_waits_for_programs_that_are_not_there() -> None:
    done = collapse("--command", "no-such-program", "--follow", "--count", 3, "--every", "0s")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert "waiting" in done.stdout
