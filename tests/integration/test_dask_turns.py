"""The lock files of `mshare.dask`: what other users can plant there, what the files tell, and nothing that is run."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mshare
from mshare._core.procfs import FileId
from mshare.dask import SourceChangedError
from mshare.dask.copies import attach_labelled
from mshare.dask.host import Failure, Identity, Label, Turn, region_now, turn
from mshare.testing.processes import in_child
from tests.helpers.worlds import STRANGER, needs_root, region_file

NAME, LOAD = "weights", "1" * 32
FAILURE = Failure.of(LOAD, "", FileNotFoundError(2, "No such file", "/nowhere"))


def in_turn(use: Callable[[Turn], object], name: str = NAME) -> object:
    """Have the turn for the name, and return what `use` returns."""

    async def run() -> object:
        async with turn(name, lambda: None) as held:
            return use(held)

    return asyncio.run(asyncio.wait_for(run(), 60))


def place(world: Path, uid: int | None = None) -> Path:
    """Return a user's directory of lock files."""
    return world / "shm" / f".mshare-dask-{os.geteuid() if uid is None else uid}"


def lock(world: Path) -> Path:
    """Return the lock file of the name, with a failure in it."""
    in_turn(lambda held: held.fail(FAILURE))
    (path,) = place(world).iterdir()
    return path


@contextmanager
def victim(mode: int = 0o666) -> Iterator[mshare.Region]:
    """A region of this user that all users may write."""
    with mshare.create("open", 5000, mode=mode, fill=lambda view: view.__setitem__(slice(None), b"v" * 5000)) as region:
        yield region
        assert bytes(region.buf) == b"v" * 5000


def test_a_turn_leaves_nothing_unless_it_has_something_to_tell(world: Path) -> None:
    assert in_turn(Turn.failure) is None
    assert list((world / "shm").iterdir()) == []
    path = lock(world)
    assert [path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777] == [0o600, 0o700]
    assert in_turn(Turn.failure) == FAILURE
    in_turn(lambda held: held.fail(None))
    assert list((world / "shm").iterdir()) == []


def test_the_directory_is_no_region(world: Path) -> None:
    lock(world)
    assert mshare.regions() == []
    assert mshare.gc() == []
    with victim():
        assert [region.name for region in mshare.regions()] == ["open"]
    assert in_turn(Turn.failure) == FAILURE


def test_the_directory_comes_and_goes_while_others_need_it(world: Path) -> None:
    """Turns for different names do not wait for each other, and the last one out removes the directory."""

    def work(number: int) -> None:
        for _ in range(200):
            in_turn(Turn.label, f"{NAME}-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list((world / "shm").iterdir()) == []


def test_one_process_at_a_time_has_the_turn(world: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        def use(_: Turn) -> None:
            inside.append(number)
            assert inside == [number]
            inside.remove(number)

        for _ in range(20):
            in_turn(use)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


PLANTS = ["a hard link", "a file", "a FIFO", "a directory", "an open directory", "a symlink", "a symlink to ours"]


def plant(kind: str, path: Path, other: Path) -> None:
    """Put something at a path. `other`: an ordinary file."""
    if kind == "a hard link":
        path.hardlink_to(other)
    elif kind == "a file":
        path.write_bytes(b"x" * 4096)
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a symlink":
        path.symlink_to(other)
    elif kind == "a symlink to ours":
        path.symlink_to(other.parent.parent / "ours")
    else:
        path.mkdir()
        path.chmod(0o777 if kind == "an open directory" else 0o700)


@needs_root
@pytest.mark.parametrize("kind", PLANTS)
def test_what_another_user_plants_is_never_followed(world: Path, kind: str) -> None:
    path = place(world)
    (world / "ours").mkdir(mode=0o700)
    with victim():
        in_child(lambda: plant(kind, path, world / "shm" / "open"), uid=STRANGER)
        before = path.lstat()
        # The name of a hard link belongs to nobody. Its file is this user's.
        says = "this user" if kind == "a hard link" else f"belongs to uid {STRANGER}: have that user or root remove it"
        with pytest.raises(mshare.AccessDeniedError, match=says):
            in_turn(Turn.label)
        assert os.path.samestat(path.lstat(), before)
        assert path.lstat().st_size == before.st_size
        assert list((world / "ours").iterdir()) == []
        assert sorted(each.name for each in (world / "shm").iterdir()) == [path.name, "open"]


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_a_directory_that_others_can_reach_is_refused(world: Path, mode: int) -> None:
    place(world).mkdir()
    place(world).chmod(mode)
    with pytest.raises(mshare.AccessDeniedError, match="not a directory that only this user can use: remove it"):
        in_turn(Turn.label)


@pytest.mark.parametrize("kind", ["a hard link", "another mode", "a symlink", "a FIFO", "a directory"])
def test_a_lock_file_that_others_can_reach_is_refused(world: Path, kind: str) -> None:
    path = lock(world)
    with victim(0o600):
        if kind == "another mode":
            path.chmod(0o620)
        else:
            path.unlink()
            plant(kind, path, world / "shm" / "open")
        with pytest.raises(mshare.AccessDeniedError, match="remove it"):
            in_turn(Turn.label)


def test_a_page_with_a_pickle_is_not_read(world: Path) -> None:
    path = lock(world)
    content = path.read_bytes()
    assert json.loads(content) == [[], [LOAD, "", "FileNotFoundError", [2, "No such file", "/nowhere"]]]
    made = world / "made"
    bad = f"cposix\nmkdir\n(V{made}\ntR.".encode()
    for page in (
        bad,
        json.dumps([[], [LOAD, "", bad.hex()]]).encode(),
        json.dumps([[], [LOAD, "", "eval", []]]).encode(),
    ):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(page.ljust(4096))
        path.chmod(0o600)
        failure = in_turn(Turn.failure)
        assert failure is None or type(failure.error) is RuntimeError  # type: ignore[attr-defined]
    assert not made.exists()


@pytest.mark.parametrize("stranger", [False, pytest.param(True, marks=needs_root)])
def test_a_foreign_file_of_the_name_is_not_our_copy(world: Path, stranger: bool) -> None:
    path = world / "shm" / NAME
    path.write_bytes(region_file() if stranger else b"text")
    path.chmod(0o600)
    with pytest.raises(mshare.AccessDeniedError if stranger else mshare.NotARegionError):
        as_user(lambda: region_now(NAME), stranger)
    assert as_user(lambda: in_turn(Turn.label), stranger) is None
    assert list((world / "shm").iterdir()) == [path]


def as_user(call: Callable[[], object], stranger: bool) -> object:
    """Make a call as another user, or as this one."""
    if not stranger:
        return call()
    before = os.geteuid()
    os.seteuid(STRANGER)
    try:
        return call()
    finally:
        os.seteuid(before)


def test_a_label_is_of_one_region(world: Path) -> None:
    with mshare.create(NAME, 5) as region:
        status = region._status
        identity = Identity.of(FileId(status.st_dev, status.st_ino), region._record)
    with attach_labelled(NAME, Label(LOAD, "", identity)) as same:
        assert same.readonly
    other = identity._replace(created_ns=identity.created_ns + 1)
    with pytest.raises(mshare.RegionExistsError, match="replaced"):
        attach_labelled(NAME, Label(LOAD, "", other))
    (listed,) = mshare.regions()
    assert listed.pids == ()


@needs_root
def test_a_label_is_of_a_region_of_this_user(world: Path) -> None:
    with mshare.create(NAME, 5) as region:
        status = region._status
        identity = Identity.of(FileId(status.st_dev, status.st_ino), region._record)
    os.chown(world / "shm" / NAME, STRANGER, STRANGER)
    with pytest.raises(mshare.AccessDeniedError, match=f"uid {STRANGER}"):
        attach_labelled(NAME, Label(LOAD, "", identity))


class OddError(Exception):
    """An error of a library."""


TEXTS = st.text(st.characters(), max_size=5000)
ERRORS = st.one_of(
    st.builds(mshare.NoSpaceError, TEXTS, TEXTS),
    st.builds(SourceChangedError, TEXTS, TEXTS),
    st.builds(FileNotFoundError, TEXTS),
    st.builds(PermissionError, st.just(13), TEXTS, TEXTS),
    st.builds(OSError, st.integers(), TEXTS, TEXTS, st.none(), TEXTS),
    st.builds(ValueError, TEXTS, st.integers(), st.binary()),
    st.builds(ValueError, *[TEXTS] * 7),
    st.builds(UnicodeEncodeError, st.just("ascii"), TEXTS, st.just(0), st.just(1), TEXTS),
    st.builds(lambda count: ValueError(*range(count)), st.sampled_from([5, 6, 5000])),
    st.builds(OddError, TEXTS),
    st.builds(ExceptionGroup, st.just("many"), st.just([ValueError("one")])),
)


@given(error=ERRORS)
def test_a_failure_of_any_length_is_told(error: Exception) -> None:
    failure = Failure.of(LOAD, "a" * 32, error)
    labels = [Label("f" * 32, "e" * 64, Identity(2**32, 2**63, 2**62))] * 2
    fd = os.memfd_create("lock")
    try:
        held = Turn(NAME, fd)
        held._write(labels, failure)
        told = held.failure()
        assert held._read()[0] == labels
    finally:
        os.close(fd)
    assert told is not None
    assert told[:3] == failure[:3]
    assert type(told.error) is type(failure.error)
    assert type(failure.error) in (type(error), RuntimeError)
    for whole, part in zip(failure.arguments, told.arguments, strict=True):
        assert whole == part or (isinstance(whole, str) and isinstance(part, str) and whole.startswith(part[:-1]))
    if len(json.dumps(failure.arguments)) < 3000:
        assert told == failure
        assert str(told.error) in (str(error), f"{type(error).__name__}: {error}")
