"""Live replacement: `create(replace=True)`, `Region.superseded`, `reattach`, and what is seen of older versions."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

import mshare
from mshare._core import replacement
from mshare._core.geometry import PAGE, PMD
from mshare._core.linux import locks
from mshare._core.names import HIDDEN
from mshare._core.record import ATTACHED_BYTE, NAME_BYTE
from mshare.testing.conformance import backend_of, files
from mshare.testing.processes import Nursery, in_child
from tests.helpers.waiting import eventually
from tests.helpers.worlds import STRANGER, needs_root, region_file, small_tmpfs

SIZE = PMD + PAGE + 1


def make(version: int, *, backend: str | None = None, size: int = SIZE) -> mshare.Region:
    def fill(view: memoryview) -> None:
        view[0] = view[-1] = version

    return mshare.create("model", size, backend=backend, fill=fill, replace=True)


def close_version(version: int) -> None:
    make(version).close()


def holder() -> mshare.Region:
    region = mshare.attach("model", readonly=True)
    assert not region.superseded
    return region


def test_holders_keep_the_older_version_and_move_over(backend: str) -> None:
    make(1, backend=backend).close()
    old = holder()
    view = old.buf
    with make(2, backend=backend, size=3 * SIZE) as new:
        assert (old.superseded, new.superseded) == (True, False)
        assert (old.buf[0], old.buf[-1], len(old.buf), new.buf[0]) == (1, 1, SIZE, 2)
        assert new.addr != old.addr
        moved = mshare.reattach(old)
        assert (moved.addr, moved.readonly, moved.size, moved.buf[-1]) == (new.addr, True, 3 * SIZE, 2)
    assert view[0] == old.buf[0] == 1, "the older version stays until it is let go"
    view.release()
    old.close()
    for call in (lambda: old.superseded, lambda: mshare.reattach(old)):
        with pytest.raises(mshare.RegionClosedError):
            call()
    assert mshare.reattach(moved) is moved, "nothing newer: nothing to do"
    moved.close()
    assert [path.name for path in files()] == ["model"]


def test_a_removed_name_supersedes_nothing(world: Path) -> None:
    with make(1) as region:
        mshare.unlink("model")
        assert not region.superseded
        with pytest.raises(mshare.RegionNotFoundError):
            mshare.reattach(region)
        assert region.buf[0] == 1
        with make(2) as newer:
            assert region.superseded
            with mshare.reattach(region) as moved:
                assert moved.addr == newer.addr


def test_a_region_without_a_name_has_no_newer_version(world: Path) -> None:
    with mshare.create_anonymous(PAGE) as region:
        assert not region.superseded
        with pytest.raises(mshare.InvalidArgumentError):
            mshare.reattach(region)


def test_a_newer_version_in_another_root_supersedes_too(hugetlb_world: Path) -> None:
    with mshare.create("model", SIZE, backend="shm") as old:
        mshare.unlink("model")
        with mshare.create("model", SIZE, backend="hugetlb"):
            assert old.superseded
            newer = mshare.reattach(old)
            assert newer.backend == "hugetlb"
            newer.close()


def test_the_newer_version_lies_where_the_older_one_does(hugetlb_world: Path) -> None:
    with mshare.create("model", SIZE, backend="shm") as old:
        with pytest.raises(mshare.BackendUnavailableError, match="the region to replace is a file in") as caught:
            mshare.create("model", SIZE, backend="hugetlb", replace=True)
        assert "shm" in str(caught.value)
        assert not old.superseded
        with mshare.create("model", SIZE, replace=True) as newer:
            assert newer.backend in ("thp", "shm")
            assert "hugetlb: the region to replace" in newer.info().reason


def test_many_versions_can_be_attached_at_once(world: Path) -> None:
    """A process that maps none of the others makes each version."""
    held = []
    for version in range(9):
        in_child(partial(close_version, version))
        held.append(mshare.attach("model"))
    assert [region.buf[0] for region in held] == list(range(9))
    assert [region.superseded for region in held] == [True] * 8 + [False]


SAME_PLACE = """
import os, mshare
os.urandom = bytes      # all zeros: the search for an address begins at the same place each time
mshare.create("model", 4096, replace=True, backend="shm").close()
"""


def test_a_version_keeps_clear_of_versions_without_a_name(world: Path) -> None:
    """The makers map no other version. The first version has lost its name when the third is made."""
    held = []
    for _ in range(3):
        subprocess.run([sys.executable, "-c", SAME_PLACE], check=True)
        held.append(mshare.attach("model"))
    assert len({region.addr for region in held}) == 3


def test_no_remover_comes_between(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remover by force looks at the older file and takes this lock, before it removes the name."""
    make(1).close()
    rename = os.rename
    seen = []

    def look_then_rename(*arguments: Any, **options: Any) -> None:
        with (world / "shm" / "model").open("rb") as older:
            seen.append(locks.is_locked(older.fileno(), NAME_BYTE))
        rename(*arguments, **options)

    monkeypatch.setattr(os, "rename", look_then_rename)
    make(2).close()
    assert seen == [True]


def test_a_replacement_that_fails_leaves_the_older_version(world: Path) -> None:
    make(1).close()

    def fill(view: memoryview) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mshare.create("model", SIZE, replace=True, fill=fill)
    with pytest.raises(mshare.NoSpaceError):
        mshare.create("model", 1 << 45, replace=True)
    with holder() as region:
        assert region.buf[0] == 1
    assert [path.name for path in files()] == ["model"]


@needs_root
def test_a_full_file_system_leaves_the_older_version(world: Path) -> None:
    with small_tmpfs(world / "shm", "16M"):
        make(1, backend="shm", size=10 << 20).close()
        with pytest.raises(mshare.NoSpaceError):
            make(2, backend="shm", size=10 << 20)
        with holder() as region:
            assert region.buf[0] == 1
        assert [path.name for path in files()] == ["model"]


@pytest.mark.parametrize("kind", ["file", "symlink", "directory", "fifo"])
def test_only_regions_are_replaced(world: Path, kind: str) -> None:
    path = world / "shm" / "model"
    if kind == "file":
        path.write_bytes(b"important")
    elif kind == "symlink":
        path.symlink_to("/etc/passwd")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(mshare.NotARegionError):
        make(1)
    assert os.path.samestat(path.lstat(), before)
    assert len(files()) == 1


@needs_root
def test_only_the_owner_replaces_a_region(world: Path) -> None:
    make(1).close()
    asked = []

    def stranger() -> str:
        try:
            mshare.create("model", SIZE, replace=True, fill=lambda _: asked.append(1))
        except mshare.AccessDeniedError as error:
            return str(error)
        return ""

    assert f"uid {STRANGER} may not replace region 'model' of uid 0" in in_child(stranger, uid=STRANGER).value
    assert asked == [], "the refusal comes before the work"
    assert [path.name for path in files()] == ["model"]


@needs_root
def test_a_holder_does_not_move_over_to_another_users_region(world: Path) -> None:
    (world / "shm").chmod(0o1777)
    with make(1) as mine:
        mshare.unlink("model")
        assert in_child(lambda: mshare.create("model", PAGE, mode=0o666).close(), uid=STRANGER).status == 0
        assert not mine.superseded
        with pytest.raises(mshare.AccessDeniedError, match=f"belongs to uid {STRANGER}"):
            mshare.reattach(mine)
        assert (mine.closed, mine.buf[0]) == (False, 1)


def test_ls_shows_older_versions_and_their_holders(world: Path) -> None:
    make(1).close()
    with Nursery() as nursery:
        first, second = nursery.start(), nursery.start()
        for worker in (first, second):
            assert worker.do("attach", number=1, name="model").error is None
        make(2, size=3 * SIZE).close()
        (held,) = mshare.held_regions()
        assert (held.name, held.superseded) == ("model", True)
        assert held.pids == tuple(sorted([first.pid, second.pid]))
        assert held.size >= SIZE
        first.kill()
        eventually(
            lambda: [each.pids for each in mshare.held_regions()] == [(second.pid,)], lambda: str(mshare.held_regions())
        )
        shown = subprocess.run([sys.executable, "-m", "mshare", "ls"], capture_output=True, text=True, check=True)
        line = next(line.split() for line in shown.stdout.splitlines() if "older version" in line)
        assert (line[0], line[-1]) == ("model", str(second.pid))
        as_json = subprocess.run([sys.executable, "-m", "mshare", "ls", "--json"], capture_output=True, check=True)
        assert json.loads(as_json.stdout)["held"] == [{**held._asdict(), "pids": [second.pid]}]
        mshare.unlink("model")
        assert [each.superseded for each in mshare.held_regions()] == [False]
    eventually(lambda: mshare.held_regions() == [], lambda: str(mshare.held_regions()))


def test_its_creator_alone_holds_an_older_version_without_a_name(world: Path) -> None:
    """The kernel shows no name for a file that was mapped before the file had one. A region with a name is not held."""
    with make(1), make(2):
        (held,) = mshare.held_regions()
        assert (held.name, held.pids) == ("", (os.getpid(),))


def test_a_planted_name_hides_no_older_version_and_a_root_may_be_a_symlink(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(1).close()
    with holder():
        make(2).close()
        (world / "shm" / "model (deleted)").touch()
        assert [each.name for each in mshare.held_regions()] == ["model"]
        other = world / "link"
        other.symlink_to(world)
        monkeypatch.setenv("MSHARE_ROOT", str(other))
        assert [each.name for each in mshare.held_regions()] == ["model"]


def test_the_name_of_an_older_version_may_be_of_several_lines(world: Path) -> None:
    mshare.create("a\nb", PAGE).close()
    with mshare.attach("a\nb"):
        mshare.create("a\nb", PAGE, replace=True).close()
        assert [(each.name, each.superseded) for each in mshare.held_regions()] == [("a\nb", True)]


def test_what_a_killed_replacer_left_makes_room_for_the_next(world: Path) -> None:
    with small_tmpfs(world / "shm", "16M"):
        make(1, backend="shm", size=6 << 20).close()
        assert in_child(lambda: killed_at_the_rename(6 << 20)).status == -signal.SIGKILL
        make(3, backend="shm", size=6 << 20).close()
        with holder() as region:
            assert region.buf[0] == 3


def test_a_sealed_region_was_asked_for(world: Path) -> None:
    with make(1) as region, pytest.raises(mshare.NotSealedError):
        mshare.reattach(region, require_sealed=True)


def test_threads_finish_their_work_with_the_older_version(world: Path) -> None:
    make(1).close()
    table = mshare.attach("model", readonly=True)
    in_use = table
    make(2).close()
    table = mshare.reattach(table)
    assert (in_use.buf[0], table.buf[0]) == (1, 2)
    assert len(mshare.held_regions()) == 1
    del in_use
    assert mshare.held_regions() == []
    table.close()


@needs_root
def test_a_root_that_became_unreachable_supersedes_nothing(world: Path) -> None:
    region = make(1)

    def dropped() -> bool:
        return region.superseded

    (world / "shm").chmod(0o700)
    assert in_child(dropped, uid=STRANGER).value is False
    (world / "shm").chmod(0o1777)
    region.close()


def test_an_idle_removal_and_a_replacement_exclude_each_other(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mere reader keeps `NAME_BYTE` locked, so that both sides go on without it."""
    make(1).close()
    with (world / "shm" / "model").open("rb") as reader:
        locks.try_read_lock(reader.fileno(), NAME_BYTE)
        rename = os.rename

        def remove_then_replace(*arguments: Any, **options: Any) -> None:
            with pytest.raises(AssertionError, match="RegionBusyError"):
                in_child(lambda: mshare.mshare_unlink("model"))
            rename(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", remove_then_replace)
            make(2).close()
    with holder() as region:
        assert region.buf[0] == 2


def test_a_file_of_another_program_is_not_shown(world: Path) -> None:
    with (world / "shm" / "cache").open("w+b") as file:
        file.write(region_file())
        Path(file.name).unlink()
        assert mshare.held_regions() == []


def killed_at_the_rename(size: int = SIZE) -> NoReturn:
    os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    make(2, size=size)
    raise AssertionError


def test_a_process_killed_at_the_worst_moment_leaves_the_older_version(backend: str) -> None:
    make(1, backend=backend).close()
    for clean_up in (lambda: mshare.gc(older_than=1e6), lambda: make(3, backend=backend).close()):
        assert in_child(killed_at_the_rename).status == -signal.SIGKILL
        (left,) = [path for path in files() if path.name.startswith(HIDDEN)]
        assert [info.name for info in mshare.regions()] == ["model"]
        with holder() as region:
            assert region.buf[0] == 1
        clean_up()
        assert not left.exists()
    with holder() as region:
        assert region.buf[0] == 3


@needs_root
def test_what_others_have_under_hidden_names_stays(world: Path) -> None:
    root = world / "shm"
    (root / f"{HIDDEN}text").write_text("not a region")
    (root / f"{HIDDEN}strangers").write_bytes(region_file())
    os.chown(root / f"{HIDDEN}strangers", STRANGER, STRANGER)
    (root / f"{HIDDEN}link").symlink_to("/etc/passwd")
    os.mkfifo(root / f"{HIDDEN}fifo")
    for mine in (f"{HIDDEN}mine", f"{HIDDEN}held"):
        (root / mine).write_bytes(region_file())
        os.chown(root / mine, 12345, 12345)
    with (root / f"{HIDDEN}held").open("rb") as held:
        locks.try_read_lock(held.fileno(), ATTACHED_BYTE)
        assert in_child(mshare.gc, uid=12345).status == 0
    left = {path.name.removeprefix(HIDDEN) for path in root.iterdir()}
    assert left == {"text", "strangers", "link", "fifo", "held"}


@needs_root
def test_a_replacer_killed_at_any_moment(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees version after version, each complete, whatever the moment of a replacer's death."""
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    make(0).close()
    rng = random.Random(11)
    seen = set()
    for turn in range(17):
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if not pid:
            os.read(read_fd, 1)
            make(turn + 1)
            os._exit(0)
        os.write(write_fd, b"x")
        for _ in range(rng.randrange(40)):
            with holder_of_any() as region:
                seen.add(region.buf[0])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_fd)
        os.close(write_fd)
        with holder_of_any() as region:
            assert region.buf[0] == region.buf[-1] <= turn + 1
        assert [info.name for info in mshare.regions()] == ["model"]
    make(99).close()
    assert [path.name for path in files()] == ["model"]
    print(f"{len(seen)} versions seen")


def holder_of_any() -> mshare.Region:
    region = mshare.attach("model", readonly=True)
    assert region.buf[0] == region.buf[-1]
    return region


def test_replacers_removers_and_collectors_of_one_name(backend: str) -> None:
    """The name means one complete region or none, and nothing else is left."""
    with Nursery() as nursery:
        workers = [nursery.start() for _ in range(3)]
        for turn in range(11):
            for index, worker in enumerate(workers):
                worker.send("create", number=turn, name="model", size=PAGE * (index + 1), backend=backend, replace=True)
            remover = nursery.start()
            remover.send("unlink", name="model") if turn % 2 else remover.send("gc")
            replies = [worker.answer() for worker in workers]
            assert [reply.error for reply in replies] == [None] * 3, replies
            assert remover.answer().error in (None, "RegionNotFoundError")
            remover.kill()
            left = [path.name for path in files()]
            assert left in ([], ["model"])
            newest = [worker.do("superseded", numbers=[turn]).value for worker in workers]
            assert newest.count([False]) == (1 if left else 3)
            for worker in workers:
                worker.do("close", number=turn)


def test_a_remover_that_does_not_finish_delays_no_longer_than_a_second(world: Path) -> None:
    make(1).close()
    with (world / "shm" / "model").open("r+b") as file:
        locks.try_write_lock(file.fileno(), NAME_BYTE)
        make(2).close()
    with holder() as region:
        assert region.buf[0] == 2


def test_cp_replaces_a_region(world: Path, tmp_path: Path) -> None:
    make(1).close()
    source = tmp_path / "new"
    source.write_bytes(b"\2" * 5000)
    line = [sys.executable, "-m", "mshare", "cp", str(source), "region:model"]
    refused = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (refused.returncode, "exists already" in refused.stderr) == (4, True)
    with holder() as old:
        subprocess.run([*line, "--replace"], check=True, capture_output=True)
        assert old.superseded
        assert old.buf[0] == 1
    with mshare.attach("model") as region:
        assert (region.size, region.buf[4999], region.info().mode) == (5000, 2, 0o600)
    (world / "shm" / "model").chmod(0o644)
    subprocess.run([*line, "--replace"], check=True, capture_output=True)
    assert mshare.regions()[0].mode == 0o644, "the mode of the region that it replaces"


def test_a_name_that_others_change_all_the_time_is_given_up(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(1).close()
    monkeypatch.setattr(replacement, "_replace", lambda *_: False)
    with pytest.raises(mshare.RegionBusyError, match="all the time"):
        make(2)
    assert [path.name for path in files()] == ["model"]
    assert backend_of("shm").root() == str(world / "shm")
