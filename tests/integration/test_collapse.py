"""`mshare collapse` on real processes: their page tables, their content, and what is left alone.

The oracles are VmPTE and smaps of the processes, which saw their own page tables grow, and st_blocks of the object.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mshare._core.geometry import PAGE, PMD
from mshare._core.linux import libc
from mshare._core.linux.proc import status_fields
from mshare._core.procfs import parse_maps, parse_smaps
from mshare._tools.cli import dispatch
from mshare.testing.processes import in_child
from tests.helpers.capabilities import (
    CAP_CHECKPOINT_RESTORE,
    CAP_DAC_READ_SEARCH,
    CAP_SYS_NICE,
    CAP_SYS_PTRACE,
    become,
)
from tests.helpers.mappers import LONELY, Mapped, Mapping, mapped
from tests.helpers.worlds import STRANGER, needs_root

pytestmark = needs_root

MSHARE = (sys.executable, "-m", "mshare")
BLOCKS = 17
SIZE = BLOCKS * PMD
RIGHTS = (CAP_SYS_PTRACE, CAP_SYS_NICE, CAP_CHECKPOINT_RESTORE, CAP_DAC_READ_SEARCH)


def collapse(*words: object) -> subprocess.CompletedProcess[str]:
    command = [*MSHARE, "collapse", *map(str, words)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def document(*words: object, code: int = 0) -> Any:
    """Return what it says as JSON about the only object that is chosen."""
    done = collapse(*words, "--json")
    assert (done.returncode, done.stderr) == (code, ""), done
    (found,) = json.loads(done.stdout)["objects"]
    return found


def counts(**blocks: int) -> dict[str, int]:
    return {"huge": 0, "warm": 0, "cold": 0, "empty": 0, "swapped": 0, "missing_bytes": 0} | blocks


def vmpte(pid: int) -> int:
    return status_fields(pid)["VmPTE"]


def huge_bytes(pid: int, addr: int) -> int:
    """Return how much of the mapping at `addr` has 2 MiB leaves."""
    areas = parse_smaps(Path(f"/proc/{pid}/smaps").read_bytes())
    return next(area.pmd_mapped for area in areas if area.start == addr)


def link(pid: int, start: int) -> Path:
    """Return the way to the object that a process maps at an address."""
    (span,) = (each.span for each in parse_maps(Path(f"/proc/{pid}/maps").read_bytes()) if each.span.start == start)
    return Path(f"/proc/{pid}/map_files/{span.start:x}-{span.end:x}")


def memory_bytes(pid: int, start: int = LONELY) -> int:
    return link(pid, start).stat().st_blocks * 512


@contextmanager
def crowd(mapping: Mapping, *prefix: str) -> Iterator[Mapped]:
    """Start the processes; the file of a tmpfs is there before, with content that the processes only read."""
    with ExitStack() as stack:
        if mapping.path and not Path(mapping.path).exists():
            path = Path(mapping.path)
            path.write_bytes(random.Random(5).randbytes(mapping.size))
            stack.callback(path.unlink)
        yield stack.enter_context(mapped(mapping, *prefix))


@pytest.mark.parametrize("kind", ["memfd", "tmpfs", "sysv", "anonymous"])
def test_one_call_frees_the_page_tables_of_all(kind: str, world: Path) -> None:
    mapping = Mapping(
        kind, SIZE, processes=3, path=str(world / "f") if kind == "tmpfs" else "", writable=kind != "tmpfs"
    )
    with crowd(mapping) as found:
        before = {pid: vmpte(pid) for pid in found.pids}
        digest = sha256(link(found.pids[0], LONELY).read_bytes()).digest()
        memory = memory_bytes(found.pids[0])
        said = document("--pid", found.pids[1])
        for pid in found.pids:
            assert before[pid] - vmpte(pid) == BLOCKS * PAGE
        assert sha256(link(found.pids[0], LONELY).read_bytes()).digest() == digest
        assert memory_bytes(found.pids[0]) == memory == SIZE
    assert said["result"]["collapsed"] == BLOCKS
    assert said["result"]["blocks"] == counts(huge=BLOCKS)
    assert said["aligned_mappings"] == said["mappings"] == said["processes"]
    result = said["result"]
    assert {str(pid) for pid in found.pids} <= set(result["vmpte_before"])
    assert result["vmpte_before"][str(found.pids[2])] - result["vmpte_after"][str(found.pids[2])] == BLOCKS * PAGE


def test_what_nobody_touched_takes_no_memory() -> None:
    """The first 5 blocks are full, and the others empty: the kernel would refuse them, and nobody asks it."""
    with mapped(Mapping("memfd", SIZE, processes=2, part=5 / BLOCKS)) as found:
        said = document("--pid", found.pids[0])
        assert memory_bytes(found.pids[0]) == 5 * PMD
    assert said["result"]["collapsed"] == 5
    assert said["result"]["refused"] == {}
    assert said["blocks"] == counts(warm=5, empty=BLOCKS - 5)


@pytest.mark.parametrize(("warm", "taken"), [(100, False), (25.1, False), (25, True), (0, True)])
def test_what_is_partly_touched_is_collapsed_if_it_is_warm(warm: float, taken: bool) -> None:
    """Every fourth page of each block is in memory."""
    with mapped(Mapping("memfd", SIZE, processes=2, step=4 * PAGE)) as found:
        said = document("--pid", found.pids[0], "--warm", warm)
        assert memory_bytes(found.pids[0]) == (SIZE if taken else SIZE // 4)
        assert huge_bytes(found.pids[0], LONELY) == (SIZE if taken else 0)
        assert huge_bytes(found.pids[1], LONELY) == 0  # there the leaves come with the next touch
    assert said["blocks"]["warm" if taken else "cold"] == BLOCKS
    assert said["blocks"]["missing_bytes"] == (SIZE * 3 // 4 if taken else 0)


def test_a_second_run_finds_nothing_to_do() -> None:
    with mapped(Mapping("memfd", SIZE, processes=2)) as found:
        assert document("--pid", found.pids[0])["result"]["collapsed"] == BLOCKS
        again = document("--pid", found.pids[0])
        assert again["blocks"]["huge"] == BLOCKS
        assert again["result"] is None
        assert collapse("--pid", found.pids[0]).stdout.endswith("nothing to collapse\n")


def test_a_dry_run_does_nothing() -> None:
    with mapped(Mapping("memfd", SIZE, processes=3, path="dry")) as found:
        before = [vmpte(pid) for pid in found.pids]
        said = document("--pid", found.pids[0], "--dry-run")
        text = collapse("--pid", found.pids[0], "--dry-run").stdout
        assert [vmpte(pid) for pid in found.pids] == before
    assert said["result"] is None
    assert said["blocks"]["warm"] == BLOCKS
    assert said["predicted_bytes"] < said["page_table_bytes"]["likely"] / 5
    assert "memfd:dry" in text
    assert f"{BLOCKS} warm, to be collapsed" in text
    assert "3 processes; 3 of 3 mappings are aligned" in text


def test_an_object_is_found_by_what_scan_calls_it(world: Path) -> None:
    mapping = Mapping("tmpfs", SIZE, processes=1, path=str(world / "cache"), writable=False)
    with crowd(mapping) as found:
        ino = Path(mapping.path).stat().st_ino
        for name in (mapping.path, f"#{ino}"):
            said = document(name, "--pid", found.pids[0], "--dry-run")
            assert (said["object"], said["ino"], said["processes"]) == (mapping.path, ino, 1)
        assert document(mapping.path)["result"]["collapsed"] == BLOCKS
        missing = collapse(world / "other")
        assert (missing.returncode, missing.stdout) == (3, "")
        assert "maps an object" in missing.stderr


def test_unaligned_mappings_keep_their_tables_and_are_named(world: Path) -> None:
    path = str(world / "f")
    aligned = Mapping("tmpfs", SIZE, processes=2, path=path, writable=False)
    with crowd(aligned) as some, mapped(Mapping("tmpfs", SIZE, 2, LONELY + 5 * PAGE, path=path)) as others:
        before = [vmpte(pid) for pid in others.pids]
        alone = document("--pid", others.pids[0], "--dry-run")
        said = document(path)
        assert [vmpte(pid) for pid in others.pids] == before
        text = collapse(path).stdout
    assert said["result"]["collapsed"] == BLOCKS
    assert said["unaligned_pids"] == alone["unaligned_pids"] == sorted(others.pids)
    assert (said["aligned_mappings"], said["mappings"]) == (2, 4)
    assert "huge=advise" in text
    assert len(some.pids) == 2


@pytest.mark.parametrize(("kind", "remedy"), [("memfd", "shmem_enabled"), ("tmpfs", "huge=advise")])
def test_where_nothing_is_aligned_it_says_what_to_do(kind: str, remedy: str, world: Path) -> None:
    mapping = Mapping(kind, SIZE, 2, LONELY + PAGE, path=str(world / "f") if kind == "tmpfs" else "")
    with crowd(mapping) as found:
        said = document("--pid", found.pids[0], code=8)
        done = collapse("--pid", found.pids[0])
        assert done.returncode == 8
    assert said["blocks"] is None
    assert remedy in said["refusal"]["remedy"]
    assert "mshare run" in said["refusal"]["remedy"]
    assert remedy in done.stdout


def test_huge_pages_of_hugetlb_are_refused(huge_pages: int) -> None:
    with mapped(Mapping("hugetlb", 4 * PMD, processes=2, step=PMD)) as found:
        said = document("--pid", found.pids[0], code=8)
    assert "huge pages of hugetlb already" in said["refusal"]["reason"]
    assert said["result"] is None


def test_a_kernel_without_the_call_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(libc, "has_collapse", lambda: False)
    assert dispatch(["collapse", "--pid", "1"]) == 8
    assert "use Linux 6.1 or newer" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [*RIGHTS, None])
def test_the_rights_that_it_needs(missing: int | None) -> None:
    """Each of the four rights is needed, and they are enough: the processes are root's, the command is not."""

    def run() -> list[Any]:
        words = ["collapse", "--pid", str(found.pids[0]), "--json"]
        with redirect_stdout(io.StringIO()):
            assert dispatch([*words, "--dry-run"]) == 0  # loads what the stranger may not read
        become(STRANGER, set(RIGHTS) - {missing})
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            return [dispatch(words), out.getvalue(), err.getvalue()]

    with mapped(Mapping("memfd", SIZE, processes=2)) as found:
        before = vmpte(found.pids[1])
        code, out, err = in_child(run).value
        freed = before - vmpte(found.pids[1])
    if missing is None:
        assert (code, err, freed) == (0, "", BLOCKS * PAGE)
    else:
        assert (code, out, freed) == (7, "", 0)
        assert "root" in json.loads(err)["error"]["message"]
        assert missing == CAP_SYS_PTRACE or "CAP_SYS_NICE" in err


def test_closed_streams_do_not_matter() -> None:
    with mapped(Mapping("memfd", SIZE, processes=2)) as found:
        command = f"exec {' '.join(MSHARE)} collapse --pid {found.pids[0]} <&- >&- 2>&-"
        before = vmpte(found.pids[1])
        assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
        assert before - vmpte(found.pids[1]) == BLOCKS * PAGE


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("--pid", "4194305"), 3),
        (("--command", "no-such-program"), 3),
        (("--pid", "1", "--max-stall", "5"), 2),
        (("--pid", "1", "--max-cpu", "0"), 2),
    ],
)
def test_what_is_wrong_with_a_command_line(words: tuple[str, ...], code: int) -> None:
    done = collapse(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("mshare: ")


def test_a_limit_of_one_stall_ends_the_work() -> None:
    with mapped(
        Mapping("memfd", SIZE, processes=2),
    ) as found:
        said = document("--pid", found.pids[0], "--max-stall", f"{1e-6:.6f}s", code=1)
        assert memory_bytes(found.pids[0]) == SIZE
    assert said["result"]["collapsed"] == 1
    assert "longer than --max-stall" in said["result"]["stopped"]
