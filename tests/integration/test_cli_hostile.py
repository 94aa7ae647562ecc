"""Commands where the machine hides or forbids something: each says so, with its documented exit code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core.geometry import PAGE
from mshare.testing.processes import Nursery
from tests.helpers.worlds import free_bytes, needs_root, small_tmpfs

MSHARE = (sys.executable, "-m", "mshare")
Run = subprocess.CompletedProcess[str]


def cli(*args: str, prefix: tuple[str, ...] = ()) -> Run:
    return subprocess.run([*prefix, *MSHARE, *args], capture_output=True, text=True, check=False)


@needs_root
@pytest.mark.parametrize("args", [("rm", "r"), ("rm", "--force", "r"), ("gc", "--all"), ("gc", "--older-than", "0s")])
def test_a_read_only_root_is_8_and_the_message_says_what_to_do(world: Path, args: tuple[str, ...]) -> None:
    with small_tmpfs(world / "shm", "64m"):
        mshare.create("r", PAGE).close()
        subprocess.run(["mount", "-o", "remount,ro", str(world / "shm")], check=True)
        done = cli(*args)
        assert (done.returncode, done.stdout) == (8, "")
        assert f"sudo mount -o remount,rw {world / 'shm'}" in done.stderr
        assert done.stderr.count("\n") == 1
        assert cli("ls").returncode == 0


NEIGHBOUR = """
import mshare, sys
region = mshare.attach("r")
print("attached", flush=True)
sys.stdin.read()
"""


@needs_root
def test_processes_of_another_pid_namespace_are_not_called_another_users(world: Path) -> None:
    mshare.create("r", PAGE).close()
    neighbour = ("unshare", "--pid", "--fork", "--mount-proc")
    with subprocess.Popen(
        [*neighbour, sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"attached\n"
        stat, listed, removed = (cli(*args, prefix=neighbour) for args in (("stat", "r"), ("ls",), ("rm", "r")))
        process.communicate(b"")
    assert "processes that you cannot see (another user's or another container's)" in " ".join(stat.stdout.split())
    assert "other users" not in stat.stdout
    assert " others " in listed.stdout
    assert removed.returncode == 5
    assert "other processes" in removed.stderr


def test_a_list_of_users_that_is_cut_says_how_many_more_there_are(world: Path) -> None:
    mshare.create("r", PAGE).close()
    with Nursery() as nursery:
        workers = [nursery.start() for _ in range(13)]
        for worker in workers:
            assert worker.do("attach", number=0, name="r").error is None
        done = cli("rm", "r")
        pids = sorted(worker.pid for worker in workers)
    assert done.returncode == 5
    assert f"in use by processes {', '.join(map(str, pids[:10]))} and 3 more: " in done.stderr


# /proc that is absent, or hides facts about the machine

PROC = {
    "absent": "mount -t tmpfs none /proc",
    "subset": "mount -t proc -o subset=pid proc /proc",
    "no mount table": "mount --bind /dev/null /proc/$$/mountinfo",
    "no limits": "mount --bind /dev/null /proc/$$/cgroup; mount -t tmpfs none /sys/fs/cgroup",
}
"""Kinds of restricted /proc, and the shell lines that make them before the shell becomes the command."""


NEEDS_MEMINFO = {"scan", "top", "report"}


def restricted(kind: str, *args: str, cwd: Path | None = None) -> Run:
    script = f'{PROC[kind]} && exec "$@"'
    unshare = ("unshare", "--mount", "--propagation", "private", "bash", "-c", script, "-")
    return subprocess.run([*unshare, *MSHARE, *args], capture_output=True, text=True, check=False, cwd=cwd)


@needs_root
@pytest.mark.parametrize("kind", PROC)
def test_doctor_always_finishes(world: Path, kind: str) -> None:
    done = restricted(kind, "doctor")
    assert (done.returncode, done.stderr) == (8 if kind == "absent" else 0, "")
    document = json.loads(restricted(kind, "doctor", "--json").stdout)
    assert document["usable"] is (kind != "absent")
    findings = {each["topic"]: each for each in document["findings"]}
    if kind == "absent":
        assert "there is no /proc here" in findings["choice"]["text"]
        assert findings["backend shm"]["command"] == "sudo mount -t proc proc /proc"
        assert findings["addresses"]["level"] == "advice"
    if kind in {"absent", "subset"}:
        assert "/proc/meminfo cannot be read" in findings["memory"]["text"]
    if kind == "no mount table":
        assert document["chosen"] == "thp"


@needs_root
@pytest.mark.parametrize(
    "args",
    [
        ("ls",),
        ("stat", "old"),
        ("create", "new", "1M"),
        ("cp", "region:old", "out"),
        ("cp", "/etc/passwd", "region:new"),
        ("rm", "old"),
        ("gc", "--all"),
        ("scan",),
        ("top", "--count", "1"),
        ("report", "--json"),
        ("plan", "1G", "2"),
    ],
)
@pytest.mark.parametrize("kind", ["absent", "subset", "no mount table"])
def test_commands_do_without_proc_or_name_what_they_lack(
    world: Path, tmp_path: Path, kind: str, args: tuple[str, ...]
) -> None:
    mshare.create("old", PAGE).close()
    done = restricted(kind, *args, cwd=tmp_path)
    if args[0] == "plan" or kind == "no mount table" or (kind == "subset" and args[0] not in NEEDS_MEMINFO):
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 8
        assert ("there is no /proc here: " if kind == "absent" else "/proc/meminfo cannot be read") in done.stderr
    assert "Traceback" not in done.stderr


@needs_root
@pytest.mark.parametrize(
    ("kind", "args", "missing"),
    [
        ("absent", ("lab", "sga"), "there is no /proc here"),
        ("absent", ("lab", "sga", "--whole-machine"), "there is no /proc here"),
        ("subset", ("lab", "sga", "--whole-machine"), "/proc/sys/vm/panic_on_oom cannot be read"),
        ("absent", ("demo",), "there is no /proc here"),
    ],
)
def test_experiments_name_what_they_lack_before_they_begin(
    world: Path, kind: str, args: tuple[str, ...], missing: str
) -> None:
    done = restricted(kind, *args)
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr.startswith(f"mshare: {missing}")


def memory_group() -> str:
    """Return the path of this process's control group for memory, as /proc/self/cgroup has it."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return next((path for _, names, path in groups if "memory" in names.split(",")), groups[-1][2])


UNSEEN: dict[str, tuple[str, ...]] = {
    "no mount": ("unshare", "--mount", "bash", "-c", 'mount -t tmpfs none /sys/fs/cgroup; exec "$@"', "-")
}
if memory_group() != "/":
    UNSEEN["the mount of another namespace"] = ("unshare", "--cgroup")


@needs_root
@pytest.mark.parametrize("how", UNSEEN)
def test_a_limit_that_cannot_be_seen_is_not_called_none(world: Path, how: str) -> None:
    done = cli("doctor", "--json", prefix=UNSEEN[how])
    (finding,) = (each for each in json.loads(done.stdout)["findings"] if each["topic"] == "control group")
    assert finding["level"] == "advice"
    group = memory_group() if how == "no mount" else "/"
    assert finding["text"].startswith(f"the memory limit of {group} cannot be seen")


# cp: sources without a true size, regions with holes


SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"


@pytest.mark.parametrize("source", ["/proc/cpuinfo", "/proc/self/limits", SETTING])
def test_a_file_of_the_kernel_is_copied_whatever_size_it_claims(world: Path, source: str) -> None:
    size = len(Path(source).read_bytes())
    assert Path(source).stat().st_size != size
    done = cli("cp", source, "region:r")
    assert (done.returncode, done.stderr) == (0, "")
    with mshare.attach("r", readonly=True) as region:
        assert region.size == size
        if source == SETTING:  # the others can change from one look to the next
            assert bytes(region.buf) == Path(source).read_bytes()


def with_islands(name: str, size: int) -> dict[int, bytes]:
    """Create a sparse region with a few bytes here and there. Return the bytes by their offset."""
    islands = {0: b"first", 5 << 20: b"middle", size - 4: b"last"}
    with mshare.create(name, size, reserve=False) as region:
        for offset, content in islands.items():
            region.buf[offset : offset + len(content)] = content
    return islands


@needs_root
def test_copying_a_sparse_region_takes_no_memory_of_its_root_and_keeps_the_holes(world: Path, tmp_path: Path) -> None:
    size = (64 << 20) + 3
    with small_tmpfs(world / "shm", "1m"):
        islands = with_islands("holes", size)
        used = free_bytes(world / "shm")
        for line in ("cp region:holes {}", "cp region:holes - > {}", "cp region:holes /dev/stdout > {}"):
            out = tmp_path / "out"
            assert shell(line.format(out)).returncode == 0
            with out.open("rb") as file:
                for offset, content in islands.items():
                    file.seek(offset)
                    assert file.read(len(content)) == content
            assert out.stat().st_size == size
            assert out.stat().st_blocks * 512 < 1 << 20
            out.unlink()
        piped = shell("cp region:holes - | sha256sum")
        expected = bytearray(size)
        for offset, content in islands.items():
            expected[offset : offset + len(content)] = content
        assert piped.stdout.split()[0] == hashlib.sha256(expected).hexdigest()
        assert free_bytes(world / "shm") == used


@needs_root
def test_a_sparse_region_is_copied_to_another_root_without_memory_of_its_own(hugetlb_world: Path) -> None:
    with small_tmpfs(hugetlb_world / "shm", "1m"):
        islands = with_islands("holes", (32 << 20) + 5)
        done = cli("cp", "region:holes", "region:copy", "--backend", "hugetlb")
        assert (done.returncode, done.stderr) == (0, "")
        with mshare.attach("copy", readonly=True) as copy:
            for offset, content in islands.items():
                assert bytes(copy.buf[offset : offset + len(content)]) == content
            assert not any(copy.buf[64 : 1 << 16])
        assert cli("cp", "region:copy", "/dev/null").returncode == 0


# Standard streams


def shell(line: str) -> Run:
    """Run one line of bash that begins with `mshare`."""
    program = f'mshare() {{ "{sys.executable}" -m mshare "$@"; }}\nset -o pipefail\nmshare {line}'
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "link"])
def test_cp_appends_to_the_file_that_stdout_appends_to(world: Path, tmp_path: Path, name: str) -> None:
    with mshare.create("r", 3) as region:
        region.buf[:] = b"new"
    (tmp_path / "link").symlink_to("/dev/stdout")
    log = tmp_path / "log"
    log.write_text("old ")
    inode = log.stat().st_ino
    for _ in range(2):
        done = shell(f"cp region:r {name if name != 'link' else tmp_path / 'link'} >> {log}")
        assert (done.returncode, done.stderr) == (0, "")
    assert log.read_text() == "old newnew"
    assert log.stat().st_ino == inode


def test_what_a_name_of_a_descriptor_means(world: Path, tmp_path: Path) -> None:
    with mshare.create("r", 3) as region:
        region.buf[:] = b"new"
    out = tmp_path / "out"
    assert shell(f"cp region:r >(cat > {out}); wait $!").returncode == 0
    assert out.read_bytes() == b"new"
    assert shell(f"cp region:r /dev/fd/7 7> {out}").returncode == 0
    assert out.read_bytes() == b"new"
    closed = shell("cp region:r /dev/fd/7 7>&-")
    assert closed.returncode == 1
    assert "not open for writing: /dev/fd/7" in closed.stderr
    reading = shell(f"cp region:r /dev/fd/7 7< {out}")
    assert reading.returncode == 1
    assert "not open for writing: /dev/fd/7" in reading.stderr


@pytest.mark.parametrize(
    "line", ["scan --pid $$ --save /dev/fd/7", "report --pid $$ -o /dev/fd/7", "report --pid $$ -o /dev/stdout"]
)
def test_saved_files_are_appended_to_what_is_appended_to(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log"
    log.write_text("old")
    done = shell(f"{line} {'1' if 'stdout' in line else '7'}>> {log}")
    assert (done.returncode, done.stderr) == (0, "")
    assert log.read_bytes().startswith(b"old")
    assert b"The page is in" not in log.read_bytes()
    assert len(log.read_bytes()) > 1000


def test_a_snapshot_and_a_table_do_not_share_stdout() -> None:
    done = cli("scan", "--save", "-")
    assert done.returncode == 2
    assert "--save needs a file" in done.stderr


# Snapshots


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    assert cli("scan", "--pid", str(os.getpid()), "--save", str(tmp_path / "good")).returncode == 0
    return tmp_path / "good"


@pytest.mark.parametrize("command", [("scan", "--from"), ("report", "--json")])
def test_a_damaged_snapshot_is_named(snapshot: Path, command: tuple[str, ...]) -> None:
    bad = snapshot.with_name("bad\x1b[31m")
    bad.write_bytes(snapshot.read_bytes()[:300])
    several = (str(snapshot),) if command[0] == "report" else ()
    done = cli(*command, *several, str(bad))
    assert done.returncode == 9
    assert "bad\\x1b[31m: the snapshot is cut short" in done.stdout + done.stderr.replace("\\\\", "\\")


@pytest.mark.parametrize("command", [("scan", "--from"), ("report",)])
def test_a_file_of_any_size_is_refused_by_its_first_bytes(tmp_path: Path, command: tuple[str, ...]) -> None:
    with (tmp_path / "disk.img").open("wb") as disk:
        disk.truncate(100 << 30)
    for path in (tmp_path / "disk.img", Path("/dev/zero")):
        done = cli(*command, str(path), prefix=("prlimit", f"--as={3 << 30}"))
        assert (done.returncode, done.stdout) == (9, "")
        assert done.stderr.startswith(f"mshare: {path}: the file is not a snapshot")


def test_a_snapshot_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/proc/self/mem"), tmp_path / "none"):
        done = cli("scan", "--from", str(path))
        assert done.returncode == (3 if path.name == "none" else 1)
        assert str(path) in done.stderr


CODES = {
    "ls": 0,
    "create made 1M": 0,
    "cp {} region:copy": 0,
    "cp region:r {}.out": 0,
    "rm r": 0,
    "scan --pid $$ --save {}.snapshot": 0,
    "report --pid $$ --for 1s --every 0.5s -o {}.html": 0,
    "--help": 0,
    "create": 2,
    "gc --older-than 30": 2,
    "rm none r": 3,
    "create r 1M": 4,
    "create huge 10T": 6,
    "scan --from {}": 9,
}
REDIRECTIONS = ("2>/dev/full", "2> >(exec 0<&-)", "<&- 2>&-", "<&- >&- 2>&-", ">&- 2>/dev/full")


@pytest.mark.parametrize(
    ("line", "redirection"),
    [*((line, "2>&-") for line in CODES), *(("cp {} region:copy", each) for each in REDIRECTIONS)]
    + [("rm none r", each) for each in REDIRECTIONS],
)
def test_whatever_stderr_is_the_work_is_done_with_the_documented_exit_code(
    world: Path, tmp_path: Path, line: str, redirection: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content" * 1000)
    with mshare.create("r", PAGE) as region:
        region.buf[:] = b"x" * PAGE
    assert shell(f"{line.format(source)} {redirection}").returncode == CODES[line]
    left = {"r": b"x" * PAGE}
    if line.startswith("rm"):
        left = {}
    elif line == "cp {} region:copy":
        left["copy"] = b"content" * 1000
    elif line == "create made 1M":
        left["made"] = bytes(1 << 20)
    assert {info.name for info in mshare.regions()} == set(left)
    for name, content in left.items():
        with mshare.attach(name, readonly=True) as region:
            assert bytes(region.buf) == content
    for suffix in (".out", ".snapshot", ".html"):
        assert source.with_name(f"source{suffix}").exists() is (suffix in line)


def test_a_spool_is_not_taken_for_stdin(world: Path) -> None:
    """With stdin closed, the first file that is opened would get its number."""
    done = shell("cp - region:r <&-")
    assert (done.returncode, done.stderr) == (2, "mshare: stdin is empty: a region has at least 1 byte\n")


# Ctrl-C

BLOCKED = """
import sys
sys.stdout.write("waiting\\n")
sys.stdout.flush()
sys.stdin.readline()
"""


@contextmanager
def waiting(tmp_path: Path, module: str, text: str = BLOCKED, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start `mshare ls` as its installed script does. The command stops when it imports `module`."""
    (tmp_path / f"{module}.py").write_text(text)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from _mshare_command import main; sys.exit(main())"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, "ls"], text=True, **pipes, **options) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        yield process


@pytest.mark.parametrize("module", ["mshare", "typer", "rich"])
def test_ctrl_c_while_the_command_line_is_loaded_is_quiet_and_130(world: Path, tmp_path: Path, module: str) -> None:
    with waiting(tmp_path, module, preexec_fn=default_interrupt) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "")
    assert process.returncode == 130


def test_ctrl_c_when_the_work_is_done_is_quiet(world: Path, tmp_path: Path) -> None:
    lines = "".join(f"    {line}\n" for line in BLOCKED.strip().splitlines())
    at_exit = (
        f"import atexit\n@atexit.register\ndef block():\n{lines}raise ModuleNotFoundError('typer', name='typer')\n"
    )
    with waiting(tmp_path, "typer", at_exit, preexec_fn=default_interrupt) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (-signal.SIGINT, "")
    assert "Traceback" not in err


def test_a_job_in_the_background_goes_on_to_ignore_ctrl_c(world: Path, tmp_path: Path) -> None:
    blocked = BLOCKED + f"sys.path.remove({str(tmp_path)!r}); del sys.modules['typer']; import typer\n"
    with waiting(tmp_path, "typer", blocked, preexec_fn=ignored_interrupt) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate("\n") == ("", "")
    assert process.returncode == 0


def default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignored_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# Narrow terminals


@pytest.mark.parametrize("columns", [1, 20, 50, 79])
def test_a_narrow_terminal_cuts_no_number_and_hides_no_column(world: Path, columns: int) -> None:
    name = "a-long-name-that-has-to-be-folded-in-most-terminals"
    with mshare.create(name, 300 << 20, reserve=False) as region:
        address = f"{region.addr:#x}"
    narrow = ("env", f"COLUMNS={columns}")
    table = cli("ls", prefix=narrow).stdout
    assert table.splitlines()[0].split() == cli("ls").stdout.splitlines()[0].split()
    for cell in ("300 MiB", address, "0600", "orphan"):
        assert cell in table
    assert "".join(line[:8].strip() for line in table.splitlines()[1:]).startswith(name[:8])
    for args in (("stat", name), ("plan", "300G", "1500")):
        wide, folded = cli(*args), " ".join(cli(*args, prefix=narrow).stdout.split())
        for number in NUMBER.findall(wide.stdout):
            assert number in folded
    assert address in cli("stat", name, prefix=narrow).stdout


NUMBER = re.compile(r"(?<!\S)(?:0x[0-9a-f]+|[0-9.]+ [KMGT]iB|[0-9]+)(?!\S)")


# Names that would harm, in every consumer and every locale

NASTY = "a\n\x1b[2J\x9b31m\u202e\u2066[red]b[bold] :smile: <script>alert(1) %s {0} größe"
MAPPER = """
import mmap, os, sys, mshare
region = mshare.attach(sys.argv[1])
region.buf[:1] = b"x"
file = os.open(os.fsencode(sys.argv[2]), os.O_RDWR)
mapping = mmap.mmap(file, 1 << 21)
mapping[:] = bytes(1 << 21)
open("/proc/self/comm", "wb").write(b"c\\n\\x1b[2J\\xff\\x9b")
print("mapped", flush=True)
sys.stdin.read()
"""
LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX": {"LC_ALL": "POSIX"},
    "Latin-1": {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"},
}


@pytest.mark.parametrize("locale", LOCALES)
def test_names_are_harmless_in_every_consumer_and_locale(world: Path, tmp_path: Path, locale: str) -> None:
    mshare.create(NASTY, PAGE).close()
    file = os.fsencode(tmp_path) + b"/f\n\x1b[2J\xff\xc2\x9b\xe2\x80\xae<script>"
    Path(os.fsdecode(file)).write_bytes(bytes(1 << 21))
    mapper = (sys.executable, "-c", MAPPER, NASTY, os.fsdecode(file))
    with subprocess.Popen(mapper, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mapped\n"
        pid = f"--pid={process.pid}"
        commands: list[tuple[str, ...]] = [
            ("ls",),
            ("stat", NASTY),
            ("rm", NASTY),
            ("scan", pid, "--min", "0"),
            ("top", "--count", "1", "--min", "0"),
            ("exporter", "--once", "--objects", "1000"),
        ]
        if locale == "UTF-8":
            target = str(tmp_path / NASTY)
            commands += [
                ("ls", "--json"),
                ("create", NASTY, "1M"),
                ("cp", f"region:{NASTY}", target),
                ("scan", pid, "--min", "0", "--by", "command"),
                ("scan", pid, "--min", "0", "--save", target),
                ("report", target, "-o", "-"),
                ("report", target, "--json"),
                ("report", target, "-o", target),
                ("report", target, "--json"),  # the file is a page now, and not a snapshot
            ]
        for args in commands:
            done = subprocess.run(
                [*MSHARE, *args], capture_output=True, check=False, env={**os.environ, **LOCALES[locale]}
            )
            text = (done.stdout + done.stderr).decode("latin-1" if locale == "Latin-1" else "utf-8")
            assert [char for char in text if not char.isprintable() and char != "\n"] == [], args
            assert "Traceback" not in text, args
            assert "<script>alert" not in text or args[-2:] != ("-o", "-")
            # A name that is not ASCII cannot be given where Python is told to know nothing else.
            assert done.returncode in ({0, 2, 3, 4, 5} if locale == "ASCII" else {0, 4, 5, 9}), (args, text)
        process.communicate(b"")
