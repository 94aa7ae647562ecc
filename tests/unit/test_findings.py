"""The conclusions of `doctor`, from made-up facts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mshare._core.errors import InvalidSizeError
from mshare._core.geometry import PAGE, PMD, Span
from mshare._core.units import GIB, MIB
from mshare._tools.findings import (
    ADVICE,
    OK,
    PROBLEM,
    BackendFacts,
    Finding,
    HugePool,
    MachineFacts,
    Place,
    RemoveIpc,
    findings,
    findings_json,
    parse_remove_ipc,
)
from mshare._tools.machine import inspect, largest_gap, logind_files

GOOD = MachineFacts(
    size=GIB,
    kernel="Linux 6.12 x86_64",
    uid=1000,
    backends=(
        BackendFacts("hugetlb", True, "700 free pages", "", "/dev/hugepages", PMD, 2 * GIB, "pool", GIB + PMD),
        BackendFacts("shm", True, "writable", "", "/dev/shm", PAGE, 8 * GIB, "memory", GIB + PAGE),
    ),
    chosen="hugetlb",
    why="best of those usable: hugetlb",
    pool=HugePool(1024, 1024, 0, 0),
    thp_enabled="always",
    thp_shmem="never",
    place=Place("/dev/shm", "/dev/shm", "tmpfs", 16 * GIB, 8 * GIB),
    remove_ipc=RemoveIpc(False, "/etc/systemd/logind.conf"),
    memory_free=8 * GIB,
    memory_limit="memory",
    cgroup_free=None,
    cgroup_limit="",
    cgroup_hidden="",
    overcommit=0,
    address_limit=None,
    file_limit=None,
    lock_limit=8 * MIB,
    window_free=1 << 44,
)


def about(machine: MachineFacts, topic: str) -> Finding:
    (finding,) = (finding for finding in findings(machine) if finding.topic == topic)
    return finding


def test_a_good_machine_needs_no_command() -> None:
    assert {finding.level for finding in findings(GOOD)} == {OK}
    assert not any(finding.command for finding in findings(GOOD))


def test_the_command_names_the_exact_pool() -> None:
    in_use = replace(GOOD, pool=HugePool(total=100, free=40, reserved=10, overcommit=0))
    finding = about(in_use, "huge pages")
    assert finding.level == ADVICE
    assert finding.command == f"sudo sysctl vm.nr_hugepages={100 + 513 - 30}"
    assert about(replace(GOOD, pool=HugePool(513, 513, 0, 0)), "huge pages").level == OK
    assert about(replace(GOOD, pool=HugePool(512, 512, 0, 0)), "huge pages").command.endswith("=513")


def test_an_unusable_backend_is_a_problem_only_if_there_is_no_other() -> None:
    empty = GOOD.backends[0]._replace(usable=False, reason="no pages", remedy="sudo sysctl vm.nr_hugepages=N")
    other = GOOD.backends[1]
    finding = about(replace(GOOD, backends=(empty, other), pool=HugePool(0, 0, 0, 0)), "backend hugetlb")
    assert (finding.level, finding.command) == (ADVICE, "sudo sysctl vm.nr_hugepages=513")
    nothing = replace(GOOD, backends=(empty, other._replace(usable=False)), chosen=None, why="none")
    assert about(nothing, "backend hugetlb").level == PROBLEM
    assert about(nothing, "choice").level == PROBLEM


def test_a_region_that_does_not_fit_where_it_would_go() -> None:
    small = GOOD.backends[1]._replace(free_bytes=GIB)
    assert about(replace(GOOD, backends=(small,), chosen="shm"), "choice").level == PROBLEM  # the record needs a page
    fits = small._replace(free_bytes=GIB + PAGE)
    assert about(replace(GOOD, backends=(fits,), chosen="shm"), "choice").level == OK
    tables = small._replace(name="msharefs", free_bytes=GIB + PAGE, needed_bytes=GIB + 5 * MIB, limit="free space")
    assert about(replace(GOOD, backends=(tables,), chosen="msharefs"), "choice").text == (
        "a region of 1 GiB would go to msharefs and take 1078984704 bytes with its page tables, "
        "but only 1073745920 bytes can be had there (free space)"
    )


def test_docker_gives_64_mib() -> None:
    finding = about(replace(GOOD, place=Place("/dev/shm", "/dev/shm", "tmpfs", 64 * MIB, 60 * MIB)), "tmpfs")
    assert finding.level == ADVICE
    assert "docker" in finding.text
    assert finding.command == "sudo mount -o remount,size=1030M /dev/shm"


def test_a_tmpfs_that_is_too_small_or_has_no_limit() -> None:
    assert about(replace(GOOD, place=Place("/s", "/", "tmpfs", GIB, GIB)), "tmpfs").command.endswith("=1026M /")
    assert about(replace(GOOD, place=Place("/s", "/", "tmpfs", 0, 0)), "tmpfs").level == OK
    assert about(replace(GOOD, place=None), "tmpfs").level == PROBLEM


@pytest.mark.parametrize(("uid", "level"), [(0, ADVICE), (999, ADVICE), (1000, PROBLEM), (65_534, PROBLEM)])
def test_remove_ipc_takes_the_regions_of_ordinary_users(uid: int, level: str) -> None:
    finding = about(replace(GOOD, uid=uid, remove_ipc=RemoveIpc(True, "")), "RemoveIPC")
    assert finding.level == level
    assert "RemoveIPC=no" in finding.command
    assert about(replace(GOOD, uid=uid, remove_ipc=None), "RemoveIPC").level == OK


@pytest.mark.parametrize(
    ("change", "topic", "level"),
    [
        ({"memory_free": GIB}, "memory", ADVICE),
        ({"cgroup_free": MIB, "cgroup_limit": "group /x"}, "control group", ADVICE),
        ({"cgroup_free": 4 * GIB, "cgroup_limit": "group /x"}, "control group", OK),
        ({"cgroup_hidden": "/x"}, "control group", ADVICE),
        ({"cgroup_hidden": "/x", "cgroup_free": 4 * GIB}, "control group", ADVICE),
        ({"window_free": None}, "addresses", ADVICE),
        ({"overcommit": 2}, "overcommit", ADVICE),
        ({"address_limit": GIB}, "ulimit -v", PROBLEM),
        ({"address_limit": 4 * GIB}, "ulimit -v", OK),
        ({"file_limit": 1024}, "ulimit -f", PROBLEM),
        ({"lock_limit": None}, "ulimit -l", OK),
        ({"window_free": MIB}, "addresses", PROBLEM),
        ({"thp_enabled": None}, "THP", ADVICE),
        ({"pool": None}, "huge pages", ADVICE),
    ],
)
def test_limits(change: dict[str, int | str | None], topic: str, level: str) -> None:
    assert about(replace(GOOD, **change), topic).level == level  # type: ignore[arg-type]


def test_thp_settings_do_not_matter() -> None:
    finding = about(replace(GOOD, thp_enabled="never", thp_shmem="never"), "THP")
    assert finding.level == OK
    assert "MADV_COLLAPSE" in finding.text


def test_json_has_facts_and_findings() -> None:
    document = json.loads(json.dumps(findings_json(GOOD, findings(GOOD))))
    assert document["usable"] is True
    assert document["machine"]["pool"] == {"total": 1024, "free": 1024, "reserved": 0, "overcommit": 0}
    assert document["machine"]["backends"][1]["free_bytes"] == 8 * GIB
    assert {"level", "topic", "text", "command"} == set(document["findings"][0])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], RemoveIpc(True, "")),
        (["#RemoveIPC=no\n[Login]\n#RemoveIPC=no"], RemoveIpc(True, "")),
        (["[Login]\nRemoveIPC=no"], RemoveIpc(False, "0")),
        (["[Login]\n RemoveIPC = off \n"], RemoveIpc(False, "0")),
        (["[Other]\nRemoveIPC=no"], RemoveIpc(True, "")),
        (["[Login]\nRemoveIPC=no", "[Login]\nRemoveIPC=yes"], RemoveIpc(True, "1")),
        (["[Login]\nRemoveIPC=no", "[Login]\nRemoveIPC="], RemoveIpc(True, "")),
        (["[Login]\nRemoveIPC=no\nRemoveIPC=perhaps"], RemoveIpc(False, "0")),
    ],
)
def test_what_logind_is_told(texts: list[str], expected: RemoveIpc) -> None:
    assert parse_remove_ipc([(str(number), text) for number, text in enumerate(texts)]) == expected


def test_drop_ins_come_in_order_of_name_and_etc_hides_usr(tmp_path: Path) -> None:
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    for name in ("etc/logind.conf", "usr/logind.conf", "usr/logind.conf.d/50-a.conf", "usr/logind.conf.d/10-b.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert logind_files([etc, usr]) == [
        etc / "logind.conf",
        usr / "logind.conf.d/10-b.conf",
        usr / "logind.conf.d/50-a.conf",
    ]
    (etc / "logind.conf.d").mkdir()
    (etc / "logind.conf.d/50-a.conf").touch()
    assert logind_files([etc, usr])[-1] == etc / "logind.conf.d/50-a.conf"


def test_the_largest_gap() -> None:
    window = Span(100, 200)
    assert largest_gap(window, []) == 100
    assert largest_gap(window, [Span(0, 110), Span(120, 130), Span(190, 300)]) == 60
    assert largest_gap(window, [Span(0, 300)]) == 0


@pytest.mark.parametrize("size", [0, -1, 1 << 47])
def test_inspection_wants_a_size_that_makes_sense(size: int) -> None:
    with pytest.raises(InvalidSizeError):
        inspect(size)
