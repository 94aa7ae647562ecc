"""`mshare report` on real processes: the page in a real browser, the other outputs, and one applied remedy."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mshare._core.backends import ALL
from mshare._core.geometry import PAGE
from mshare._core.linux.proc import status_fields
from mshare._core.units import GIB, MIB
from mshare._tools.cli import dispatch
from mshare._tools.collect import Choice, collect
from mshare._tools.page.html import Report, render
from mshare._tools.scan.advice import judge
from mshare._tools.scan.case import Case, shell_word
from mshare._tools.scan.remedies import remedies
from mshare._tools.scan.saved import dump
from mshare._tools.scan.series import growth, point
from mshare._tools.scan.show import bounds, short
from mshare._tools.scan.survey import Bytes, ObjectUsage, survey
from mshare._tools.table import printable
from tests.helpers.browser import layout, paint
from tests.helpers.mappers import Mapping, mapped
from tests.helpers.servers import Crowd, postgresql, server
from tests.helpers.worlds import needs_root

MSHARE = (sys.executable, "-m", "mshare")
NAME = "a<script>document.title='owned'</script>$x^2$\n\u202e\""
SIZE, COUNT = 256 * MIB, 20
UNFOLDED = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
BLUE = (0x00, 0x67, 0xA8)


def run(*args: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [*MSHARE, "report", *map(str, args)],
        capture_output=True,
        check=False,
        timeout=100,
        env={**UNFOLDED, **environment},
    )
    assert done.returncode == code, done
    return done


@pytest.fixture(scope="module")
def people() -> Iterator[list[int]]:
    with mapped(Mapping(path=NAME, size=SIZE, processes=COUNT, addr=0, writable=False)) as living:
        yield list(living.pids)


def pid_options(pids: list[int]) -> list[str]:
    return [word for pid in pids for word in ("--pid", str(pid))]


def ours(document: Any) -> Any:
    (found,) = (each for each in document["objects"] if each["object"] == f"memfd:{NAME}")
    return found


# The page in a browser


def test_a_real_page_in_a_real_browser(people: list[int], tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    document = json.loads(run("--exact", *pid_options(people), "--json", "-o", target).stdout)
    page = target.read_bytes()
    found = ours(document)
    assert found["processes"] == COUNT
    assert COUNT * SIZE // 512 <= found["page_table_bytes"]["likely"] <= COUNT * (SIZE // 512 + 2 * PAGE)
    assert found["page_table_bytes"]["likely"] < sum(status_fields(pid)["VmPTE"] for pid in people)

    screenshot = tmp_path / "page.png"
    assert paint(page, 1280, 2200, screenshot) == [], (
        "nothing went wrong, nothing was fetched: its policy would have told"
    )
    with Image.open(screenshot) as image:
        assert image.size == (1280, 2200)
        pixels = numpy.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(numpy.unique(pixels[::53], axis=0)) > 50
    assert (pixels == BLUE).all(axis=1).sum() > 500, "the largest object's bar"

    seen = layout(page, 1280)
    assert (seen.width, seen.overflow) == (1280, 0)
    assert seen.title == f"Page tables on {printable(os.uname().nodename)}"
    assert printable(f"memfd:{NAME}") in seen.text
    assert re.search(rf"\b{COUNT}\b", seen.text)
    assert short(bounds(Bytes(**found["page_table_bytes"]))) in seen.text
    assert [label.partition(".")[0] for label in seen.shown] == [
        "Page tables by object, as they are and as they could be"
    ]
    assert document["verdict"]["sentences"][0] in seen.text


def test_advice_on_a_telephone() -> None:
    snapshots = [server(postgresql(8 * GIB, n), Crowd("/dev/shm/x", GIB, 40), taken=1.7e9 + n) for n in (100, 412)]
    points = [point(each, survey(each)) for each in snapshots]
    verdict = judge(snapshots[1], survey(snapshots[1]), ALL)
    page = render(Report(snapshots[1], survey(snapshots[1]), verdict, points, growth(points, verdict.titles)))
    seen = layout(page, 400)
    assert (seen.width, seen.overflow) == (400, 0)
    assert len(seen.shown) == 3, "costs, growth, savings"
    for text in ("PostgreSQL's shared memory in 412 processes", "sudo sysctl -w vm.nr_hugepages=4137", "6.43 GiB"):
        assert text in seen.text


def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """The oracles above find the faults for which they are made."""
    page = b"""<html><meta http-equiv="Content-Security-Policy" content="img-src 'none'"><body>
    <svg aria-label="none" width="0" height="0"></svg><div style="width:3000px">x</div>
    <img src="file:///dev/null"></body></html>"""
    assert any("file:///dev/null" in line for line in paint(page, 400, 100, tmp_path / "page.png"))
    seen = layout(page, 400)
    assert seen.overflow > 2000
    assert seen.shown == []


# The command


def test_it_writes_the_page_and_says_the_verdict(people: list[int], tmp_path: Path) -> None:
    done = subprocess.run(
        [*MSHARE, "report", "--pid", str(people[0])],
        cwd=tmp_path,
        env=UNFOLDED,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Page tables of the 1 process chosen take ")
    assert done.stdout.endswith("The page is in mshare-report.html\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mshare-report.html"]
    assert (tmp_path / "mshare-report.html").read_bytes().startswith(b"<!DOCTYPE html>")


def test_to_stdout_goes_the_page_alone(people: list[int]) -> None:
    done = run("--pid", str(people[0]), "-o", "-")
    assert done.stdout.startswith(b"<!DOCTYPE html>")
    assert done.stdout.endswith(b"</html>\n")
    assert done.stderr == b""


def test_json_has_the_same_and_writes_no_page(people: list[int], tmp_path: Path) -> None:
    done = subprocess.run(
        [*MSHARE, "report", *pid_options(people), "--json"], cwd=tmp_path, capture_output=True, check=True
    )
    document = json.loads(done.stdout)
    found = ours(document)
    truth = COUNT * (SIZE // 512 + PAGE)
    assert found["page_table_bytes"]["lower"] <= truth <= found["page_table_bytes"]["upper"]
    assert document["growth"] is None
    assert len(document["series"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_saved_snapshots_are_put_in_order(tmp_path: Path) -> None:
    for index, clients in enumerate((412, 100, 200)):
        snapshot = server(postgresql(8 * GIB, clients), taken=1.7e9 + clients)
        (tmp_path / f"{index}.snapshot").write_bytes(dump(snapshot))
    done = run(*(tmp_path / f"{index}.snapshot" for index in range(3)), "-o", tmp_path / "r.html")
    lines = done.stdout.decode().splitlines()
    assert "PostgreSQL's shared memory in 412 processes" in lines[0]
    assert lines[1].startswith("In 5m (3 snapshots) page tables grew from ")
    assert "  sudo sysctl -w vm.nr_hugepages=4137" in lines
    document = json.loads(run(*(tmp_path / f"{index}.snapshot" for index in range(3)), "--json").stdout)
    assert [each["processes"] for each in document["series"]] == [100, 200, 412]
    assert document["verdict"]["saving_bytes"] == document["verdict"]["advice"][0]["remedies"][0]["saving_bytes"]


def test_growth_is_recorded_live(people: list[int], tmp_path: Path) -> None:
    options = ("--pid", str(people[0]), "--for", "1s", "--every", "0.2s", "--json", "-o", tmp_path / "r.html")
    done = run(*options)
    document = json.loads(done.stdout)
    taken = [each["taken"] for each in document["series"]]
    assert 2 <= len(taken) <= 6
    assert taken == sorted(taken)
    assert document["growth"]["seconds"] == taken[-1] - taken[0]
    assert b"Ctrl-C ends it" in done.stderr
    assert b"Page tables over time" in (tmp_path / "r.html").read_bytes()


def test_ctrl_c_ends_the_recording_and_writes(people: list[int], tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    command = [*MSHARE, "report", "--pid", str(people[0]), "--for", "1h", "--every", "0.05s", "-o", str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"recording for 1h" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"The page is in" in out
    assert target.read_bytes().endswith(b"</html>\n")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_before_anything_is_read(missing: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None\n")
    done = run("--for", "1h", code=1, PYTHONPATH=str(tmp_path))
    assert done.stderr.decode() == f"mshare: {missing} is not installed: pip install '.[report]' in mshare's source\n"


def test_json_needs_no_package(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['jinja2'] = sys.modules['matplotlib'] = None\n")
    run("--pid", str(os.getpid()), "--json", PYTHONPATH=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--every", "1s"), 2, "--for"),
        (("--json", "-o", "-"), 2, "stdout"),
        (("--exact", "x.snapshot"), 2, "--exact"),
        (("--for", "1m", "x.snapshot"), 2, "--for"),
        (("/dev/null",), 9, "snapshot"),
        (("/nowhere",), 3, "/nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: tuple[str, ...], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["report", *options]) == code
    out, err = capsys.readouterr()
    assert (out, err.startswith(("mshare: ", '{"error"')), word in err) == ("", True, True)


# What it advises


@settings(max_examples=10)
@given(st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\0", b"")), max_size=40))
def test_bash_reads_names_in_commands_as_they_are(names: list[bytes]) -> None:
    words = [shell_word(name.decode("utf-8", "surrogateescape")) for name in names]
    assert all(word.isprintable() for word in words)
    script = "printf '%s\\0' " + " ".join(words) if words else "true"
    read = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert read.split(b"\0")[:-1] == names


@needs_root
def test_the_remedy_for_tmpfs_does_what_it_predicts(tmp_path: Path) -> None:
    place = tmp_path / "it's"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    try:
        file, size, count = place / "data", 64 * MIB, 5
        mapping = Mapping(kind="tmpfs", path=str(file), size=size, processes=count, writable=False)
        with mapped(mapping) as living:
            usage, case = _case(file, living.pids)
            before = usage.now.likely
            remedy = remedies(case, ALL)[0]
        assert before >= count * size // 512
        assert remedy.now == before
        assert remedy.predicted <= count * 4 * PAGE, (
            "one page above the leaves, two if they lie across a GiB, and so on"
        )
        (command,) = (line for line in remedy.commands if not line.startswith("#"))
        collapsed = _collapsed()
        subprocess.run(["bash", "-ec", command.removeprefix("sudo ")], check=True)
        with mapped(mapping) as living:
            kept = _case(file, living.pids)[0].now.likely >= count * size // 512
        assert kept or _collapsed() > collapsed, "what is there keeps its pages, unless khugepaged comes by"
        file.unlink()
        with mapped(mapping) as living:
            after = _case(file, living.pids)[0].now.likely
        assert abs(after - remedy.predicted) <= count * PAGE
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _collapsed() -> int:
    """Return how many huge pages khugepaged has made since boot: it wakes every ten seconds, and may meet the file."""
    return int(Path("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed").read_text())


def _case(file: Path, pids: tuple[int, ...]) -> tuple[ObjectUsage, Case]:
    snapshot = collect(choice=Choice(frozenset(pids)), exact=True)
    (usage,) = (each for each in survey(snapshot).usages if each.object and each.object.path == str(file))
    assert shlex.quote(str(file)) != str(file)
    return usage, Case((usage,), snapshot.processes, snapshot)
