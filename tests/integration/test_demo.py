"""A small demo, run as people run it: its statements are true, and nothing is left, however the demo ends."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

import mshare
from mshare._core import backends
from mshare._core.backend import Space
from mshare._core.units import MIB
from mshare._tools.demo import flights
from mshare._tools.demo.main import fitting_size, left_behind
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.timeout(300)  # dozens of interpreters per test; a busy machine takes minutes

SHM = Path("/dev/shm")
DEMO = [sys.executable, "-m", "mshare", "demo", "--size", "16M", "--processes", "5", "--no-projection", "--json"]


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(demo: subprocess.Popen[str], step: str) -> None:
    assert demo.stderr is not None
    for line in demo.stderr:
        if step in line:
            return
    pytest.fail(f"the demo ended before step {step!r}")


def files_of(pid: int, world: Path) -> list[Path]:
    return [path for place in (SHM, world / "shm") for path in place.glob(f"mshare-demo-{pid}*")]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def means_by_hand() -> dict[str, tuple[int, float]]:
    """A third computation, of the standard library alone."""
    delays = defaultdict(list)
    with zipfile.ZipFile(flights.data_file()) as archive, archive.open("flights.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file)):
            if row["arr_delay"] != "NA":
                delays[row["carrier"]].append(int(row["arr_delay"]))
    return {carrier: (len(values), sum(values) / len(values)) for carrier, values in delays.items()}


def test_it_shows_what_it_promises_and_leaves_nothing(world: Path) -> None:
    demo = start()
    output, steps = demo.communicate()
    assert demo.returncode == 0, steps
    result = json.loads(output)
    story = result["story"]
    assert {c: (d["flights"], d["mean_minutes"]) for c, d in story["delays"].items()} == means_by_hand()
    assert story["rows"] == 336_776 * story["tiles"]
    assert story["workers_agreeing"] == story["workers_attached_after_kill"] == story["processes"] == 5
    assert story["latecomer_agrees"] is True
    assert 0 < story["columns_written_when_killed"] < story["columns"] == 19
    assert 0 < story["rows_done_when_killed"] < story["rows"] * 5
    mechanisms = {line["cost"]["mechanism"]: line["cost"] for line in result["bill"]["lines"]}
    assert {"mshare shm", "multiprocessing.shared_memory"} <= set(mechanisms)
    assert mechanisms["mshare shm"]["process"]["vmpte_bytes"] >= 8 * 4096
    assert all(line["projected_bytes"] is None for line in result["bill"]["lines"])
    assert result["left_behind"] == []
    assert files_of(demo.pid, world) == []
    assert mshare.regions() == []


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("a loader, killed", signal.SIGINT),
        ("second loader", signal.SIGINT),
        ("up to the middle", signal.SIGINT),
        ("mshare shm: attach", signal.SIGINT),
        ("shared_memory: attach", signal.SIGINT),
        ("the second half", signal.SIGTERM),
        ("the second half", signal.SIGHUP),
    ],
)
def test_a_signal_in_the_middle_leaves_nothing(world: Path, step: str, number: signal.Signals) -> None:
    demo = start()
    wait_for_step(demo, step)
    demo.send_signal(number)
    output, errors = demo.communicate()
    assert demo.returncode == 128 + number, errors
    assert output == ""
    assert files_of(demo.pid, world) == []
    assert mshare.regions() == []


def test_a_worker_that_dies_is_an_error_and_leaves_nothing(world: Path) -> None:
    demo = start()
    wait_for_step(demo, "up to the middle")
    os.kill(children_of(demo.pid)[-1], signal.SIGKILL)
    output, errors = demo.communicate()
    assert demo.returncode == 1
    assert output == ""
    assert "ended with status -9" in errors
    assert files_of(demo.pid, world) == []


def test_what_a_killed_demo_leaves_gc_removes(world: Path) -> None:
    demo = start()
    wait_for_step(demo, "the second half")
    demo.kill()
    _, errors = demo.communicate()
    assert errors.count("Traceback") == 0, "its children end in silence"
    eventually(lambda: all(info.orphan for info in mshare.regions()))  # the demo's children end when the demo has gone
    assert [info.name for info in mshare.gc()] == [f"mshare-demo-{demo.pid}"]
    assert files_of(demo.pid, world) == []


def test_the_files_of_another_demo_are_its_own(world: Path) -> None:
    mine = {"mshare-demo-123", "mshare-demo-123-bill"}
    for name in (*mine, "mshare-demo-1234", "mshare-demo-1234-bill"):
        mshare.create(name, 4096).close()
    assert {path.name for path in left_behind("mshare-demo-123")} == mine


@pytest.mark.parametrize(
    ("size", "code", "hint"),
    [
        ("1M", 2, "one copy of the table needs"),
        ("8000T", 6, "pass a smaller --size"),
        ("0", 2, "16M or more"),
    ],
)
def test_a_size_that_cannot_be_says_what_to_do(world: Path, size: str, code: int, hint: str) -> None:
    run = subprocess.run([*DEMO[:-1], "--size", size], capture_output=True, text=True, check=False)
    assert run.returncode == code, run.stderr
    assert hint in run.stderr
    assert mshare.regions() == []


@pytest.mark.parametrize("limit", ["memory", "free space of /dev/shm"])
def test_a_larger_file_system_is_proposed_where_it_is_the_limit(
    world: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(type(backends.ALL[-1]), "space", lambda _: Space(100 * MIB, limit))
    with pytest.raises(mshare.NoSpaceError, match="100 MiB can be had") as raised:
        fitting_size(200 * MIB)
    proposed = re.search(r"remount,size=(\d+)M /dev/shm .*--shm-size=\1m", raised.value.hint)
    assert (proposed is not None) is (limit != "memory")
    if proposed is not None:
        status = os.statvfs(SHM)
        assert int(proposed[1]) * MIB > status.f_blocks * status.f_frsize + 100 * MIB
