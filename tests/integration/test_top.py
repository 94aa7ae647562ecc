"""`mshare top` as a user runs it: the real command, a real terminal, real processes that map a file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mshare._core.geometry import PMD
from mshare._core.units import TIB
from tests.helpers.mappers import Mapping, mapped
from tests.helpers.terminal import Terminal

pytestmark = pytest.mark.machine

TOP = (sys.executable, "-m", "mshare", "top", "--interval", "0.5", "--min", "1")
TOUCHED = 61
CTRL_HOME = "\x1b[1;5H"


@contextmanager
def mapper(path: Path) -> Iterator[int]:
    """Run a process that maps `path`: 32 TiB, no memory but for `TOUCHED` pages with a page table each. Give its
    pid. It is the largest object on any machine that can run this."""
    size = 32 * TIB
    mapping = Mapping("tmpfs", size, processes=1, path=str(path), step=PMD, part=TOUCHED * PMD / size)
    with mapped(mapping) as there:
        yield there.pids[0]


def vmpte(pid: int) -> int:
    found = re.search(r"^VmPTE:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_on_a_terminal_from_start_to_quit(world: Path) -> None:
    path = world / "seen-by-top"
    with mapper(path) as pid, Terminal(TOP) as terminal:
        terminal.until(
            lambda text: (
                re.search(r"PageTables [\d.]+ [KMG]iB  [\d.]+ % of [\d.]+ GiB  \d+ % explained", text) is not None
                and "private" in text
                and "q quit" in text.splitlines()[-1]
            )
        )
        terminal.press("s")
        line = re.compile(rf"32 TiB +1 +4K +tmpfs +{path}$")
        terminal.until(lambda text: "SIZE ▼" in text and line.search(text.splitlines()[2]) is not None)
        terminal.press(CTRL_HOME)
        terminal.press("\r")
        row = re.compile(rf"^ +([\d.]+) KiB +([\d.]+) KiB +{pid} +root +python", re.MULTILINE)
        screen = terminal.until(lambda text: row.search(text) is not None)
        tables, whole = map(float, row.findall(screen)[0])
        assert whole == vmpte(pid)
        assert 4 * TOUCHED <= tables <= whole
        terminal.press("\x1b")
        terminal.until(lambda text: str(path) in text and "OBJECT" in text)
        assert terminal.modes != terminal.modes_before
        terminal.press("q")
        assert terminal.end() == 0
        restored(terminal)


def restored(terminal: Terminal) -> None:
    assert terminal.modes == terminal.modes_before
    for mode in ("1049", "25"):  # the other screen, the cursor
        on, off = terminal.raw.rfind(f"\x1b[?{mode}h".encode()), terminal.raw.rfind(f"\x1b[?{mode}l".encode())
        assert (off > on) == (mode == "1049"), mode
    for mode in ("1000", "1003", "2004"):  # mouse, pasting
        assert terminal.raw.rfind(f"\x1b[?{mode}l".encode()) > terminal.raw.rfind(f"\x1b[?{mode}h".encode()), mode


@pytest.mark.parametrize(
    ("how", "code"), [("\x03", 130), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)]
)
def test_however_it_ends_the_terminal_is_as_before(how: str | signal.Signals, code: int) -> None:
    with Terminal(TOP) as terminal:
        terminal.until(lambda text: "PageTables" in text)
        if isinstance(how, str):
            terminal.press(how)
        else:
            terminal.process.send_signal(how)
        assert terminal.end() == code
        restored(terminal)


def test_a_hostile_name_does_not_reach_the_terminal(world: Path) -> None:
    path = world / "a\n\x1b]0;owned\x07\x1b[2J[bold]b :smile: \u202ec\x9b31m"
    with mapper(path), Terminal(TOP, columns=250) as terminal:
        shown = "a\\n\\x1b]0;owned\\x07\\x1b[2J[bold]b :smile: \\u202ec\\x9b31m"
        terminal.until(lambda text: "PageTables" in text and "private" in text)
        terminal.press("s")
        terminal.until(lambda text: shown in text)
        terminal.press("q")
        assert terminal.end() == 0
        for raw in ("\x1b]0;", "owned\x07", "\x1b[2J[bold]", "\u202e", "\x9b"):
            assert raw.encode() not in terminal.raw
        restored(terminal)


def output(*args: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run([*TOP, *args], capture_output=True, check=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout


def test_json_is_one_document_per_line(world: Path) -> None:
    path = world / "seen-by-json"
    with mapper(path) as pid:
        lines = output("--json", "--count", "2").splitlines()
        documents = [json.loads(line) for line in lines]
        assert len(documents) == 2
        assert documents[0]["taken"] < documents[1]["taken"]
        for document in documents:
            (found,) = (each for each in document["objects"] if each["path"] == str(path))
            assert list(found["by_process"]) == [str(pid)]
            assert 0 < found["page_table_bytes"]["likely"] <= vmpte(pid) * 1024


def test_where_there_is_no_terminal_it_prints_tables(world: Path) -> None:
    path = world / "seen-by-table"
    with mapper(path):
        text = output("--count", "2")
        assert len(re.findall(rf" 32T .* {path}$", text, re.MULTILINE)) == 2
        assert text.count("PageTables ") == 2


def test_without_the_extra_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['textual'] = None; from mshare._tools.cli import dispatch; sys.exit(dispatch(['top']))"
    )
    with Terminal([sys.executable, "-c", program]) as terminal:
        assert terminal.end() == 1
        assert "mshare: textual is not installed: pip install '.[top]'" in terminal.text


@pytest.mark.parametrize("arguments", [("--interval", "0.1"), ("--interval", "nan"), ("--count", "0"), ("--min", "x")])
def test_what_makes_no_sense_is_refused(arguments: tuple[str, str]) -> None:
    done = subprocess.run([*TOP, *arguments], capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
