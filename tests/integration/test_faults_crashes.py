"""SIGKILL at any moment, races for a name, and locks in the wrong hands."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mshare
from mshare._core.geometry import PAGE, PMD
from mshare._core.names import find
from mshare._core.record import ATTACHED_BYTE, NAME_BYTE
from mshare.testing.conformance import backend_of, files
from mshare.testing.processes import Nursery, in_child
from tests.helpers.waiting import eventually
from tests.helpers.worlds import STRANGER, free_bytes, needs_root, small_tmpfs, window_mappings

SIZE = 5 * PMD + 3 * PAGE + 1


@pytest.fixture
def own_space(backend: str, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The root of `backend`, on a private file system, so that no other process changes the free space."""
    place = backend_of(backend).root()
    assert place is not None
    root = Path(place)
    if backend == "hugetlb":
        subprocess.run(["umount", "--lazy", str(root)], check=True)
        options = f"size={64 * PMD},mode=1777,pagesize=2M"
        subprocess.run(["mount", "-t", "hugetlbfs", "-o", options, "none", str(root)], check=True)
        yield root
        return
    with small_tmpfs(root, "128M"):
        yield root


def assert_complete(name: str, size: int) -> None:
    """A name that exists means a region that works, whole and zero."""
    with mshare.attach(name) as region:
        assert region.size == size
        assert region.buf[0] == 0
        assert region.buf[size - 1] == 0
        status = os.stat(region.info().path)
        assert status.st_blocks * 512 >= size


@needs_root
def test_a_creator_killed_at_any_moment(backend: str, own_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments are spread over the measured duration of a creation. The kill comes from outside."""
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    empty = free_bytes(own_space)
    seen = {True: 0, False: 0}
    with Nursery() as nursery:
        worker = nursery.start()
        started = time.perf_counter()
        worker.do("create", number=1, name="r", size=SIZE)
        takes_s = time.perf_counter() - started
        worker.do("mshare_unlink", name="r")
        worker.kill()
        rng = random.Random(7)
        for turn in range(41):
            worker = nursery.start()
            worker.send("create", number=1, name="r", size=SIZE)
            if turn % 5 == 0:
                assert worker.answer().error is None  # so that some die after the publication, on any machine
            until = time.perf_counter() + (turn % 5) / 4 * rng.uniform(0, 1.5 * takes_s)
            while time.perf_counter() < until:
                if "r" in os.listdir(own_space):
                    assert_complete("r", SIZE)
                    break
            assert worker.kill() == -9
            existed = "r" in os.listdir(own_space)
            assert existed or turn % 5
            seen[existed] += 1
            if existed:
                assert_complete("r", SIZE)
                eventually(lambda: mshare.regions()[0].orphan, lambda: f"no orphan: {mshare.regions()}")
                assert mshare.mshare_unlink("r")
            eventually(lambda: free_bytes(own_space) == empty, lambda: f"leaked {empty - free_bytes(own_space)} bytes")
            assert files() == []
    print(f"{seen[False]} died before the publication, {seen[True]} after")


def test_two_creators_of_one_name(backend: str) -> None:
    """With any two backends exactly one creator wins, and the other's error says why."""
    rivals = [backend] * 2 + [name for name in ("shm", "thp", "hugetlb") if backend_of(name).availability().usable]
    with Nursery() as nursery:
        workers = [nursery.start() for _ in rivals]
        for turn in range(13):
            for worker, name in zip(workers, rivals, strict=True):
                worker.send("create", number=turn, name="r", size=PAGE, backend=name)
            replies = [worker.answer() for worker in workers]
            errors = [reply.error for reply in replies]
            assert sorted(error or "" for error in errors) == ["", *["RegionExistsError"] * (len(rivals) - 1)], replies
            winner = workers[errors.index(None)]
            assert [(info.name, info.pids) for info in mshare.regions()] == [("r", (winner.pid,))]
            for worker in workers:
                if worker is winner:
                    assert worker.do("mshare_unlink", name="r").value
            assert files() == []


def test_creators_without_o_excl_meet_in_one_region(backend: str) -> None:
    def meet() -> int:
        with mshare.mshare("r", None, PAGE, os.O_CREAT | os.O_RDWR) as region:
            return os.stat(region.info().path).st_ino

    os.environ["MSHARE_BACKEND"], before = backend, os.environ.get("MSHARE_BACKEND")
    try:
        with mshare.mshare("r", None, PAGE, os.O_CREAT | os.O_RDWR):
            assert len({in_child(meet).value for _ in range(3)}) == 1
    finally:
        os.environ.pop("MSHARE_BACKEND")
        if before is not None:
            os.environ["MSHARE_BACKEND"] = before


def test_a_remover_races_with_attachers(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attach works or finds no name. A region never loses its name while a process is attached."""
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    won = {"attached": 0, "removed": 0}
    with Nursery() as nursery:
        remover, *attachers = (nursery.start() for _ in range(4))
        for turn in range(19):
            mshare.create("r", PAGE).close()
            order = [*attachers, remover] if turn % 2 else [remover, *attachers]
            for worker in order:
                if worker is remover:
                    worker.send("mshare_unlink", name="r")
                else:
                    worker.send("attach", number=turn, name="r")
            attached = [worker for worker in attachers if worker.answer().error is None]
            removed = remover.answer()
            assert removed.error in (None, "RegionBusyError")
            assert (removed.error is None) == (not attached)
            won["attached" if attached else "removed"] += 1
            for worker in attached:
                assert len(files()) == 1
                assert worker.do("store", number=turn, offset=0, value=1).error is None
                assert worker.do("close", number=turn).error is None
            if attached:
                assert mshare.mshare_unlink("r")
            assert files() == []


def test_the_last_of_many_to_call_mshare_unlink_removes_it(backend: str) -> None:
    with Nursery() as nursery:
        for _ in range(11):
            mshare.create("r", PAGE, backend=backend).close()
            workers = [nursery.start() for _ in range(5)]
            for worker in workers:
                worker.do("attach", number=1, name="r")
            for worker in workers:
                worker.send("mshare_unlink", name="r")
            done = [worker.answer() for worker in workers]
            assert all(reply.error is None for reply in done)
            assert any(reply.value for reply in done)
            assert files() == []
            nursery.clear()


def _lock(fd: int, kind: int, offset: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", kind, 0, offset, 1, 0))


@needs_root
@pytest.mark.parametrize("locked", ["flock", "read lock on the attached byte", "read lock on the name byte", "all"])
def test_a_reader_with_locks_stops_nobody_but_the_collector(backend: str, locked: str) -> None:
    """Read access is enough for flock and for read locks, so these must not stop an owner."""
    mshare.create("r", PAGE, backend=backend, mode=0o644).close()
    ready_fd, ready = os.pipe()
    stop_fd, stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stop)
        os.setuid(STRANGER)
        with find("r") as entry, entry.open(writable=False) as fd:
            if locked in ("flock", "all"):
                fcntl.flock(fd, fcntl.LOCK_EX)
            if locked in ("read lock on the attached byte", "all"):
                _lock(fd, fcntl.F_RDLCK, ATTACHED_BYTE)
            if locked in ("read lock on the name byte", "all"):
                _lock(fd, fcntl.F_RDLCK, NAME_BYTE)
            if locked == "all":
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
            os.write(ready, b"x")
            os.read(stop_fd, 1)
        os._exit(0)
    try:
        os.read(ready_fd, 1)
        with mshare.attach("r") as region:
            region.buf[0] = 1
        mshare.attach("r", readonly=True).close()
        counted = locked in ("read lock on the attached byte", "all")
        assert mshare.regions()[0].orphan is not counted
        if counted:
            with pytest.raises(mshare.RegionBusyError):
                mshare.mshare_unlink("r")
        mshare.unlink("r")
        assert files() == []
    finally:
        for fd in (ready_fd, ready, stop_fd, stop):
            os.close(fd)
        os.waitpid(pid, 0)


def test_a_write_lock_in_the_wrong_hands_is_an_error_not_a_hang(backend: str) -> None:
    mshare.create("r", PAGE, backend=backend).close()
    with find("r") as entry, entry.open(writable=True) as fd:
        _lock(fd, fcntl.F_WRLCK, ATTACHED_BYTE)
        with pytest.raises(mshare.RegionBusyError, match="does not finish"):
            mshare.attach("r")
        with pytest.raises(mshare.RegionBusyError):
            mshare.mshare_unlink("r")
        assert mshare.gc() == []
        assert not mshare.regions()[0].orphan
        _lock(fd, fcntl.F_WRLCK, NAME_BYTE)
        mshare.unlink("r")
    assert files() == []
    assert window_mappings() == []


@needs_root
def test_the_creators_turn_in_the_wrong_hands_is_a_delay_not_a_hang(hugetlb_world: Path) -> None:
    fd = os.open(hugetlb_world / "hugetlb", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        mshare.create("r", PAGE).close()
        with pytest.raises(mshare.RegionExistsError):
            mshare.create("r", PAGE, backend="hugetlb")
    finally:
        os.close(fd)
