"""Tiny runs of the benchmarks: every mechanism is measured, the report has every target, nothing is left or changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("pool_turn"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SHM = Path("/dev/shm")
COMMAND = [sys.executable, "-m", "benchmarks", "--quick", "--sizes", "4M"]


def left_by(pid: int) -> list[Path]:
    return list(SHM.glob(f"mshare-bench-{pid}*"))


def test_every_mechanism_is_in_json_and_report(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    run = subprocess.Popen([*COMMAND, *files], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, steps = run.communicate()
    assert run.returncode == 0, steps
    document = json.loads((tmp_path / "out.json").read_text())
    mechanisms = {cost["mechanism"] for cost in document["costs"]}
    expected = {"nothing (baseline)", "mshare shm", "multiprocessing.shared_memory", "memfd (bare)", "posix_ipc"}
    assert expected | {"SharedArray"} <= mechanisms
    assert ("mshare hugetlb" in mechanisms) or any("hugetlb is missing" in note for note in document["notes"])
    assert {cost["size_bytes"] for cost in document["costs"]} == {4 << 20}
    assert document["machine"]["cpus"] == os.cpu_count()
    assert output == (tmp_path / "out.md").read_text()
    assert "## Targets" in output
    assert all(mechanism in output for mechanism in mechanisms)
    assert left_by(run.pid) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_everything_back(number: signal.Signals) -> None:
    run = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    assert any("shared_memory: attach" in line for line in run.stderr)
    run.send_signal(number)
    run.communicate()
    assert run.returncode == 128 + number
    assert left_by(run.pid) == []
    assert str(run.pid) not in Path("/proc/self/mountinfo").read_text()


def test_the_cost_of_a_preloaded_library() -> None:
    command = [sys.executable, "-m", "benchmarks.preloaded", "--runs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("| true |") == done.stdout.count("| `python3 -c pass` |") == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: collapses the memory of another process")
def test_the_disturbance_by_a_collapse(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.disturb", "--size", "16M", "--rounds", "1", "--seconds", "1"]
    command += ["--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    for run in runs:
        assert f"| {run['way']} |" in done.stdout
        assert 0 < run["p50_us"] <= run["p99_us"] <= run["p999_us"] <= run["longest_us"]
