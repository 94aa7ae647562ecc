"""`mshare scan` on processes that hide, vanish, lie and exaggerate."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

import mshare
from mshare._core.linux.mounts import private
from mshare._core.linux.process import ProcessDirectory
from mshare._tools.collect import Choice, collect
from mshare._tools.scan.saved import dump, load
from mshare._tools.scan.show import remarks
from mshare._tools.scan.survey import survey
from mshare.testing.processes import in_child
from tests.helpers.mappers import PAGE, Mapping, mapped
from tests.helpers.worlds import STRANGER, needs_root, small_tmpfs
from tests.integration.test_cli import MSHARE, answer, fails, ok

pytestmark = pytest.mark.machine

HOSTILE = "a\n\x1b[2J\x1b]0;owned\x07[red]\u202egnp"


def as_stranger() -> None:
    os.setresgid(STRANGER, STRANGER, STRANGER)
    os.setresuid(STRANGER, STRANGER, STRANGER)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        yield process.pid
        process.kill()


# What is found


def test_a_region_has_its_name(world: Path) -> None:
    with mshare.create("sga", 8 << 20, backend="thp") as region:
        region.buf[0] = 1
        (found,) = [each for each in answer("scan", "--min", "0")["objects"] if each["region"] == "sga"]
    assert found["object"] == "region sga"
    assert found["leaves"] == [2 << 20]
    assert str(os.getpid()) in found["by_process"]


@needs_root
def test_sysv_memory_of_two_namespaces_is_two_objects() -> None:
    """Both are number 0, of the same kernel mount."""
    mapping = Mapping(kind="sysv", processes=1, size=1 << 20)
    with mapped(mapping, "unshare", "--ipc") as one, mapped(mapping, "unshare", "--ipc") as two:
        snapshot = collect(choice=Choice(pids=one.pids + two.pids))
    first, second = (each for each in snapshot.objects if each.kind == "SysV")
    assert (first.dev, first.ino) == (second.dev, second.ino)
    assert first.namespace != second.namespace


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    mapping = Mapping(kind="file", size=1 << 20, processes=2, path=str(tmp_path / HOSTILE))
    with mapped(mapping) as living:
        pids = [f"--pid={pid}" for pid in living.pids]
        text = ok("scan", "--min", "0", *pids)
        found = answer("scan", "--min", "0", *pids)["objects"]
    assert "\x1b" not in text
    assert "\u202e" not in text
    (line,) = [line for line in text.splitlines() if "owned" in line]
    assert r"a\n\x1b[2J\x1b]0;owned\x07[red]\u202egnp" in line
    assert any(each["object"].endswith(HOSTILE) for each in found)


def test_projection_and_groups(world: Path) -> None:
    with mapped(Mapping(size=256 << 20, step=1 << 21, processes=4)) as living:
        pids = [f"--pid={pid}" for pid in living.pids]
        (found,) = [
            each for each in answer("scan", "--exact", "--project", "1500", *pids)["objects"] if each["kind"] == "memfd"
        ]
        by_command = answer("scan", "--by", "command", *pids)["groups"]
        table = ok("scan", "--exact", "--project", "1500", *pids)
    each_pays = 128 * PAGE + 2 * PAGE  # PTE pages, a PMD page, a PUD page
    assert found["page_table_bytes"]["likely"] == 4 * each_pays
    assert found["what_if"] == {
        "now": 4 * each_pays,
        "shared": 129 * PAGE + 4 * PAGE,
        "leaves_2m": 4 * 2 * PAGE,
        "leaves_1g": 4 * PAGE,
    }
    assert found["projected"] == {
        "now": 1500 * each_pays,
        "shared": 129 * PAGE + 1500 * PAGE,
        "leaves_2m": 1500 * 2 * PAGE,
        "leaves_1g": 1500 * PAGE,
    }
    assert "AT 1500" in table
    (group,) = by_command
    assert sorted(group["pids"]) == list(living.pids)
    assert group["shared"] >= 4 * 128 * PAGE


# What cannot be seen


@needs_root
def test_unreadable_processes_are_counted(sleeper: int) -> None:
    def look() -> tuple[int, int, int]:
        as_stranger()
        snapshot = collect()
        (process,) = [each for each in snapshot.processes if each.pid == sleeper]
        found = survey(snapshot)
        (root,) = [each for each in found.unreadable if each.uid == 0]
        return process.vmpte, root.processes, int(process.areas is None)

    vmpte, count, closed = in_child(look).value
    assert closed
    assert vmpte > 0
    assert count >= 2  # the sleeper, and pytest


@needs_root
def test_hidden_processes_are_said_to_be_hidden(sleeper: int) -> None:
    def look() -> tuple[list[int], list[str]]:
        assert private()
        subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
        as_stranger()
        snapshot = collect()
        return [each.pid for each in snapshot.processes], list(snapshot.system.blind)

    seen, blind = in_child(look).value
    assert sleeper not in seen
    assert len(blind) == 1
    assert "hidepid" in blind[0]


@needs_root
def test_processes_that_may_not_be_looked_at_are_counted(sleeper: int) -> None:
    def look() -> tuple[list[int], list[str]]:
        assert private()
        subprocess.run(["mount", "-t", "proc", "-o", "hidepid=1", "proc", "/proc"], check=True)
        as_stranger()
        snapshot = collect()
        return [each.pid for each in snapshot.processes], list(snapshot.system.blind)

    seen, blind = in_child(look).value
    assert sleeper not in seen
    assert any("may not be looked at" in each for each in blind)


def test_a_process_whose_main_thread_has_ended_is_seen() -> None:
    program = (
        "import ctypes, mmap, threading\n"
        "m = mmap.mmap(-1, 64 << 20)\n"
        "for at in range(0, 64 << 20, 4096): m[at] = 1\n"
        "def stay(): print('there', flush=True); input()\n"
        "threading.Thread(target=stay).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"there\n"
        for _ in range(1000):
            if b"State:\tZ" in Path(f"/proc/{it.pid}/status").read_bytes():
                break
        found = survey(collect(choice=Choice(pids=[it.pid]), exact=True))
        it.kill()
    (usage,) = [each for each in found.usages if each.object is not None and each.object.kind == "anonymous"]
    assert usage.now.likely >= 31 * PAGE  # 32 tables, of which the first and the last may serve others, too


def test_what_has_no_memory_is_named_and_a_thread_is_no_process() -> None:
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert f"process {zombie.pid} has no memory" in ok("scan", "--pid", str(zombie.pid))
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert "there is no process" in fails(3, "scan", "--pid", str(thread.native_id))
    finally:
        stop.set()
        thread.join()


def test_backslashes_in_names_are_what_they_are(tmp_path: Path) -> None:
    name = r"a\057..\057etc\057shadow"
    with mapped(Mapping(kind="file", size=1 << 20, processes=1, path=str(tmp_path / name))) as living:
        found = answer("scan", "--min", "0", f"--pid={living.pids[0]}")["objects"]
    assert str(tmp_path / name) in [each["object"] for each in found]


@needs_root
def test_a_pid_namespace_is_named_from_inside_and_from_outside() -> None:
    mapping = Mapping(processes=2, size=1 << 20)
    with mapped(mapping, "unshare", "--pid", "--fork", "--mount-proc"):
        assert survey(collect()).nested >= 3
    inside = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "mshare", "scan"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PID namespace" in inside.stdout


def test_processes_that_end_meanwhile_are_counted() -> None:
    """Ends a process between the listing of /proc and the look at the process, when the progress is reported."""
    with subprocess.Popen(["sleep", "infinity"]) as victim:

        def kill_it(_done: int, _total: int) -> None:
            if victim.returncode is None:
                victim.kill()
                victim.wait()

        snapshot = collect(progress=kill_it)
    assert victim.pid not in [each.pid for each in snapshot.processes]
    assert snapshot.vanished >= 1
    assert "ended while they were read" in " ".join(remarks(snapshot, survey(snapshot)))


@needs_root
def test_a_reused_pid_is_not_taken_for_the_process_before() -> None:
    """The number belongs to another process now. The descriptor of the first process reads nothing of the second."""
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(1000):
        with subprocess.Popen(["sleep", "infinity"]) as first, ProcessDirectory(f"/proc/{first.pid}") as directory:
            assert directory.read("maps")
            first.kill()
            first.wait()
            last_pid.write_text(str(first.pid - 1))
            with subprocess.Popen(["sleep", "infinity"]) as second:
                try:
                    if second.pid != first.pid:
                        continue  # another program has started a process in between
                    assert Path(f"/proc/{second.pid}/maps").read_bytes()
                    with pytest.raises(ProcessLookupError):
                        directory.read("maps")
                    return
                finally:
                    second.kill()
    pytest.fail("no pid was ever reused")


# What is too much


@needs_root
def test_a_hundred_thousand_mappings_in_one_process() -> None:
    limit = Path("/proc/sys/vm/max_map_count")
    with limit.open() as turn:
        flock(turn, LOCK_EX)  # sessions that run at the same time take turns
        before = limit.read_text()
        limit.write_text("200000")
        try:
            mapping = Mapping(size=100_000 * PAGE, pieces=100_000, processes=1, part=0.01)
            with mapped(mapping) as living:
                snapshot = collect(choice=Choice(pids=living.pids), exact=True)
        finally:
            limit.write_text(before)
    (process,) = snapshot.processes
    assert process.areas is not None
    assert len(process.areas) > 99_990
    (usage,) = [each for each in survey(snapshot).usages if each.object is not None and each.object.kind == "memfd"]
    assert usage.size == 100_000 * PAGE
    assert load(dump(snapshot)) == snapshot


# Files


def test_a_saved_snapshot_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "s.snapshot"
    with mapped(Mapping()) as living:
        pids = [f"--pid={pid}" for pid in living.pids]
        live = answer("scan", "--exact", "--save", str(file), *pids)
    assert answer("scan", "--from", str(file)) == live
    assert [path.name for path in tmp_path.iterdir()] == ["s.snapshot"]
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-9])
    assert "cut short" in fails(9, "scan", "--from", str(cut))
    assert "/etc/passwd: the file is not a snapshot" in fails(9, "scan", "--from", "/etc/passwd")
    fails(3, "scan", "--from", str(tmp_path / "nothing"))


@needs_root
def test_a_full_disk_leaves_the_older_snapshot(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path, "8k"):
        file = tmp_path / "s.snapshot"
        file.write_bytes(b"older")
        fails(6, "scan", "--save", str(file))
        assert file.read_bytes() == b"older"
        assert [path.name for path in tmp_path.iterdir()] == ["s.snapshot"]


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    pids = f"--pid={os.getpid()}"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([*MSHARE, "scan", "--save", str(pipe), pids], stdout=subprocess.DEVNULL) as writer:
        assert load(pipe.read_bytes()).partial
    assert writer.returncode == 0
    assert pipe.is_fifo()
    full = Path("/dev/full")
    fails(6, "scan", pids, "--save", str(full))
    assert full.is_char_device()
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    ok("scan", pids, "--save", str(link))
    assert link.is_symlink()
    assert load(target.read_bytes()).partial
    assert str(tmp_path / "no" / "s") in fails(3, "scan", pids, "--save", str(tmp_path / "no" / "s"))


# Arguments


def test_arguments_that_make_no_sense() -> None:
    assert "4194305" in fails(3, "scan", "--pid", "4194305")
    assert "no user" in fails(2, "scan", "--user", "nobody of that name")
    assert "is not one of" in fails(2, "scan", "--by", "colour")
    fails(2, "scan", "--by", "user", "--project", "3")
    fails(2, "scan", "--project", "0")
    fails(2, "scan", "--min", "lots")
    fails(2, "scan", "--exact", "--from", "x")


def test_few_descriptors_are_enough(sleeper: int) -> None:
    program = "from mshare._tools.collect import collect\nfor each in collect(exact=True).processes: print(each.pid)"
    done = subprocess.run(
        ["prlimit", "--nofile=16", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert str(sleeper) in done.stdout.split()
