"""Bad names, planted files in the place of a region, and the actions that need no permission."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import mshare
from mshare._core.geometry import PAGE, PMD, USER_END, WINDOW
from mshare._core.record import Record
from mshare.testing.conformance import files
from mshare.testing.processes import in_child
from mshare.testing.strategies import bad_names
from tests.helpers.worlds import STRANGER, needs_root, region_file, window_mappings

BY_NAME: tuple[Callable[[str], Any], ...] = (
    lambda name: mshare.create(name, 1),
    mshare.attach,
    mshare.unlink,
    mshare.mshare_unlink,
    lambda name: mshare.mshare(name, None, 1, os.O_CREAT | os.O_RDWR),
    lambda name: mshare.mshare(name, None, 1, os.O_CREAT | os.O_EXCL | os.O_RDWR),
)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(bad_names)
def test_bad_names_are_refused_everywhere(world: Path, name: str) -> None:
    for call in BY_NAME:
        with pytest.raises(mshare.InvalidNameError) as caught:
            call(name)
        assert isinstance(caught.value, ValueError)
        assert caught.value.errno == errno.EINVAL
    assert files() == []


@pytest.mark.parametrize("name", [b"bytes", None, 7, Path("x")])
def test_names_of_other_types_are_type_errors(world: Path, name: Any) -> None:
    for call in BY_NAME:
        with pytest.raises(TypeError):
            call(name)


@pytest.mark.parametrize("name", ["a", "ä" * 127, "x" * 255, "with space", "new\nline", "-rf", "a.b", "\x01", "𝄞"])
def test_odd_names_are_good_names(backend: str, name: str) -> None:
    mshare.create(name, 1, backend=backend).close()
    assert [info.name for info in mshare.regions()] == [name]
    mshare.attach(name).close()
    assert mshare.mshare_unlink(name)
    assert files() == []


def _symlink(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(region_file())
    path.symlink_to(secret)


def _giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


PLANTS: dict[str, Callable[[Path], Any]] = {
    "symlink": _symlink,
    "dangling symlink": lambda path: path.symlink_to("nowhere"),
    "symlink loop": lambda path: path.symlink_to(path.name),
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "empty file": Path.touch,
    "short file": lambda path: path.write_bytes(b"x" * 100),
    "text": lambda path: path.write_bytes(b"x" * 10 * PAGE),
    "sparse giant": _giant,
    "damaged record": lambda path: path.write_bytes(region_file()[:-1] + b"!"),
    "cut record": lambda path: path.write_bytes(region_file()[:-1]),
    "larger than the file": lambda path: path.write_bytes(region_file(1 << 30, length=2 * PAGE)),
    "in kernel space": lambda path: path.write_bytes(region_file(addr=(1 << 63) + PAGE)),
    "last page": lambda path: path.write_bytes(region_file(addr=USER_END)),
    "unaligned": lambda path: path.write_bytes(region_file(addr=WINDOW[0] + 1)),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_is_neither_used_nor_removed(world: Path, plant: str) -> None:
    path = world / "shm" / "r"
    PLANTS[plant](path)
    before = path.lstat()
    for call in (mshare.attach, mshare.unlink, mshare.mshare_unlink):
        with pytest.raises(mshare.NotARegionError):
            call("r")
    with pytest.raises(mshare.NotARegionError):
        mshare.mshare("r", None, PAGE, os.O_CREAT | os.O_RDWR)
    with pytest.raises(mshare.RegionExistsError):
        mshare.create("r", PAGE)
    with mshare.create("good", PAGE):
        assert [info.name for info in mshare.regions()] == ["good"]
    assert [info.name for info in mshare.gc()] == ["good"]
    after = path.lstat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
    assert window_mappings() == []
    if path.is_dir():
        path.rmdir()


@pytest.mark.parametrize("addr", [PAGE, 16 * PAGE])
def test_a_record_that_wants_the_lowest_addresses_gets_a_clear_error(world: Path, addr: int) -> None:
    (world / "shm" / "r").write_bytes(region_file(addr=addr))

    def attach() -> str:
        try:
            return f"attached at {mshare.attach('r', readonly=True).addr}"
        except mshare.MshareError as error:
            return type(error).__name__

    (world / "shm" / "r").chmod(0o644)
    uid = STRANGER if os.geteuid() == 0 else None
    assert in_child(attach, uid=uid).value in ("InvalidAddressError", f"attached at {addr}")


@needs_root
def test_a_foreign_file_is_not_taken_for_ours(world: Path) -> None:
    path = world / "shm" / "r"
    path.write_bytes(region_file())
    path.chmod(0o666)
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(mshare.AccessDeniedError, match=str(STRANGER)):
        mshare.attach("r", owner=0)
    assert mshare.regions()[0].uid == STRANGER
    with mshare.attach("r", owner=STRANGER) as region:
        assert region.size == PAGE


@needs_root
def test_without_permission_nothing_can_be_done(world: Path) -> None:
    mshare.create("private", PAGE, mode=0o600).close()
    mshare.create("public", PAGE, mode=0o644).close()

    def probe() -> list[str]:
        outcomes = []
        for call in (
            lambda: mshare.attach("private"),
            lambda: mshare.attach("private", readonly=True),
            lambda: mshare.attach("public"),
            lambda: mshare.unlink("public"),
            lambda: mshare.mshare_unlink("public"),
            lambda: mshare.unlink("private"),
        ):
            try:
                outcomes.append(repr(call()))
            except PermissionError as error:
                outcomes.append(type(error).__name__)
        with mshare.attach("public", readonly=True):
            outcomes.append(",".join(info.name for info in mshare.regions()))
            outcomes.append(str(len(mshare.gc())))
            outcomes.append(str(mshare.mshare_unlink("public")))
        return outcomes

    assert in_child(probe, uid=STRANGER).value == [*["AccessDeniedError"] * 6, "public", "0", "False"]
    assert [path.name for path in files()] == ["private", "public"]


@needs_root
def test_a_root_closed_to_us_hides_nothing_else(hugetlb_world: Path) -> None:
    """/dev/hugepages kept for one group must not stop everybody else from using /dev/shm."""
    mshare.create("secret", PMD, backend="hugetlb").close()
    (hugetlb_world / "hugetlb").chmod(0o700)

    def use() -> list[str]:
        with mshare.create("mine", PAGE), mshare.attach("mine"):
            found = [info.name for info in mshare.regions()]
        assert mshare.mshare_unlink("mine")
        try:
            mshare.attach("secret")
        except mshare.RegionNotFoundError:
            found.append("no secret")
        return found

    assert in_child(use, uid=STRANGER).value == ["mine", "no secret"]


def test_an_owner_may_remove_what_they_may_not_open(world: Path) -> None:
    def run() -> list[bool]:
        done = []
        for mode in (0o000, 0o200, 0o400, 0o077):
            with mshare.create("r", PAGE, mode=mode):
                done.append(mshare.mshare_unlink("r"))
            mshare.create("r", PAGE, mode=mode).close()
            mshare.unlink("r")
        return done

    assert in_child(run, uid=STRANGER if os.geteuid() == 0 else None).value == [True] * 4
    assert files() == []


def test_a_record_of_a_later_version_is_left_alone(world: Path) -> None:
    page = bytearray(Record(1, WINDOW[0], PAGE, PAGE, 0, "shm", "").encode())
    page[8] = 2
    (world / "shm" / "r").write_bytes(bytes(PAGE) + page)
    with pytest.raises(mshare.NotARegionError):
        mshare.attach("r")
    assert mshare.gc() == []
    assert len(files()) == 1
