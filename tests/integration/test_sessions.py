"""The sessions in docs/cli.md are as the commands print them today.

Output that depends on no machine is compared as it stands. The sessions about regions run in the order of the page, in
a world of their own, and are compared without ages, dates and the reason of the backend's choice.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGIONS = re.compile(r"mshare (create s|ls|stat|cp|rm|gc)|seq |gzip ")
ADDRESS = re.compile(r"\b0x[23][0-9a-f]{11}\b")
"""The beginnings of commands about regions; `create huge` fails in its own way on each machine."""
EVERYWHERE_THE_SAME = ("mshare plan ", "mshare scan --from tests/data/", "mshare scan --pid 4194305")


def all_sessions() -> list[tuple[str, str]]:
    """Return each command of a session with what follows it in the page."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = (part.partition("\n") for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:])
    return [(command, output) for command, _, output in commands]


def sessions() -> list[tuple[str, str]]:
    """Return the sessions that are the same on every machine."""
    return [each for each in all_sessions() if each[0].startswith(EVERYWHERE_THE_SAME)]


@pytest.mark.parametrize(("command", "output"), sessions(), ids=lambda text: text.partition("\n")[0])
def test_the_session_is_what_the_command_prints(command: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.stdout + (f"[exit {done.returncode}]\n" if done.returncode else "") == output


@pytest.mark.parametrize("command", ["mshare module status", "mshare run --check -- python3"])
def test_a_session_of_another_machine_has_the_same_labels(command: str) -> None:
    """Values differ from machine to machine, and the first column does not."""
    (output,) = (output for each, output in all_sessions() if each == command)
    done = printed(command)
    assert column(done, 0, output.index("  ")) == column(output, 0, output.index("  "))
    assert len(column(output, 0, output.index("  "))) >= 6


def test_the_doctors_session_has_topics_that_the_doctor_knows() -> None:
    (output,) = (output for each, output in all_sessions() if each == "mshare doctor")
    assert set(column(output, 8, 24)) <= set(column(printed("mshare doctor"), 8, 24))
    assert len(column(output, 8, 24)) >= 12


def printed(command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
    ).stdout


def column(text: str, start: int, end: int) -> list[str]:
    """Return the text in these columns of each line that does not begin with a blank."""
    return [line[start:end].strip() for line in text.splitlines() if line and line[0] != " "]


def test_there_are_sessions() -> None:
    assert {command.split()[1] for command, _ in sessions()} == {"plan", "scan"}


def region_sessions() -> list[tuple[str, str]]:
    """Return the sessions about regions; `ls` and `stat` show `numbers`, which a later session makes."""
    found = [each for each in all_sessions() if REGIONS.match(each[0])]
    copied = [each for each in found if "numbers.txt region:numbers" in each[0] or each[0].startswith("seq ")]
    created = [each for each in found if each[0].startswith("mshare create ")]
    return created + copied + [each for each in found if each not in created + copied]


def same_everywhere(text: str, world: Path, holder: int | None = None) -> str:
    """Return `text` with the names of this test replaced by those of the page, and without what changes each time."""
    text = text.replace(f"{world}/shm/", "/dev/shm/").replace(pwd.getpwuid(os.geteuid()).pw_name, "root")
    if holder is not None:
        text = re.sub(rf"\b{holder}\b", "11485", text)
    text = re.sub(r"^why .*\n(?: +.*\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(r'"(reason|created|uid)": .*', r'"\1"', text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d [\d:]+ UTC|\b[A-Z][a-z]{2} +\d+ [\d:]{5}|\b\d+s\b", "WHEN", text)
    text = re.sub(r'"addr": (\d+)', lambda found: f'"addr": {int(found[1]):#x}', text)
    return re.sub(r"\(uid \d+\)", "(uid 0)", re.sub(" +", " ", text))


def same_addresses(sessions: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the sessions with each address as a number: addresses are random, and the same in all commands."""
    seen: dict[str, str] = {}
    return [
        (command, ADDRESS.sub(lambda one: seen.setdefault(one.group(), f"ADDRESS {len(seen)}"), text))
        for command, text in sessions
    ]


def test_the_sessions_about_regions_are_what_the_commands_print(world: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "80", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    attached = "import mshare, sys; r = mshare.attach('sga'); print(flush=True); sys.stdin.read()"
    expected, printed = [], []
    holder: subprocess.Popen[bytes] | None = None
    try:
        for command, output in region_sessions():
            if command == "mshare ls":
                holder = subprocess.Popen(
                    [sys.executable, "-c", attached], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                assert holder.stdout is not None
                assert holder.stdout.readline() == b"\n"
            done = subprocess.run(
                ["bash", "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                cwd=tmp_path,
                env=environment,
            )
            code = f"[exit {done.returncode}]\n" if done.returncode else ""
            expected.append((command, same_everywhere(output, world)))
            printed.append((command, same_everywhere(done.stdout + code, world, holder.pid if holder else None)))
    finally:
        if holder is not None:
            holder.communicate()
    assert same_addresses(printed) == same_addresses(expected)


def test_the_sessions_about_regions_are_all_there() -> None:
    commands = [command.split()[1] for command, _ in region_sessions() if command.startswith("mshare ")]
    assert {"create", "ls", "stat", "cp", "rm", "gc"} == set(commands)
