"""`mshare run`: real programs, compiled here, with the real preload library on this machine's kernel."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from mshare._tools.lab.limit import control_group
from mshare._tools.preload import library
from mshare._tools.preload.program import inspect
from mshare.testing.processes import in_child
from tests.helpers.worlds import STRANGER, needs_root

MSHARE = (sys.executable, "-m", "mshare")
PROGRAMS = Path(__file__).parents[1] / "preload"
MIB = 1 << 20
SIZE = 66 * MIB
KINDS = ("anonymous", "sysv", "posix", "memfd")


@pytest.fixture(scope="session")
def built() -> Path:
    """The preload library, in this user's cache."""
    return library.ensure()


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory with the programs of tests/preload, compiled. Everybody may execute them."""
    with TemporaryDirectory(prefix="mshare-programs-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        _compile(Path(place))
        yield Path(place)


def _compile(place: Path) -> None:
    shared = ("-shared", "-fPIC")
    plans = {
        "api": ("api.c", "-pthread"),
        "holder": ("holder.c",),
        "map": ("map.c",),
        "forks": ("forks.c", "-pthread"),
        "libplugin.so": ("plugin.c", *shared),
        "libearly.so": ("plugin.c", "-DEARLY", *shared),
        "libinterposer.so": ("interposer.c", *shared),
        "deepbind": ("deepbind.c", "-Wl,-rpath,$ORIGIN", "-Wl,--enable-new-dtags"),
        "static": ("holder.c", "-static"),
    }
    for name, (source, *flags) in plans.items():
        command: list[str | Path] = [
            "gcc",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            place / name,
            PROGRAMS / source,
            *flags,
        ]
        subprocess.run(command, check=True)


def preloaded(built: Path, asked: str = "", *before: Path) -> dict[str, str]:
    """Return an environment as `mshare run` makes it."""
    preload = ":".join(str(path) for path in (*before, built))
    return {**os.environ, "LD_PRELOAD": preload, "MSHARE_RUN": asked}


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MSHARE, "run", *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@contextmanager
def holding(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a holder and wait until its memory is touched."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        assert process.wait(60) == 0


def status(pid: int) -> Any:
    done = run("--status", str(pid), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def large(found: Any) -> Any:
    """Return the one mapping of the holder's size."""
    (mapping,) = (each for each in found["mappings"] if each["length_bytes"] == SIZE)
    return mapping


# What programs get


@pytest.mark.parametrize("kind", KINDS)
def test_shared_memory_has_2_mib_leaves(built: Path, programs: Path, kind: str) -> None:
    command: list[str | Path] = [
        *MSHARE,
        "run",
        "--backend",
        "thp",
        "--fill",
        "ahead",
        "--",
        programs / "holder",
        kind,
        str(SIZE),
    ]
    with holding(command) as process:
        found = status(process.pid)
        assert found["library"] == str(built)
        assert large(found)["leaf_2m_bytes"] == SIZE
        assert large(found)["page_4k_bytes"] == 0
        assert large(found)["result"] == "2 MiB leaves"
    assert process.stderr is not None
    with holding([programs / "holder", kind, str(SIZE)]) as process:
        found = status(process.pid)
        assert found["library"] is None
        assert large(found)["leaf_2m_bytes"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_touched_gets_2_mib_leaves_later(built: Path, programs: Path, kind: str) -> None:
    environment = preloaded(built, "backend=thp,fill=later")
    with holding([programs / "holder", kind, str(SIZE)], environment) as process:
        assert process.stderr is not None
        assert "aligned, 2 MiB leaves come later" in process.stderr.readline()
        assert f"2 MiB leaves for {SIZE // (2 * MIB)} of {SIZE // (2 * MIB)} blocks" in process.stderr.readline()
        # The thread that collapses a block maps it by one leaf. The thread belongs to the program.
        assert large(status(process.pid))["leaf_2m_bytes"] == SIZE


def test_later_takes_no_memory_that_nobody_touched(built: Path, programs: Path) -> None:
    """Of a block of which less than half is touched, nothing is taken."""
    program = (
        "import mmap,sys,os\n"
        "m = mmap.mmap(-1, 64 << 20)\n"
        "for at in range(0, 8 << 20, 4096): m[at] = 1\n"
        "for at in range(8 << 20, 9 << 20, 8192): m[at] = 1\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with holding([sys.executable, "-c", program], preloaded(built, "backend=thp,fill=later")) as process:
        assert process.stderr is not None
        process.stderr.readline()
        assert "2 MiB leaves for 4 of 32 blocks" in process.stderr.readline()
        (area,) = (each for each in status(process.pid)["mappings"] if each["length_bytes"] == 64 * MIB)
        assert area["leaf_2m_bytes"] == 8 * MIB
        smaps = Path(f"/proc/{process.pid}/smaps").read_text().partition(f"{area['address']:x}-")[2]
        assert re.findall(r"Rss: +(\d+) kB", smaps)[0] == str((8 * MIB + MIB // 2) >> 10)


def test_small_memory_and_other_programs_are_left_alone(built: Path, programs: Path) -> None:
    for asked in ("min=128M", "only=another", "min=70000000", "only=holder,min=67M"):
        with holding([programs / "holder", "anonymous", str(SIZE)], preloaded(built, asked)) as process:
            assert large(status(process.pid))["leaf_2m_bytes"] == 0
        assert process.stderr is not None
    with holding([programs / "holder", "memfd", str(SIZE)], preloaded(built, "posix=off")) as process:
        assert large(status(process.pid))["leaf_2m_bytes"] == 0
    with holding([programs / "holder", "sysv", str(SIZE)], preloaded(built, "sysv=off")) as process:
        assert large(status(process.pid))["leaf_2m_bytes"] == 0
    with holding([programs / "holder", "anonymous", str(SIZE)], preloaded(built, "only=holder,fill=ahead")) as process:
        assert large(status(process.pid))["leaf_2m_bytes"] == SIZE


@pytest.mark.parametrize("fill", ["ahead", "later", "never"])
def test_a_program_of_many_calls_prints_the_same_lines(built: Path, programs: Path, fill: str) -> None:
    plain = subprocess.run([programs / "api"], capture_output=True, text=True, check=True).stdout
    environment = preloaded(built, f"backend=thp,fill={fill}")
    done = subprocess.run([programs / "api"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == plain
    assert done.stderr.count("shared anonymous memory of 66 MiB") > 200
    assert plain.count("\n") > 230


@needs_root
def test_a_program_of_many_calls_prints_the_same_lines_to_nobody(built: Path, programs: Path) -> None:
    user: dict[str, Any] = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    plain = subprocess.run([programs / "api"], capture_output=True, text=True, check=True, **user).stdout
    environment = preloaded(built, "backend=thp,fill=ahead")
    done = subprocess.run([programs / "api"], capture_output=True, text=True, check=True, env=environment, **user)
    assert done.stdout == plain
    assert "33 of 33 blocks" in done.stderr


def test_refused_hugetlb_pages_are_answered_if_asked(built: Path, programs: Path) -> None:
    size = 4 << 30  # more than the pool of any test
    command: list[str | Path] = [programs / "holder", "hugetlb", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=preloaded(built))
    assert done.stdout == "refused ENOMEM\n"
    script = "import mmap; m = mmap.mmap(-1, 4 << 30, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000); print(len(m))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=preloaded(built, "hugetlb=answer,backend=thp,fill=never"),
    )
    assert done.stdout == f"{4 << 30}\n"
    assert "instead of hugetlb pages, which the kernel refused" in done.stderr


# The start


def test_the_program_replaces_the_command(built: Path) -> None:
    script = (
        "import os, signal, json; print(json.dumps([os.getpid(), str(signal.getsignal(signal.SIGPIPE)), "
        "open('/proc/self/status').read().partition('SigIgn:')[2].split()[0], sorted(os.listdir('/proc/self/fd'))]))"
        "; os._exit(42)"
    )
    plain = subprocess.run([sys.executable, "-Sc", script], capture_output=True, text=True, check=False)
    process = subprocess.Popen(
        [*MSHARE, "run", "--", sys.executable, "-Sc", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = process.communicate()
    assert process.returncode == 42
    assert errors == ""
    assert json.loads(output)[0] == process.pid
    assert json.loads(output)[1:] == json.loads(plain.stdout)[1:]


def test_signals_reach_the_program(built: Path, programs: Path) -> None:
    process = subprocess.Popen(
        [*MSHARE, "run", "--quiet", "--", programs / "holder", "anonymous", str(SIZE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.communicate()


def test_options_after_the_program_are_its_own(built: Path) -> None:
    for words in (["--", "echo", "--json", "--help"], ["echo", "--json", "--help"]):
        done = run(*words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "--json --help\n", "")


def test_other_preloaded_libraries_stay(built: Path, programs: Path) -> None:
    done = run("--", "env", LD_PRELOAD=str(programs / "libinterposer.so"))
    assert f"LD_PRELOAD={built}:{programs / 'libinterposer.so'}\n" in done.stdout


@pytest.mark.parametrize("first", [True, False])
def test_another_library_with_its_own_mmap(built: Path, programs: Path, first: bool) -> None:
    other = programs / "libinterposer.so"
    environment = preloaded(built, "backend=thp,fill=ahead")
    environment["LD_PRELOAD"] = ":".join(map(str, (other, built) if first else (built, other)))
    program = "import mmap; m = mmap.mmap(-1, 64 << 20); m[0] = 1; n = mmap.mmap(-1, 2 << 20); n[0] = 1"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "32 of 32 blocks" in done.stderr
    # What mshare takes over is not seen by a library behind it; the small mapping is.
    assert done.stdout == ("2 calls\n" if first else "1 calls\n")


def test_memory_of_libraries_that_bind_deeply_is_taken_over(built: Path, programs: Path) -> None:
    environment = preloaded(built, "backend=thp")
    done = subprocess.run([programs / "deepbind"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "aligned\n"
    assert "40 MiB" in done.stderr


@pytest.mark.parametrize("first", [True, False])
def test_memory_that_is_mapped_before_any_constructor(built: Path, programs: Path, first: bool) -> None:
    environment = preloaded(built, "backend=thp,fill=ahead")
    early = programs / "libearly.so"
    environment["LD_PRELOAD"] = ":".join(map(str, (early, built) if first else (built, early)))
    done = subprocess.run(["true"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "aligned\n"
    assert "20 of 20 blocks" in done.stderr


# What is refused


def elf(into: Path, change: Mapping[int, bytes]) -> Path:
    """Write a copy of a program of this machine with some bytes changed."""
    raw = bytearray(Path("/bin/true").read_bytes())
    for at, value in change.items():
        raw[at : at + len(value)] = value
    into.write_bytes(raw)
    into.chmod(0o755)
    return into


def loader_at() -> int:
    """Return where the name of the loader lies in the file of /bin/true."""
    with Path("/bin/true").open("rb") as stream:
        (segment,) = (each for each in ELFFile(stream).iter_segments("PT_INTERP"))
        return int(segment["p_offset"])


def refused(program: Path | str, *reasons: str, **environment: str) -> None:
    """Assert that the program is not started, and why."""
    done = run("--", program, **environment)
    assert done.returncode == 8, done
    assert done.stdout == ""
    for reason in reasons:
        assert reason in done.stderr
    checked = run("--check", "--json", "--", program, **environment)
    assert checked.returncode == 8
    assert json.loads(checked.stdout)["usable"] is False
    assert reasons[0] in json.loads(checked.stdout)["obstacle"]


def test_programs_that_cannot_preload_are_refused(built: Path, programs: Path, tmp_path: Path) -> None:
    refused(programs / "static", "linked statically")
    refused(elf(tmp_path / "narrow", {4: b"\x01"}), "")
    refused(elf(tmp_path / "other", {18: struct.pack("<H", 8)}), "another processor")
    refused(elf(tmp_path / "musl", {loader_at(): b"/lib/ld-musl-x86_64.so.1\0\0\0"}), "musl")
    script = tmp_path / "script"
    script.write_text("echo started\n")
    script.chmod(0o755)
    refused(script, "neither an ELF program nor a script that names its interpreter")
    script.write_text(f"#!{programs / 'static'}\n")
    refused(script, "linked statically")
    script.write_text("#!/no/such/interpreter\n")
    refused(script, "'/no/such/interpreter' does not exist")
    script.write_text("#!/usr/bin/env no-such-interpreter\n")
    refused(script, "'no-such-interpreter' is not in PATH")
    script.write_text("#!/usr/bin/env python3\nprint('started')\n")
    assert run("--", script).stdout == "started\n"
    script.write_text("#!/bin/sh\necho started\n")
    assert run("--", script).stdout == "started\n"


def test_a_32_bit_program_is_refused(tmp_path: Path) -> None:
    """A header is enough: the file is never executed."""
    head = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 0, 40, 0, 0)
    program = tmp_path / "narrow"
    program.write_bytes(head)
    program.chmod(0o755)
    refused(program, "32-bit")


@needs_root
def test_programs_with_privileges_are_refused(built: Path, programs: Path) -> None:
    program = elf(programs / "elevated", {})
    os.chown(program, STRANGER, STRANGER)
    program.chmod(0o4755)
    refused(program, "set-user-id")
    program.chmod(0o2755)
    refused(program, "set-group-id")
    os.chown(program, 0, 0)
    program.chmod(0o4755)  # root's, and root starts it: nothing is gained
    assert run("--", program).returncode == 0
    program.chmod(0o755)
    # struct vfs_cap_data, revision 2, CAP_NET_RAW permitted and effective
    os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))

    def as_stranger() -> str:
        os.setresuid(STRANGER, STRANGER, STRANGER)
        return inspect(str(program)).obstacle

    assert "file capabilities" in in_child(as_stranger).value
    assert run("--", program).returncode == 0  # root gains nothing by them


def test_a_go_program_gets_a_warning(tmp_path: Path) -> None:
    objcopy = shutil.which("objcopy")
    assert objcopy is not None, "binutils come with gcc"
    notes = tmp_path / "notes"
    notes.write_bytes(b"\xff Go buildinf:")
    program = tmp_path / "go"
    subprocess.run([objcopy, "--add-section", f".go.buildinfo={notes}", "/bin/true", program], check=True)
    done = run("--", program)
    assert done.returncode == 0
    assert "it is a Go program" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--", "no-such-program"], 3, "no such program in PATH: no-such-program"),
        (["--", "/no/such/program"], 3, "/no/such/program"),
        (["--", "/etc/passwd"], 7, "not a program that you may execute"),
        (["--", "/tmp"], 7, "not a program that you may execute"),
        ([], 2, "the program to start is missing"),
        (["--min", "1M", "--", "true"], 2, "cannot have 2 MiB leaves"),
        (["--min", "x", "--", "true"], 2, "invalid size 'x'"),
        (["--only", "a b", "--", "true"], 2, "invalid --only 'a b'"),
        (["--only", "a,fill=never", "--", "true"], 2, "invalid --only"),
        (["--log", "/tmp/it's", "--", "true"], 2, "invalid --log"),
        (["--backend", "msharefs", "--", "true"], 8, "msharefs cannot be used"),
        (["--check", "--environment", "--", "true"], 2, "use only one of"),
        (["--status", "4194305"], 3, "4194305"),
    ],
)
def test_mistakes_are_explained(built: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


# What may go wrong in the program


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


@needs_root
def test_a_control_group_with_little_room_gets_nothing_ahead(built: Path, programs: Path) -> None:
    """The group has room for half of the memory, and no process is killed for it."""
    with control_group(SIZE // 2) as limit:
        assert limit.group is not None
        for fill in ("ahead", "auto"):
            done = subprocess.run(
                [programs / "map"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                env=preloaded(built, f"backend=thp,fill={fill}"),
                preexec_fn=lambda: limit.enter(os.getpid()),
            )
            assert (done.returncode, done.stdout) == (0, "mapped\n")
            assert "2 MiB leaves come later" in done.stderr
            assert "the control group has " in done.stderr


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


def test_a_kill_while_memory_is_filled_leaves_nothing(built: Path, programs: Path) -> None:
    def objects() -> tuple[set[str], int]:
        return {name for name in os.listdir("/dev/shm") if name.startswith("mshare-held")}, len(
            Path("/proc/sysvipc/shm").read_text().splitlines()
        )

    before = objects()[0]
    for kind in KINDS:
        for lines in (0, 1):
            process = subprocess.Popen(
                [programs / "holder", kind, str(512 * MIB)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=preloaded(built, "backend=thp,fill=ahead"),
            )
            assert process.stdout is not None
            if lines:
                process.stdout.readline()
            else:
                _until_mapped(process.pid)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            process.communicate()
    assert objects()[0] == before


def _until_mapped(pid: int) -> None:
    """Wait until the process has its memory mapped, or has touched all of it."""
    while str(512 * MIB >> 10) not in Path(f"/proc/{pid}/smaps").read_text():
        pass


# The library


def test_the_library_needs_no_symbol_newer_than_glibc_2_17(built: Path) -> None:
    with built.open("rb") as stream:
        needed = [
            version.name
            for section in ELFFile(stream).iter_sections()
            if isinstance(section, GNUVerNeedSection)
            for _, versions in section.iter_versions()
            for version in versions
        ]
    assert needed
    for name in needed:
        parts = tuple(int(part) for part in name.removeprefix("GLIBC_").split("."))
        assert parts <= (2, 17), name


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_library_compiles_without_warnings(compiler: str, tmp_path: Path) -> None:
    sources = sorted(library.SOURCE.glob("*.c"))
    flags = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Werror")
    command = [compiler, *library.FLAGS, *flags, "-o", str(tmp_path / "out.so"), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_library_is_built_where_only_its_user_can_write(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = library.ensure(cache / "mshare")
    made = path.stat()
    assert library.ensure(cache / "mshare") == path
    assert path.stat().st_mtime_ns == made.st_mtime_ns
    path.chmod(0o664)
    assert library.ensure(cache / "mshare").stat().st_mode & 0o022 == 0
    for place in (path.parent, path.parent.parent, path.parent.parent.parent):
        before = place.stat().st_mode
        place.chmod(before | 0o020)
        with pytest.raises(OSError, match="another user may change"):
            library.ensure(cache / "mshare")
        place.chmod(before)
    with pytest.raises(OSError, match="cannot preload"):
        library.ensure(tmp_path / "with blank")


@needs_root
def test_a_library_that_another_user_planted_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ROOTS_OWN", tmp_path / "roots")
    monkeypatch.setattr(library, "cache_directory", lambda: tmp_path / "own")
    planted = library.ensure(tmp_path / "roots")
    assert library.find() == planted
    os.chown(planted, STRANGER, STRANGER)
    assert library.find() is None
    assert library.ensure() == tmp_path / "own" / planted.relative_to(tmp_path / "roots")


def test_the_variables_for_an_environment_file(built: Path) -> None:
    done = run("--environment", "--only", "postgres", "--fill", "later")
    assert done.stdout == f"LD_PRELOAD='{built}'\nMSHARE_RUN='fill=later,only=postgres'\n"
    read = subprocess.run(
        ["sh", "-c", f"{done.stdout.replace(chr(10), ' ')} env"], capture_output=True, text=True, check=True
    )
    assert f"LD_PRELOAD={built}\nMSHARE_RUN=fill=later,only=postgres\n" in read.stdout or "MSHARE_RUN" in read.stdout
    assert json.loads(run("--environment", "--json").stdout) == {"LD_PRELOAD": str(built), "MSHARE_RUN": ""}


def test_the_check_of_a_program_and_the_machine(built: Path) -> None:
    done = run("--check", "--json", "--", "python3")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["usable"] is True
    assert facts["obstacle"] == ""
    assert facts["library"] == str(built)
    assert facts["program"]["path"] == shutil.which("python3")
    assert facts["host"]["free_bytes"] > 0
    text = run("--check", "--", "python3").stdout
    assert str(built) in text
    assert "2 MiB leaves" in text


def doctor(pid: int) -> list[dict[str, str]]:
    done = subprocess.run([*MSHARE, "doctor", "--pid", str(pid), "--json"], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout)["findings"])


def test_the_doctor_looks_at_a_process(built: Path, programs: Path) -> None:
    command: list[str | Path] = [programs / "holder", "anonymous", str(SIZE)]
    with holding(command, preloaded(built, "backend=thp,fill=ahead")) as process:
        library_found, memory = doctor(process.pid)
        assert str(built) in library_found["text"]
        assert memory["level"] == "ok"
        assert "2 MiB leaves" in memory["text"]
    with holding(command, preloaded(built, "backend=thp,fill=never")) as process:
        memory = doctor(process.pid)[1]
        assert memory["level"] == "advice"
        assert memory["command"] == f"sudo mshare collapse --pid {process.pid}"
    with holding(command) as process:
        library_found, memory = doctor(process.pid)
        assert "does not have the preload library" in library_found["text"]
        assert "4 KiB pages: the address is not aligned" in memory["text"]
        assert "start the program with `mshare run`" in memory["text"]


def test_the_library_finds_the_symbols_that_it_calls() -> None:
    """The names that the library looks up at run time exist in this C library."""
    libc = ctypes.CDLL(None)
    text = (library.SOURCE / "calls.c").read_text()
    names = set(re.findall(r"FIND\((\w+)\);", text)) | set(re.findall(r'RTLD_DEFAULT, "(\w+)"', text))
    assert len(names) > 8
    for name in names:
        assert hasattr(libc, name)
