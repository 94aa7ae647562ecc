"""Backend `msharefs` without a msharefs: its answers, and its refusal of files of other file systems.

tests/kernel/test_backend.py tests the backend with a msharefs, in a guest.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

import mshare
from mshare._core import backends, entry
from mshare._core.backend import Backend, Request, Space, choose, obstacle
from mshare._core.geometry import PAGE, PMD, PUD, WINDOW
from mshare._core.linux import ioctl
from mshare._core.linux.libc import file_system_magic
from mshare._core.linux.module import is_loaded
from mshare._core.record import NoRecordError, Record, RecordError, RegionInfo
from mshare._tools import machine
from mshare._tools.findings import ADVICE, findings

MSHAREFS = backends.ALL[0]


def test_the_ioctls_are_those_of_the_header() -> None:
    """Numbers as gcc makes them of kernel/uapi/linux/msharefs.h."""
    assert (ioctl._IOC_INFO, ioctl._IOC_SET_BASE, ioctl._IOC_HUGE) == (0x8068BC00, 0x4008BC03, 0x4004BC06)


def test_the_facts_are_the_fields_of_the_header_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(fd: int, request: int, raw: bytearray) -> int:
        del fd, request
        struct.pack_into("=2I7Q2I4Q", raw, 0, ioctl.ABI, *range(2, 16))
        return 0

    monkeypatch.setattr("fcntl.ioctl", answer)
    facts = ioctl.region_facts(0)
    assert facts is not None
    assert facts == (ioctl.ABI, *range(2, 15))
    assert (facts.pages, facts.table_bytes, facts.attachments, facts.charged_bytes) == (6, 7, 10, 12)
    assert (facts.huge_pages, facts.huge_fallbacks) == (13, 14)


def test_a_file_elsewhere_is_none_of_its(world: Path) -> None:
    path = world / "shm" / "foreign"
    path.write_bytes(b"x" * 2 * PAGE)
    fd = os.open(path, os.O_RDWR)
    try:
        assert ioctl.region_facts(fd) is None
        assert all(backend.adopt(fd, os.fstat(fd)) is None for backend in backends.ALL)
        assert not any(backend.attached(fd) for backend in backends.ALL)
        assert not entry.is_attached(fd)
        with pytest.raises(mshare.NotARegionError, match="carries no region record"):
            entry.read_record("foreign", fd)
    finally:
        os.close(fd)


def test_a_root_without_msharefs(world: Path) -> None:
    (world / "msharefs").mkdir()
    available = MSHAREFS.availability()
    assert not available.usable
    assert f"no msharefs is mounted on {world / 'msharefs'}" in available.reason
    assert "mount -t msharefs" in available.remedy
    with pytest.raises(mshare.BackendUnavailableError, match="cannot be used here"):
        choose(backends.ALL, Request(1 << 30), "msharefs")
    with mshare.create("r", PAGE) as region:
        assert region.backend == "shm"
        assert "msharefs: no msharefs is mounted" in region.info().reason


def test_who_is_not_admitted_learns_how(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = world / "msharefs"
    root.mkdir(mode=0o755)
    monkeypatch.setattr("mshare._core.backends.msharefs.is_mounted", lambda root: True)
    assert MSHAREFS.availability().usable
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    refused = MSHAREFS.availability()
    assert not refused.usable
    assert f"uid {os.geteuid()} may make no regions in {root} (mode 0755, owner uid " in refused.reason
    assert refused.remedy == f'sudo chgrp "$(id -gn)" {root} && sudo chmod 1775 {root}'
    monkeypatch.setattr("mshare._core.backends.msharefs.DEFAULT_ROOT", str(root))
    assert MSHAREFS.availability().remedy == 'sudo mshare module load --group "$(id -gn)"'


def test_the_doctor_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSHARE_ROOT", raising=False)
    if is_loaded("mshare"):
        pytest.fail("the module is loaded on this host; these tests are for one where it is not")
    (found,) = (each for each in findings(machine.inspect(1 << 30)) if each.topic == "backend msharefs")
    assert found.level == ADVICE
    assert "module" in found.text
    assert "mshare module load" in found.command or "use a distribution kernel" in found.text


def test_addresses_in_whole_gib() -> None:
    assert obstacle(MSHAREFS, Request(1, addr=WINDOW[0])) is None
    assert "1 GiB" in (obstacle(MSHAREFS, Request(1, addr=WINDOW[0] + PUD // 2)) or "")


@pytest.mark.parametrize("backend", backends.ALL, ids=lambda backend: backend.name)
def test_a_backend_has_the_leaves_that_were_asked_for(backend: Backend) -> None:
    able = backend.capabilities
    for leaf_size in (PAGE, PMD):
        refused = obstacle(backend, Request(PMD, leaf_size=leaf_size))
        assert (refused is None) == (leaf_size in (able.leaf_size, able.other_leaf_size))
        assert refused is None or "its leaves are" in refused


def test_a_process_pays_what_leads_to_the_tables() -> None:
    def info(size: int) -> RegionInfo:
        return RegionInfo(
            name="r",
            size=size,
            mode=0o600,
            uid=0,
            backend="msharefs",
            leaf_size=PAGE,
            map_unit=PUD,
            addr=WINDOW[0],
            pids=(),
            orphan=True,
            created=0.0,
            reason="",
            frozen=False,
            reserved=True,
            named=True,
            path="/sys/fs/mshare/r",
            memory_bytes=size,
            shared_table_bytes=0,
            charged_bytes=size,
            huge_pages=0,
            huge_fallbacks=0,
        )

    assert info(1).page_table_bytes == info(512 * PUD).page_table_bytes == PAGE
    assert info(512 * PUD + 1).page_table_bytes == 2 * PAGE


def test_a_region_takes_its_page_tables_of_the_mount() -> None:
    """The first page of a unit of 1 GiB takes 3 pages more, the first of 2 MiB takes 2."""
    assert MSHAREFS.charge(PAGE) == 6 * PAGE
    assert MSHAREFS.charge(PMD) == PMD + 5 * PAGE
    assert MSHAREFS.charge(PMD + PAGE) == PMD + 8 * PAGE
    assert MSHAREFS.charge(PUD) == PUD + 1027 * PAGE
    assert MSHAREFS.charge(PUD + PAGE) == PUD + (1027 + 6) * PAGE
    assert [backend.charge(PUD) for backend in backends.ALL[1:]] == [PUD] * 3


def test_what_does_not_fit_is_said_with_its_tables(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (world / "msharefs").mkdir()
    free = Space(64 << 20, "free space of the mount")
    monkeypatch.setattr("mshare._core.backends.msharefs.is_mounted", lambda root: True)
    monkeypatch.setattr("mshare._core.backends.msharefs.Msharefs.space", lambda *_: free)
    for size, need in ((64 << 20, "64.2 MiB"), ((64 << 20) - 67 * PAGE, "67112960 bytes")):
        with pytest.raises(mshare.NoSpaceError) as refused:
            mshare.create("r", size, backend="msharefs")
        assert f"needs {need} on msharefs (6" in str(refused.value)
        assert "MiB and its page tables), but only 6" in str(refused.value)
    with mshare.create("r", 64 << 20) as region:
        assert "msharefs: 64.2 MiB do not fit into 64 MiB (free space of the mount)" in region.info().reason


def test_a_mapping_may_reach_beyond_the_file_on_msharefs_only() -> None:
    record = Record(3 * PAGE, WINDOW[0], PAGE, PUD, 0, "msharefs", "why")
    assert (record.file_unit, record.align) == (PAGE, PUD)
    assert Record.decode(record.encode(), 4 * PAGE) == record
    for file_size in (3 * PAGE, 4 * PAGE + 1, PUD + 1):
        with pytest.raises(RecordError, match="contradicts"):
            Record.decode(record.encode(), file_size)
    with pytest.raises(RecordError, match="contradicts"):
        Record.decode(Record(PAGE, WINDOW[0] + PAGE, PAGE, PUD, 0, "msharefs", "").encode(), 2 * PAGE)
    with pytest.raises(NoRecordError):
        Record.decode(bytes(PAGE), 2 * PAGE)


def test_the_magic_is_that_of_statfs() -> None:
    assert file_system_magic("/proc") == 0x9FA0  # PROC_SUPER_MAGIC
    assert file_system_magic("/proc/none") is None
