"""`mshare collapse` on this kernel: page tables of all processes, regions on msharefs, and settings that no test may
change on a host."""

import errno
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mshare._core.linux import libc
from mshare._core.linux.proc import status_fields
from mshare._tools.lab.limit import control_group
from mshare._tools.lab.run import V2
from mshare._tools.scan.case import SHMEM_ENABLED, chosen
from tests.helpers.mappers import LONELY, PAGE, PMD, Mapping, mapped

from . import mfs

BLOCKS = 7
SIZE = BLOCKS * PMD


def collapse(*words: object) -> tuple[int, Any]:
    """Return the exit code, and what is said of the only object that is chosen."""
    command = [sys.executable, "-m", "mshare", "collapse", *map(str, words), "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    (found,) = json.loads(done.stdout)["objects"]
    return done.returncode, found


def vmpte(pid: int) -> int:
    return status_fields(pid)["VmPTE"]


@contextmanager
def shmem_enabled(value: str) -> Iterator[None]:
    setting = pathlib.Path(SHMEM_ENABLED)
    before = chosen(setting.read_text())
    setting.write_text(value)
    try:
        yield
    finally:
        setting.write_text(before)


@pytest.mark.parametrize("kind", ["memfd", "sysv", "anonymous"])
def test_one_call_frees_the_page_tables_of_all(kind: str) -> None:
    with mapped(Mapping(kind, SIZE, processes=3)) as found:
        before = {pid: vmpte(pid) for pid in found.pids}
        code, said = collapse("--pid", found.pids[1])
        freed = {pid: before[pid] - vmpte(pid) for pid in found.pids}
    assert (code, said["result"]["collapsed"], said["result"]["refused"]) == (0, BLOCKS, {})
    assert said["result"]["blocks"]["huge"] == BLOCKS
    assert set(freed.values()) == {BLOCKS * PAGE}


def test_what_another_run_has_begun_is_finished() -> None:
    """The first process has been collapsed by a call of its own: Linux 6.1 leaves the page tables of the others."""
    with mapped(Mapping("memfd", SIZE, processes=3)) as found:
        before = {pid: vmpte(pid) for pid in found.pids}
        pidfd = os.pidfd_open(found.pids[0])
        libc.process_madvise(pidfd, LONELY, SIZE, libc.MADV_COLLAPSE)
        os.close(pidfd)
        code, said = collapse("--pid", found.pids[1])
        freed = {pid: before[pid] - vmpte(pid) for pid in found.pids}
    assert (code, said["blocks"]["huge"]) == (0, BLOCKS)
    assert set(freed.values()) == {BLOCKS * PAGE}


@pytest.mark.parametrize("value", ["never", "advise", "within_size"])
def test_these_settings_allow_it(value: str) -> None:
    with shmem_enabled(value), mapped(Mapping("memfd", SIZE, processes=2, part=3 / BLOCKS)) as found:
        code, said = collapse("--pid", found.pids[0])
    assert code == 0
    huge_before = said["blocks"]["huge"]
    assert said["blocks"]["warm"] + huge_before == 3
    assert huge_before == 3 or said["result"]["collapsed"] == 3 - huge_before


def test_deny_forbids_it() -> None:
    with mapped(Mapping("memfd", SIZE, processes=2)) as found, shmem_enabled("deny"):
        code, said = collapse("--pid", found.pids[0])
        pidfd = os.pidfd_open(found.pids[0])
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            libc.process_madvise(pidfd, LONELY, PMD, libc.MADV_COLLAPSE)
        os.close(pidfd)
    assert code == 8
    assert "is deny" in said["refusal"]["reason"]


def test_a_region_on_msharefs_is_refused() -> None:
    path = f"{mfs.ROOT}/collapsed"
    try:
        with mapped(Mapping("tmpfs", path=path, size=1 << 30, step=PMD, processes=2)) as found:
            code, said = collapse("--pid", found.pids[0])
    finally:
        os.unlink(path)
    assert code == 8
    assert "share page tables" in said["refusal"]["reason"]


def test_a_control_group_of_version_2_at_its_limit() -> None:
    with control_group(256 << 20) as limit:
        assert limit.kind == V2
        assert limit.group is not None
        enter = ("sh", "-c", f'echo $$ > {limit.group}/cgroup.procs && exec "$@"', "sh")
        with mapped(Mapping("memfd", SIZE, processes=2), *enter) as found:
            used = int((limit.group / "memory.current").read_text())
            (limit.group / "memory.max").write_text(str(used + PMD // 2))
            code, said = collapse("--pid", found.pids[0])
            assert [pathlib.Path(f"/proc/{pid}").exists() for pid in found.pids] == [True, True]
        assert limit.oom_kills() == 0
    assert code == 6
    assert "memory limit of control group" in said["result"]["stopped"]
