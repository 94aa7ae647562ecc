"""Commands where the machine hides or forbids something: each says so, with its documented exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from worlds import needs_root, small_tmpfs

import mshare
from mshare._core.geometry import PAGE
from mshare.testing.processes import Nursery

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
