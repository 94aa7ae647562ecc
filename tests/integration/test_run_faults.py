"""Limits, full groups, closed descriptors, forks and kills under the preload library: the program goes on."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from mshare._tools.lab.limit import control_group
from mshare._tools.lab.run import V2
from tests.helpers.preload import KINDS, MIB, MSHARE, SIZE, holding, preloaded
from tests.helpers.worlds import needs_root, own_ipc


def test_a_wrong_variable_is_said_once_and_ignored(built: Path, programs: Path) -> None:
    asked = "fill=ahead,colour=blue,min=3X,backend=thp"
    command: list[str | Path] = [programs / "holder", "anonymous", str(SIZE)]
    with holding(command, preloaded(built, asked)) as process:
        pass
    assert process.stderr is None or process.stderr.closed
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True, env=preloaded(built, asked))
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("this item of MSHARE_RUN is not valid and has no effect: colour=blue")
    assert "33 of 33 blocks" in lines[1]
    quiet = subprocess.run(["true"], capture_output=True, text=True, check=True, env=preloaded(built, asked))
    assert quiet.stderr == ""


def test_where_addresses_are_limited_the_program_goes_on(built: Path, programs: Path) -> None:
    limit = SIZE + 12 * MIB
    command: list[str | Path] = [
        "bash",
        "-c",
        f'ulimit -v {limit >> 10}; exec "$@"',
        "-",
        programs / "holder",
        "anonymous",
        str(SIZE),
    ]
    environment = {**os.environ, "MSHARE_RUN": "backend=thp,fill=later"}
    command[2] = f'ulimit -v {limit >> 10}; LD_PRELOAD={built} exec "$@"'
    with holding(command, environment) as process:
        assert process.stderr is not None
        assert "shared anonymous memory of 66 MiB" in process.stderr.readline()
    command[2] = f'ulimit -v {(SIZE + 4 * MIB) >> 10}; LD_PRELOAD={built} exec "$@"'
    done = subprocess.run(command, capture_output=True, input="", text=True, check=False, env=environment)
    assert done.returncode == 0
    assert done.stdout in ("ready\n", "refused ENOMEM\n")


def test_where_memory_is_required_the_call_fails(built: Path, programs: Path) -> None:
    """No range of addresses for the alignment: 4 KiB pages without `require`, and ENOMEM with it."""
    environment = {**os.environ, "MSHARE_RUN": "backend=thp,fill=ahead"}
    line = f'ulimit -v {(SIZE + 4 * MIB - 4096) >> 10}; LD_PRELOAD={built} exec "$@"'
    command: list[str | Path] = ["bash", "-c", line, "-", programs / "holder", "anonymous", str(SIZE)]
    results = {}
    for require in ("no", "yes"):
        environment["MSHARE_RUN"] = f"backend=thp,fill=ahead,require={require}"
        for spare in range(2, 12):
            command[2] = f'ulimit -v {(SIZE + spare * MIB) >> 10}; LD_PRELOAD={built} exec "$@"'
            done = subprocess.run(command, capture_output=True, input="", text=True, check=False, env=environment)
            if "no range of addresses" in done.stderr:
                results[require] = done.stdout
                assert ("the call fails with ENOMEM" in done.stderr) == (require == "yes")
                break
    assert results == {"no": "ready\n", "yes": "refused ENOMEM\n"}


def test_what_the_program_opens_as_descriptor_2_is_not_written_to(built: Path, programs: Path, tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    data.write_bytes(b"precious")
    command: list[str | Path] = [programs / "holder", "anonymous", str(SIZE), "data-on-2", data]
    with holding(command, preloaded(built, "fill=ahead,backend=thp")):
        pass
    assert data.read_bytes() == b"precious"
    with holding(command, preloaded(built, f"fill=ahead,backend=thp,log={log}")):
        pass
    assert data.read_bytes() == b"precious"
    assert "33 of 33 blocks" in log.read_text()


def test_a_closed_descriptor_2_stays_closed(built: Path, programs: Path) -> None:
    script = f"exec 2>&-; LD_PRELOAD={built} exec {programs / 'holder'} anonymous {SIZE}"
    done = subprocess.run(["bash", "-c", script], input="", capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("ready\n", "")


def test_where_nobody_reads_stderr_the_program_goes_on(built: Path, programs: Path) -> None:
    """SIGPIPE has its default action, as a shell leaves it."""
    read, write = os.pipe()
    os.close(read)
    command: list[str | Path] = [programs / "holder", "anonymous", str(SIZE)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=write, check=False, env=preloaded(built)
    )
    os.close(write)
    assert (done.returncode, done.stdout) == (0, b"ready\n")


def test_a_log_that_has_reached_the_limit_of_files_ends_nothing(built: Path, programs: Path, tmp_path: Path) -> None:
    """A write beyond `ulimit -f` is SIGXFSZ. Files on tmpfs are under the limit as well, anonymous memory is not."""
    log = tmp_path / "log"
    log.write_bytes(bytes(1 << 20))
    script = f'ulimit -f 1024; LD_PRELOAD={built} exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "-", programs / "holder", "anonymous", str(SIZE)],
        input="",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MSHARE_RUN": f"backend=thp,log={log}"},
    )
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert log.stat().st_size == 1 << 20


def test_a_terminal_that_refuses_jobs_in_the_background_stops_nothing(built: Path, programs: Path) -> None:
    """A write of such a job is SIGTTOU, which stops it, where `stty tostop` is set."""
    script = (
        f"stty tostop; set -m; LD_PRELOAD={built} {programs / 'map'} </dev/null & wait $!; "
        "echo $?; kill -KILL $! 2>&-; wait $! 2>&-"
    )
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run(
            ["setsid", "--ctty", "--wait", "bash", "-c", script],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
            check=False,
            env={**os.environ, "MSHARE_RUN": "backend=thp"},
        )
        assert done.stdout == "mapped\n0\n"
        assert b"33 of 33 blocks" in os.read(controller, 4096)
    finally:
        os.close(controller)
        os.close(terminal)


def test_memory_of_a_device_is_left_alone(built: Path, programs: Path) -> None:
    command: list[str | Path] = [programs / "holder", "device", str(SIZE)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True, env=preloaded(built))
    assert (done.stdout, done.stderr) == ("ready\n", "")


def test_a_refused_mapping_takes_nothing_away_from_another_thread(built: Path, programs: Path) -> None:
    """The kernel looks whether memory suffices after it has given up what lay at a fixed address."""
    environment = preloaded(built, "backend=thp,fill=never,quiet=yes")
    done = subprocess.run(
        [programs / "neighbour", "10000"], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "kept\n")


def test_under_mlockall_small_limits_are_the_programs_own(built: Path, programs: Path) -> None:
    """The range of addresses that holds the place counts against the limit as the memory does."""
    program = (
        "import ctypes, mmap\n"
        "assert ctypes.CDLL(None).mlockall(2) == 0\n"
        "print(len([mmap.mmap(-1, 4 << 20) for _ in range(1)]))\n"
    )
    command = ["bash", "-c", 'ulimit -l 7168; exec "$@"', "-", "setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    command += [sys.executable, "-S", "-c", program]
    for environment in (dict(os.environ), preloaded(built, "backend=thp,min=2M,fill=ahead")):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.stdout == "1\n", done.stderr


def nothing_ahead(program: Path, environment: dict[str, str], enter: Callable[[int], object]) -> None:
    """Assert that a program, in the control group that `enter` chooses, maps its memory and gets no leaves ahead."""
    done = subprocess.run(
        [program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        preexec_fn=lambda: enter(os.getpid()),
    )
    assert (done.returncode, done.stdout) == (0, "mapped\n")
    assert "2 MiB leaves come later" in done.stderr
    assert "the control group has " in done.stderr


@needs_root
def test_a_control_group_with_little_room_gets_nothing_ahead(built: Path, programs: Path) -> None:
    """The group has room for half of the memory, and no process is killed for it."""
    with control_group(SIZE // 2) as limit:
        assert limit.group is not None
        for fill in ("ahead", "auto"):
            nothing_ahead(programs / "map", preloaded(built, f"backend=thp,fill={fill}"), limit.enter)


@needs_root
@pytest.mark.parametrize(("names", "length"), [(1, 255), (2, 200), (6, 255)])
def test_the_limit_of_a_control_group_with_a_long_path_counts(
    built: Path, programs: Path, names: int, length: int
) -> None:
    """The last is longer than the library reads: nothing is filled ahead where the limit is unknown."""
    with control_group(512 * MIB) as limit, ExitStack() as made:
        assert limit.group is not None
        group = limit.group
        for name in "abcdef"[:names]:
            if limit.kind == V2:
                (group / "cgroup.subtree_control").write_text("+memory")
            group /= name * length
            group.mkdir()
            made.callback(group.rmdir)
        if names < 6:
            (group / ("memory.max" if limit.kind == V2 else "memory.limit_in_bytes")).write_text(str(SIZE // 2))
        nothing_ahead(
            programs / "map",
            preloaded(built, "backend=thp,fill=ahead"),
            lambda pid: (group / "cgroup.procs").write_text(str(pid)),
        )


def test_a_log_is_appended_to_by_all_processes(built: Path, programs: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    command: list[str | Path] = [
        *MSHARE,
        "run",
        "--backend",
        "thp",
        "--log",
        str(log),
        "--",
        programs / "holder",
        "sysv",
        str(SIZE),
    ]
    for _ in range(2):
        done = subprocess.run(command, input="", capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("ready\n", "")
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert [re.sub(r"\d+\]|0x[0-9a-f]+", "", line) for line in lines[1:]] == [
        "mshare: holder[: SysV shared memory of 66 MiB at : 2 MiB leaves, filled ahead (33 of 33 blocks)"
    ] * 2


@pytest.mark.parametrize("fill", ["ahead", "later", "never"])
def test_a_threaded_program_forks_in_the_middle_of_mmap(built: Path, programs: Path, fill: str) -> None:
    environment = preloaded(built, f"backend=thp,min=2M,quiet=yes,fill={fill}")
    done = subprocess.run([programs / "forks"], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "0 of 211 failed\n"


@needs_root
def test_a_kill_while_memory_is_filled_leaves_nothing(built: Path, programs: Path) -> None:
    """A SysV segment that its creator has not removed yet stays, as without the library; here it is in a namespace of
    this test."""
    with own_ipc():
        for kind in KINDS:
            for touched in (False, True):
                process = subprocess.Popen(
                    [programs / "holder", kind, str(512 * MIB)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=preloaded(built, "backend=thp,fill=ahead"),
                )
                assert process.stdout is not None
                if touched:
                    process.stdout.readline()
                else:
                    _until_mapped(process.pid)
                process.kill()
                assert process.wait() == -signal.SIGKILL
                process.communicate()
    assert not Path(f"/dev/shm/mshare-held-{process.pid}").exists()


def _until_mapped(pid: int) -> None:
    """Wait until the process has its memory mapped, or has touched all of it."""
    while str(512 * MIB >> 10) not in Path(f"/proc/{pid}/smaps").read_text():
        pass
