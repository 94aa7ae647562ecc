"""A /proc with missing or hidden parts, a /proc of another PID namespace, and no /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core.geometry import PAGE, PMD
from mshare._core.linux.mounts import private
from mshare.testing.processes import in_child
from tests.helpers.worlds import STRANGER, needs_root, window_mappings

pytestmark = needs_root


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def only_processes(world: Path) -> None:
    """Leave a /proc as systemd's ProcSubset=pid does: no /proc/meminfo, no /proc/sys."""
    mount("-t", "proc", "-o", "subset=pid", "proc", "/proc")
    assert not os.path.exists("/proc/meminfo")


def no_mountinfo(world: Path) -> None:
    secret = world / "secret"
    secret.touch(mode=0)
    mount("--bind", str(secret), f"/proc/{os.getpid()}/mountinfo")
    os.chown(world / "shm" / "r", STRANGER, STRANGER)
    os.setuid(STRANGER)
    with pytest.raises(PermissionError):
        Path("/proc/self/mountinfo").read_bytes()


def nothing(world: Path) -> None:
    mount("-t", "tmpfs", "none", "/proc")


def foreign(world: Path) -> None:
    """The /proc of a PID namespace below, which does not have this process."""
    place = world / "proc"
    place.mkdir()
    program = f"mount -t proc proc {place}; echo ready; read line"
    inner = subprocess.Popen(
        ["unshare", "--pid", "--fork", "sh", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert inner.stdout is not None
    assert inner.stdout.readline() == b"ready\n"
    mount("--move", str(place), "/proc")
    assert not os.path.exists("/proc/self")


def everything() -> dict[str, Callable[[], Any]]:
    def seal() -> bool:
        with mshare.create_anonymous(PAGE) as region:
            region.handle().close()
            region.seal()
            return region.sealed

    def attach() -> int:
        with mshare.attach("r") as region:
            assert region.info().orphan is False
            return region.buf[0]

    def anywhere() -> int:
        with mshare.attach("r") as first, mshare.attach("r", addr=mshare.ANYWHERE) as second:
            assert first.addr != second.addr
            return second.buf[0]

    return {
        "create": lambda: mshare.create("new", PAGE).close(),
        "create thp": lambda: mshare.create("huge", PMD, backend="thp").close(),
        "attach": attach,
        "anywhere": anywhere,
        "mshare": lambda: mshare.mshare("r", None, 0, os.O_RDONLY).close(),
        "seal": seal,
        "regions": lambda: {info.name for info in mshare.regions()} >= {"r"},
        "gc": lambda: mshare.gc(older_than=1e9),
        "mshare_unlink": lambda: mshare.mshare_unlink("r"),
    }


ANSWERS = {"attach": 7, "anywhere": 7, "seal": True, "regions": True, "gc": [], "mshare_unlink": True}


@pytest.mark.parametrize(
    ("hide", "named", "working"),
    [
        (only_processes, "", set(everything())),
        (no_mountinfo, "", set(everything())),
        (nothing, "there is no /proc", {"attach", "anywhere", "mshare"}),
        (foreign, "PID namespace", {"attach", "anywhere", "mshare"}),
    ],
)
def test_each_call_works_or_names_what_is_missing(
    world: Path, hide: Callable[[Path], None], named: str, working: set[str]
) -> None:
    mshare.create("r", PAGE, backend="shm", fill=lambda view: view.__setitem__(0, 7)).close()

    def run() -> list[str]:
        assert private()
        hide(world)
        wrong = []
        for name, call in everything().items():
            if name in working:
                got = call()
                wrong += [] if got == ANSWERS.get(name) else [f"{name}: {got!r}"]
                continue
            with pytest.raises(mshare.MshareError, match=named) as caught:
                call()
            assert "mount -t proc" in caught.value.hint
        return wrong

    assert in_child(run).value == []
    assert window_mappings() == []


def test_a_root_of_another_kind_is_named_without_the_mount_table(world: Path, tmp_path: Path) -> None:
    def run() -> str:
        assert private()
        (world / "shm" / "r").touch()
        mount("-t", "ramfs", "none", str(world / "shm"))
        (world / "shm" / "r").touch()
        no_mountinfo(world)
        with pytest.raises(mshare.BackendUnavailableError, match="not tmpfs") as caught:
            mshare.create("new", PAGE, backend="shm")
        return caught.value.hint

    assert "mount -t tmpfs" in in_child(run).value


def test_in_a_pid_namespace_the_outer_proc_tells_its_own_numbers(world: Path) -> None:
    """`pids` has the numbers that /proc shows. Locks know no namespaces: nothing is taken for an orphan."""
    mshare.create("r", PAGE, backend="shm").close()
    program = """
import os, mshare
assert os.getpid() == 1
with mshare.attach("r") as region:
    info = region.info()
    assert info.pids == (int(os.readlink("/proc/self")),) != (1,), info.pids
    assert not info.orphan and mshare.gc() == []
    child = os.fork()
    if child == 0:
        region.close()
        try:
            mshare.mshare_unlink("r")
        except mshare.RegionBusyError as error:
            os._exit(str(info.pids[0]) not in str(error))
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    with mshare.create("new", PAGE := 4096) as other, other.handle() as handle:
        mshare.attach(handle, addr=mshare.ANYWHERE).close()
assert mshare.mshare_unlink("r")
print("done")
"""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
