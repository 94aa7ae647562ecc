"""`mshare lab`: real clients in a real memory control group, killed by the real kernel; /proc and the group's own
files are the oracle. Sizes are tiny: the numbers of a server are taken in a guest (`make prove`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mshare._core.errors import BackendUnavailableError
from mshare._core.units import KIB, MIB
from mshare._tools.lab import sga
from mshare._tools.lab.fleet import fleet
from mshare._tools.lab.limit import Limit, control_group, whole_machine
from mshare._tools.lab.mechanisms import Place
from mshare._tools.lab.run import V1, Run
from mshare.testing.processes import in_child
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.machine

LIMIT_S = 30.0
SIZE = 64 * MIB
PAGES = SIZE // 4096


@contextmanager
def group(limit_bytes: int) -> Iterator[Limit]:
    try:
        with control_group(limit_bytes) as limit:
            yield limit
    except BackendUnavailableError as error:
        pytest.skip(f"{error}")


def lab_groups() -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob(f"mshare-lab-{os.getpid()}"))


def load(mechanism: str, limit_bytes: int, clients: int) -> Run:
    with group(limit_bytes) as limit:
        return sga.conduct(mechanism, sga.Load(SIZE, clients, samples=10), limit)


@pytest.fixture(autouse=True)
def nothing_is_left(world: Path) -> Iterator[None]:
    yield
    assert not Path(f"/dev/shm/mshare-lab-{os.getpid()}").exists()
    assert not list((world / "shm").iterdir())
    assert lab_groups() == []


@pytest.mark.parametrize(
    ("mechanism", "tables", "faults"),
    [("plain", 136 * KIB, PAGES // 16), ("thp", 8 * KIB, SIZE // (2 * MIB))],
)
def test_everybody_reads_everything_and_survives_the_creator(mechanism: str, tables: int, faults: int) -> None:
    run = load(mechanism, 400 * MIB, 20)
    assert (run.reached, run.ended_by, run.oom_kills, run.wrong) == (20, None, 0, 0)
    # A table per 2 MiB or 1 GiB, and the two above it, that no client has without the region.
    assert run.per_client_bytes() == pytest.approx(tables, rel=0.01 if run.limit_kind == V1 else 0.3)
    # Two read at a time: where one finds a page locked by the other, a fault maps fewer than 16 pages.
    assert faults <= run.faults.least <= faults * 1.1
    assert run.base_faults.most <= 2
    assert (run.asked, run.survivors, run.newcomer) == (20, 20, "ok")
    assert run.samples[0].free_bytes > run.samples[-1].free_bytes > 0


def test_the_standard_librarys_name_goes_with_its_creator() -> None:
    run = load("shared_memory", 400 * MIB, 5)
    assert (run.reached, run.survivors) == (5, 5)
    assert "No such file" in run.newcomer


def test_memory_runs_out_in_the_group_and_nowhere_else() -> None:
    run = load("plain", 110 * MIB, 300)
    assert 0 < run.reached < 300
    assert run.ended_by == sga.OUT_OF_MEMORY
    assert run.oom_kills >= 1
    assert run.samples[-1].free_bytes < MIB
    assert run.oom_log, "this process may not read /dev/kmsg"
    assert "invoked oom-killer" in run.oom_log[0]
    assert "oom_memcg=/" in " ".join(run.oom_log)
    assert "Killed process" in run.oom_log[-1]
    assert (run.survivors + run.killed_later, run.newcomer) == (run.asked, "ok")
    assert 0 < run.asked <= run.reached


def told(moment: str, do: Callable[[], None]) -> sga.Tell:
    """Do something the first time that a run says it is at `moment`."""
    pending = [do]

    def tell(text: str) -> None:
        if moment in text and pending:
            pending.pop()()

    return tell


def region() -> Path:
    return Path(f"/dev/shm/mshare-lab-{os.getpid()}")


def test_clients_that_die_with_the_creator_are_no_survivors() -> None:
    """The file is cut short just before the reading, so a client that reads on gets SIGBUS."""
    with group(400 * MIB) as limit:
        tell = told("killing the creator", lambda: os.truncate(region(), 4096))
        run = sga.conduct("plain", sga.Load(SIZE, 5), limit, tell)
    assert (run.reached, run.asked, run.survivors, run.killed_later) == (5, 5, 0, 0)
    assert run.newcomer != "ok"


def test_wrong_bytes_count_in_clients_and_in_survivors() -> None:
    def change() -> None:
        with region().open("r+b") as file:
            file.write(b"\0")

    with group(400 * MIB) as limit:
        run = sga.conduct("plain", sga.Load(SIZE, 6), limit, told("1 of 6 clients", change))
    assert (run.reached, run.wrong, run.asked, run.survivors) == (6, 5, 6, 0)
    assert "of 32 pages are right" in run.newcomer


def test_a_creator_that_dies_is_a_failure_that_leaves_nothing() -> None:
    with group(40 * MIB) as limit:  # less than the region
        run = sga.conduct("plain", sga.Load(SIZE, 5), limit)
    assert run.failure is not None
    assert "ended with status -9" in run.failure
    assert (run.reached, run.samples) == (0, ())


def test_a_way_that_this_machine_lacks_says_why() -> None:
    run = load("msharefs", 110 * MIB, 5)
    assert run.unavailable is not None
    assert "msharefs cannot be used here" in run.unavailable
    assert (run.samples, run.base) == ((), ())


def test_clients_do_not_outlive_who_counts_them(tmp_path: Path) -> None:
    """The lab is killed like any program. The orders of its zygote then end, and the zygote ends all clients."""
    path = tmp_path / "region"
    path.write_bytes(b"\1" * 4096)
    place = Place("file", str(path), 0x2000_0000_0000, 4096, 4096)
    program = (
        "from mshare._tools.lab.fleet import fleet; from mshare._tools.lab.limit import Limit\n"
        "from mshare._tools.lab.mechanisms import Place\n"
        f"with fleet(Place(*{tuple(place)!r}), 4096, Limit('machine', 0), 2) as group:\n"
        "    group.grow(5)\n"
        "    print(group.process.pid, *group.alive, flush=True)\n"
        "    input()\n"
    )
    counting = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert counting.stdout is not None
    pids = [int(word) for word in counting.stdout.readline().split()]
    assert len(pids) == 6
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    counting.send_signal(signal.SIGKILL)
    counting.communicate()
    eventually(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_wrong_bytes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "region"
    path.write_bytes(b"\1" * 4096 + b"\0" * 4096)
    with fleet(Place("file", str(path), 0x2000_0000_0000, 8192, 8192), 4096, Limit("machine", 0), 2) as group:
        group.grow(3)
        assert [arrival.good for arrival in group.alive.values()] == [1, 1, 1]


def test_a_region_that_cannot_be_attached_ends_the_run(tmp_path: Path) -> None:
    place = Place("file", str(tmp_path / "gone"), 0x2000_0000_0000, 4096, 4096)
    with fleet(place, 4096, Limit("machine", 0), 2) as group:
        group.grow(3)
        assert (len(group.alive), group.refused) == (0, "No such file or directory")


def test_who_is_not_root_is_told() -> None:
    def attempt(what: Any) -> Callable[[], str]:
        def enter() -> str:
            try:
                with what():
                    return "entered"
            except OSError as error:
                return f"{type(error).__name__}: {error}"

        return enter

    assert "as root" in in_child(attempt(lambda: control_group(1 << 30)), uid=1001).value
    assert "as root" in in_child(attempt(whole_machine), uid=1001).value


def command(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command. The test's own time limit is the command's, because a guest is many times slower."""
    line = [sys.executable, "-m", "mshare", "lab", "sga", *args]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_gives_table_picture_and_json(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with group(MIB):
        pass
    picture = tmp_path / "sga.svg"
    small = ("--memory", "400M", "--size", "64M", "--clients", "5", "--mechanisms", "thp,msharefs")
    done = command(*small, "--picture", str(picture))
    assert done.returncode == 0, done.stderr
    header, ours, other, *rest = done.stdout.splitlines()
    assert header.split()[:2] == ["MECHANISM", "CLIENTS"]
    assert ours.split()[:3] == ["mshare", "thp", "5"]
    assert other.split() == ["mshare", "msharefs", *"-----"]
    assert max(map(len, (header, ours, other))) <= 80
    assert any(line.startswith("mshare msharefs cannot be had: ") for line in rest)
    assert "mshare thp: 5 of 5 clients" in done.stderr
    assert "mshare thp: 5 clients" in picture.read_text()
    runs = [Run.from_json(run) for run in json.loads(command(*small, "--json").stdout)["runs"]]
    assert [(run.mechanism, run.reached) for run in runs] == [("thp", 5), ("msharefs", 0)]


def test_the_command_goes_on_after_a_mechanism_that_failed_and_says_so() -> None:
    with group(MIB):
        pass
    done = command("--memory", "40M", "--size", "64M", "--clients", "3", "--mechanisms", "plain,msharefs")
    assert done.returncode == 1
    assert "tmpfs + mmap FAILED: process " in done.stdout
    assert "mshare msharefs cannot be had: " in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(number: int) -> None:
    with group(MIB):
        pass
    line = [sys.executable, "-m", "mshare", "lab", "sga", "--memory", "400M", "--size", "64M", "--mechanisms", "plain"]
    started = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    assert "making" in started.stderr.readline()
    assert "1 of 1500 clients" in started.stderr.readline()
    deadline = time.monotonic() + LIMIT_S
    while started.poll() is None and time.monotonic() < deadline:  # again and again: none ends the clean-up
        started.send_signal(number)
    _, err = started.communicate(timeout=LIMIT_S)
    assert started.returncode in (130, 128 + number)
    assert "mshare: " not in err.partition("1 of 1500 clients")[2]
    assert not Path(f"/dev/shm/mshare-lab-{started.pid}").exists()
    assert not list(Path("/sys/fs/cgroup").rglob(f"mshare-lab-{started.pid}"))


def test_a_group_that_others_have_removed_is_no_error() -> None:
    began = time.monotonic()
    with group(MIB) as limit:
        assert limit.group is not None
        limit.group.rmdir()
    assert time.monotonic() - began < LIMIT_S / 2


def test_a_group_that_a_signal_separates_from_its_maker_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes when mkdir(2) has returned, as it does to Python."""
    with group(MIB):
        pass
    real = Path.mkdir

    def make_and_be_interrupted(path: Path) -> None:
        real(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", make_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt), control_group(MIB):
        pass


def test_an_unknown_mechanism_is_a_usage_error() -> None:
    done = command("--mechanisms", "thp,\x1b[2J")
    assert done.returncode == 2
    assert "\\x1b[2J" in done.stderr
    assert "\x1b" not in done.stderr
