"""`mshare run`: real programs, compiled here, with the real preload library on this machine's kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.preload import KINDS, MIB, MSHARE, SIZE, holding, large, preloaded, status
from tests.helpers.waiting import eventually
from tests.helpers.worlds import STRANGER, needs_root


@pytest.mark.parametrize("kind", KINDS)
def test_shared_memory_has_2_mib_leaves(built: Path, programs: Path, kind: str) -> None:
    command: list[str | Path] = [
        *MSHARE,
        "run",
        "--backend",
        "thp",
        "--fill",
        "ahead",
        "--",
        programs / "holder",
        kind,
        str(SIZE),
    ]
    with holding(command) as process:
        found = status(process.pid)
        assert found["library"] == str(built)
        assert large(found)["leaf_2m_bytes"] == SIZE
        assert large(found)["page_4k_bytes"] == 0
        assert large(found)["result"] == "2 MiB leaves"
    assert process.stderr is not None
    with holding([programs / "holder", kind, str(SIZE)]) as process:
        found = status(process.pid)
        assert found["library"] is None
        assert large(found)["leaf_2m_bytes"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_touched_gets_2_mib_leaves_later(built: Path, programs: Path, kind: str) -> None:
    environment = preloaded(built, "backend=thp,fill=later")
    with holding([programs / "holder", kind, str(SIZE)], environment) as process:
        assert process.stderr is not None
        assert "aligned, 2 MiB leaves come later" in process.stderr.readline()
        assert f"2 MiB leaves for {SIZE // (2 * MIB)} of {SIZE // (2 * MIB)} blocks" in process.stderr.readline()
        # The thread that collapses a block maps it by one leaf. The thread belongs to the program.
        assert large(status(process.pid))["leaf_2m_bytes"] == SIZE


@pytest.mark.parametrize(("flags", "enough"), [("0", 64), ("0x4000", 256)], ids=["reserved", "MAP_NORESERVE"])
def test_later_takes_no_memory_that_nobody_touched(built: Path, programs: Path, flags: str, enough: int) -> None:
    """Of two blocks one has enough pages in memory, and one lacks a page. All other blocks are empty."""
    program = (
        "import mmap, sys\n"
        f"m = mmap.mmap(-1, 64 << 20, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | {flags})\n"
        f"for page in range(0, 512, 512 // {enough}): m[page << 12] = 1\n"
        f"for page in range(512 // {enough}, 512, 512 // {enough}): m[(4 << 20) + (page << 12)] = 1\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with holding([sys.executable, "-c", program], preloaded(built, "backend=thp,fill=later")) as process:
        assert process.stderr is not None
        process.stderr.readline()
        assert "2 MiB leaves for 1 of 32 blocks" in process.stderr.readline()
        (area,) = (each for each in status(process.pid)["mappings"] if each["length_bytes"] == 64 * MIB)
        assert area["leaf_2m_bytes"] == 2 * MIB
        smaps = Path(f"/proc/{process.pid}/smaps").read_text().partition(f"{area['address']:x}-")[2]
        assert re.findall(r"Rss: +(\d+) kB", smaps)[0] == str((2 * MIB >> 10) + 4 * (enough - 1))


@pytest.mark.parametrize(("full", "cold", "taken"), [(91, 1, True), (80, 1, False), (91, 2, False)])
def test_later_takes_little_used_blocks_if_they_add_a_hundredth(full: int, cold: int, taken: bool, built: Path) -> None:
    """A block of which 50 pages are in memory lacks 462. A hundredth of 91 full blocks are 465 pages."""
    blocks = full + cold + 1
    program = (
        "import mmap, sys\n"
        f"m = mmap.mmap(-1, {blocks} << 21)\n"
        f"for page in range({full} * 512): m[page << 12] = 1\n"
        f"for block in range({full}, {full + cold}):\n"
        "    for page in range(50): m[(block << 21) + (page << 12)] = 1\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with holding([sys.executable, "-c", program], preloaded(built, "backend=thp,fill=later")) as process:
        assert process.stderr is not None
        process.stderr.readline()
        said = ""
        while f"2 MiB leaves for {full + cold if taken else full} of {blocks} blocks" not in said:
            said = process.stderr.readline()
            assert said, "the program has ended"
        if not taken:
            three_rounds(process.pid)
        (area,) = (each for each in status(process.pid)["mappings"] if each["length_bytes"] == blocks * 2 * MIB)
        assert area["leaf_2m_bytes"] == (full + cold if taken else full) * 2 * MIB


def three_rounds(pid: int) -> None:
    """Wait until the thread of the library has looked at everything three times more. The thread sleeps in between."""
    (task,) = (each for each in Path(f"/proc/{pid}/task").iterdir() if (each / "comm").read_text() == "mshare-later\n")
    sleeps = re.compile(r"^voluntary_ctxt_switches:\s+(\d+)$", re.M)
    before = int(sleeps.findall((task / "status").read_text())[0])
    eventually(lambda: int(sleeps.findall((task / "status").read_text())[0]) >= before + 3, lambda: "no rounds")


def test_small_memory_and_other_programs_are_left_alone(built: Path, programs: Path) -> None:
    for asked in ("min=128M", "only=another", "min=70000000", "only=holder,min=67M"):
        with holding([programs / "holder", "anonymous", str(SIZE)], preloaded(built, asked)) as process:
            assert large(status(process.pid))["leaf_2m_bytes"] == 0
        assert process.stderr is not None
    with holding([programs / "holder", "memfd", str(SIZE)], preloaded(built, "posix=off")) as process:
        assert large(status(process.pid))["leaf_2m_bytes"] == 0
    with holding([programs / "holder", "sysv", str(SIZE)], preloaded(built, "sysv=off")) as process:
        assert large(status(process.pid))["leaf_2m_bytes"] == 0
    with holding([programs / "holder", "anonymous", str(SIZE)], preloaded(built, "only=holder,fill=ahead")) as process:
        assert large(status(process.pid))["leaf_2m_bytes"] == SIZE


@pytest.mark.parametrize("fill", ["ahead", "later", "never"])
def test_a_program_of_many_calls_prints_the_same_lines(built: Path, programs: Path, fill: str) -> None:
    plain = subprocess.run([programs / "api"], capture_output=True, text=True, check=True).stdout
    environment = preloaded(built, f"backend=thp,fill={fill}")
    done = subprocess.run([programs / "api"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == plain
    assert done.stderr.count("shared anonymous memory of 66 MiB") > 200
    assert plain.count("\n") > 230


@needs_root
def test_a_program_of_many_calls_prints_the_same_lines_to_nobody(built: Path, programs: Path) -> None:
    user: dict[str, Any] = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    plain = subprocess.run([programs / "api"], capture_output=True, text=True, check=True, **user).stdout
    environment = preloaded(built, "backend=thp,fill=ahead")
    done = subprocess.run([programs / "api"], capture_output=True, text=True, check=True, env=environment, **user)
    assert done.stdout == plain
    assert "33 of 33 blocks" in done.stderr


def test_refused_hugetlb_pages_are_answered_if_asked(built: Path, programs: Path) -> None:
    size = 4 << 30  # more than the pool of any test
    command: list[str | Path] = [programs / "holder", "hugetlb", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=preloaded(built))
    assert done.stdout == "refused ENOMEM\n"
    script = "import mmap; m = mmap.mmap(-1, 4 << 30, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000); print(len(m))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=preloaded(built, "hugetlb=answer,backend=thp,fill=never"),
    )
    assert done.stdout == f"{4 << 30}\n"
    assert "instead of hugetlb pages, which the kernel refused" in done.stderr
