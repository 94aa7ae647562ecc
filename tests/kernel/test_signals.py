"""A process that attaches and forks while signals come all the time.

The process has 50,000 mappings, so that registering it with the kernel takes longer than the time between two signals.
"""

import contextlib
import os
import pathlib
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.waiting import eventually

from . import mfs
from .programs import Program
from .regions import Regions

VMAS = 50_000
DEADLINE = 60  # seconds, for a run that takes a second or two under emulation


class Flooded:
    """The program, line by line."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.rest = b""

    def lines(self, wanted: bytes, seconds: float = DEADLINE) -> None:
        """Read until the line `wanted` comes."""
        limit = time.monotonic() + seconds
        while True:
            *complete, self.rest = self.rest.split(b"\n")
            assert not any(line.startswith(b"FAIL") for line in complete), complete
            if wanted in complete:
                return
            ready, _, _ = select.select([self.output], [], [], max(0, limit - time.monotonic()))
            assert ready, f"no {wanted.decode()} within {seconds} s"
            more = os.read(self.output.fileno(), 4096)
            assert more, "the program ended"
            self.rest += more

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        self.output.close()
        # The sender and a child, who have the region open, are reaped by init.
        eventually(self.group_is_gone, "a process of the program is still there")

    def group_is_gone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def flooded(region: Regions, attack: Program) -> Iterator[Callable[..., Flooded]]:
    """Start the program: flooded(group="-")."""
    fd = region(16)
    os.pwrite(fd, b"x", 0)
    made = []

    def start(group: str = "-") -> Flooded:
        made.append(Flooded([attack.program, "flood", region.path, str(VMAS), group]))
        return made[-1]

    yield start
    for each in made:
        each.end()
    eventually(lambda: not mfs.info(fd)["attachments"], "somebody is still attached")


@pytest.mark.timeout(300)
def test_attaching_and_forking_get_done(flooded: Callable[..., Flooded]) -> None:
    """Seen before, on 6.12: no "attached" within 60 s, that is, mmap did not return.

    The registration gave up at each signal and began again.  With 20,000 mappings, on a busy host, it passed.
    """
    program = flooded()
    program.lines(b"ready")
    for _ in range(3):
        program.lines(b"attached")
        program.lines(b"forked")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", [b"ready", b"attached", b"forked"])
def test_sigkill_ends_it(flooded: Callable[..., Flooded], moment: bytes) -> None:
    """The process dies within 20 s.  The test passed before, with 20,000 mappings: the dying take no more signals."""
    program = flooded()
    program.lines(moment)
    program.process.kill()
    assert program.process.wait(20) == -signal.SIGKILL


@pytest.mark.timeout(300)
def test_it_can_be_frozen(control_group: Callable[..., str], flooded: Callable[..., Flooded]) -> None:
    """A cgroup freezes, and when it thaws the data is there.

    Seen before, on 6.12: frozen once, then no "forked" within 60 s.
    """
    group = pathlib.Path(control_group())
    program = flooded(str(group))
    program.lines(b"ready")
    for turn in range(5):
        (group / "cgroup.freeze").write_text("1")
        eventually(
            lambda: "frozen 1" in (group / "cgroup.events").read_text().splitlines(),
            f"not frozen in turn {turn}: {(group / 'cgroup.events').read_text()}",
            DEADLINE,
        )
        (group / "cgroup.freeze").write_text("0")
        program.lines(b"forked")
