"""A tiny comparison: real mechanisms, real deaths. A failure is a result, and nothing is left on the machine."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.waiting import eventually

pytestmark = [
    pytest.mark.machine,
    pytest.mark.usefixtures("pool_turn"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
]

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks.compare", "--quick", "--size", "4M", "--random-size", "4M"]


def test_two_mechanisms_and_their_fates(tmp_path: Path) -> None:
    mechanisms = ["mshare shm", "multiprocessing.shared_memory"]
    columns = ["process", "random", "creator", "full", "crowd"]
    arguments = [
        "--mechanisms",
        ",".join(mechanisms),
        "--columns",
        ",".join(columns),
        "--small-size",
        "2M",
        "--processes",
        "5",
    ]
    files = ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    run = subprocess.run([*COMMAND, *arguments, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert not [name for name in os.listdir("/dev/shm") if "mshare-compare" in name]
    assert "root-of-mshare" not in Path("/proc/self/mountinfo").read_text()
    assert run.stdout == (tmp_path / "out.md").read_text()
    document = json.loads((tmp_path / "out.json").read_text())
    found: dict[tuple[str, str], Any] = {(one["mechanism"], one["column"]): one for one in document["outcomes"]}
    assert set(found) == {(mechanism, column) for mechanism in mechanisms for column in columns}
    assert not [one for one in found.values() if one["failure"]]
    ours, rival = ({column: found[mechanism, column]["values"] for column in columns} for mechanism in mechanisms)
    assert ours["creator"] == {
        "others": "ok",
        "newcomer": "ok",
        "later": "ok",
        "kept_bytes": ours["creator"]["kept_bytes"],
    }
    assert ours["creator"]["kept_bytes"] >= 2 << 20
    assert "FileNotFoundError" in rival["creator"]["newcomer"]
    assert ours["full"]["step"] == "create"
    assert "NoSpaceError" in ours["full"]["how"]
    assert rival["full"] == {"step": "touch", "how": "killed by SIGBUS"}
    assert ours["crowd"]["attached"] == rival["crowd"]["attached"] == 5
    assert ours["process"]["vmpte_bytes"] >= 8 << 10
    assert ours["random"]["ns"] > 0


def only_child(pid: int, comm: str) -> int:
    """Wait until a process has become `comm` and has a child, and return the child."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    eventually(lambda: children.read_text() and is_program(pid, comm), f"{pid} has no child")
    return int(children.read_text().split()[0])


def is_program(pid: int, comm: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().startswith(comm)


def test_an_interrupted_run_keeps_the_columns_that_were_done(tmp_path: Path) -> None:
    mechanisms, files = ["mshare shm", "posix_ipc"], [tmp_path / "out.json", tmp_path / "out.md"]
    arguments = ["--mechanisms", ",".join(mechanisms), "--columns", "process,creator", "--small-size", "2M"]
    arguments += ["--json", str(files[0]), "--markdown", str(files[1])]
    run = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stderr is not None
        assert any(line.startswith("creator: mshare shm") for line in run.stderr)
        run.send_signal(signal.SIGTERM)
        assert run.communicate()[0] == ""
    assert run.returncode == 128 + signal.SIGTERM
    done = json.loads(files[0].read_text())["outcomes"]
    assert [(one["mechanism"], one["column"]) for one in done] == [(mechanism, "process") for mechanism in mechanisms]
    assert "| posix_ipc |" in files[1].read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_death_of_the_benchmark_ends_its_trial(number: signal.Signals) -> None:
    run = subprocess.Popen(
        [*COMMAND, "--mechanisms", "mshare shm", "--columns", "creator"], cwd=ROOT, stderr=subprocess.PIPE
    )
    with run:
        first = only_child(only_child(run.pid, "python"), "unshare")
        trial = os.pidfd_open(first)
        # Until `unshare` has asked the kernel for it, its child does not die with it. A stopped child could never ask.
        eventually(lambda: is_program(first, "python"))
        os.kill(first, signal.SIGSTOP)  # so that the process would not end by itself
        run.send_signal(number)
        run.communicate()
    ended = select.select([trial], [], [], 60)[0]
    os.close(trial)
    assert ended, "the trial lives on"
