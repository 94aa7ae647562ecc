"""Files that somebody else plants must not stand in for a region, nor stop others from making theirs."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import pytest

import mshare
from mshare._core.geometry import PAGE, WINDOW
from mshare._core.procfs import FileId
from mshare._core.record import Record, file_size


def plant(path: Path, record: Record, uid: int) -> None:
    """Write a sparse file with `record`, belonging to `uid`."""
    length = file_size(record.size_bytes, record.file_unit)
    with path.open("wb") as file:
        file.truncate(length)
        file.seek(length - PAGE)
        file.write(record.encode())
    os.chown(path, uid, uid)
    path.chmod(0o666)


def record_of(addr: int, size: int) -> Record:
    return Record(size, addr, PAGE, PAGE, 0, "shm", "planted")


def test_a_file_of_the_same_name_in_another_root_is_not_taken_for_the_region(hugetlb_world: Path) -> None:
    mshare.create("sga", PAGE, backend="shm", fill=lambda view: view.__setitem__(0, 7)).close()
    os.chown(hugetlb_world / "shm" / "sga", 1001, 1001)
    planted = hugetlb_world / "hugetlb" / "sga"
    planted.touch()
    os.chown(planted, 1002, 1002)
    for call in (mshare.attach, mshare.unlink, mshare.mshare_unlink):
        with pytest.raises(mshare.AmbiguousNameError, match=r"1002.*1001"):
            call("sga")
    os.chown(hugetlb_world / "shm" / "sga", 0, 0)
    with mshare.attach("sga", readonly=True) as region:  # ours is the one of our own user
        assert region.buf[0] == 7
    planted.unlink()
    os.chown(hugetlb_world / "shm" / "sga", 1001, 1001)
    with mshare.attach("sga", readonly=True) as region:
        assert region.buf[0] == 7


def test_a_file_that_claims_all_addresses_stops_nobody(world: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files to another user")
    plant(world / "shm" / "greedy", record_of(WINDOW[0], WINDOW[1] - WINDOW[0]), 1002)
    with mshare.create("modest", PAGE) as region:
        assert WINDOW[0] <= region.addr < WINDOW[1]


def test_a_control_character_in_a_planted_record_is_never_shown(world: Path) -> None:
    mshare.create("honest", PAGE).close()
    page = bytearray((world / "shm" / "honest").read_bytes()[-PAGE:])
    assert Record.decode(bytes(page), 2 * PAGE).reason
    shutil.copy(world / "shm" / "honest", world / "shm" / "evil")
    body = bytes(page).replace(b"best", b"b\x1b[m")[:-4]
    with (world / "shm" / "evil").open("r+b") as file:
        file.seek(-PAGE, os.SEEK_END)
        file.write(body + zlib.crc32(body).to_bytes(4, "little"))
    with pytest.raises(mshare.NotARegionError, match="control characters"):
        mshare.attach("evil")
    assert [info.name for info in mshare.regions()] == ["honest"]


def test_leaving_processes_do_not_each_search_all_of_proc(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last process removes the region, so only the last process looks. N searches of N clients cost N * N."""
    from mshare._core.linux import proc

    looked: list[set[FileId]] = []

    def look(files: set[FileId]) -> dict[FileId, tuple[int, ...]]:
        looked.append(files)
        return dict.fromkeys(files, ())

    monkeypatch.setattr(proc, "processes_mapping", look)
    mshare.create("r", PAGE)
    keeper = mshare.attach("r", addr=mshare.ANYWHERE)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if mshare.mshare_unlink("r") is False and not looked else 1)
    assert os.waitpid(pid, 0)[1] == 0
    keeper.close()
    assert mshare.mshare_unlink("r") is True
    assert len(looked) == 1
