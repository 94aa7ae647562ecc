"""Proves the verdicts: boots machines that must pass, fail, complain, hang and vanish, and checks each verdict.

May depend on: apt, debug, machine, store, suite, verdict.
"""

from __future__ import annotations

import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from . import machine, suite
from .apt import Progress
from .debug import RELEASE_ENDING
from .store import Kernel
from .verdict import Outcome


class Case(NamedTuple):
    """One boot: its command, and the verdict it must get. The reason contains `says`. `complaint` loads our module."""

    command: str
    outcome: Outcome
    status: int | None
    says: str = ""
    prints: str | None = None
    limit_seconds: int = 60
    append: str = ""
    attempts: int = 1
    complaint: str | None = None


CASES = {
    "pass": Case("echo from the guest", Outcome.PASSED, 0, prints="from the guest\n"),
    "fail": Case("exit 7", Outcome.FAILED, 7, says="status 7"),
    # A writable host root, or a directory that is not writable, would end this command with 1 or 2.
    "files": Case("touch /root/.mshare-vm-selftest && test -e here && echo written > there", Outcome.PASSED, 0),
    "message": Case(
        "echo '<3>BUG: Bad page state in process selftest' > /dev/kmsg", Outcome.COMPLAINED, 0, says="Bad page"
    ),
    "timeout": Case("sleep 1000", Outcome.TIMEOUT, 137, limit_seconds=3),
    "panic": Case("echo c > /proc/sysrq-trigger", Outcome.COMPLAINED, None, says="panic"),
    "vanish": Case("echo o > /proc/sysrq-trigger; sleep 50", Outcome.LOST, None, says="without a verdict"),
    "early": Case("true", Outcome.LOST, None, says="first user process", append="rdinit=/nowhere", attempts=2),
    "warn": Case("insmod complain.ko how=warn", Outcome.COMPLAINED, None, says="WARNING", complaint="warn"),
    "oops": Case("insmod complain.ko how=oops", Outcome.COMPLAINED, None, says="NULL pointer", complaint="oops"),
    "atomic": Case("insmod complain.ko how=atomic", Outcome.COMPLAINED, None, says="atomic", complaint="atomic"),
    # The machine survives the same warning here: the log alone must reveal it.
    "survived": Case(
        "/sbin/insmod complain.ko how=warn; true",
        Outcome.COMPLAINED,
        0,
        says="WARNING",
        append="panic_on_warn=0",
        complaint="warn",
    ),
}

# Only the debug kernel notices these faults, and it must: a clean log proves only as much as its checks find.
DEBUG_CASES = {
    "freed": Case("insmod complain.ko how=freed", Outcome.COMPLAINED, None, says="KASAN", complaint="freed"),
    "order": Case("insmod complain.ko how=order; true", Outcome.COMPLAINED, 0, says="circular", complaint="order"),
}


def check(kernel: Kernel, only: list[str], progress: Progress) -> int:
    """Boot every case, or those in `only`. Return 0 if each case got its verdict, else 1. A case takes about 6 s.

    Raises BuildError when the complaining module does not compile.
    """
    wrong = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mshare-vm-selftest-") as name:
        directory = Path(name)
        cases = CASES | (DEBUG_CASES if kernel.release.endswith(RELEASE_ENDING) else {})
        chosen = {key: case for key, case in cases.items() if not only or key in only}
        if any(case.complaint for case in chosen.values()):
            _build_complain(kernel, directory)
        (directory / "here").touch()
        for key, case in chosen.items():
            problem, boot = _try(kernel, case, directory, directory / f"results-{key}")
            wrong += problem is not None
            said = "ok" if problem is None else f"WRONG, {problem}"
            progress(f"{key}: {said}: {boot.verdict.reason} ({boot.total_seconds:.1f} s)")
        if "files" in chosen and not (directory / "there").exists():
            wrong += 1
            progress("files: WRONG, what the guest wrote to its directory is not on the host")
    if Path("/root/.mshare-vm-selftest").exists():
        wrong += 1
        progress("files: WRONG, the guest wrote to the host's root file system")
    progress(f"{kernel.release}: {len(chosen)} cases, {wrong} wrong, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _try(kernel: Kernel, case: Case, directory: Path, results: Path) -> tuple[str | None, machine.Boot]:
    output: list[bytes] = []
    guest = machine.VirtualMachine(
        kernel, command_limit_seconds=case.limit_seconds, append=case.append, writable=(directory,)
    )
    script = machine.command_script([case.command], directory, machine.guest_environment({}))
    boot = machine.boot(guest, script, lambda stream, data: output.append(data), results, lambda text: None)
    got = boot.verdict
    printed = b"".join(output).decode(errors="replace")
    for wanted, seen, what in (
        (case.outcome, got.outcome, "outcome"),
        (case.status, got.status, "status"),
        (case.attempts, boot.attempts, "attempts"),
        (printed if case.prints is None else case.prints, printed, "output"),
    ):
        if wanted != seen:
            return f"{what} is {seen!r}, not {wanted!r}", boot
    if case.says not in got.reason:
        return f"the reason does not say {case.says!r}", boot
    return None, boot


def _build_complain(kernel: Kernel, directory: Path) -> None:
    source = resources.files(__package__) / "guest" / "complain"
    for name in ("complain.c", "Kbuild"):
        (directory / name).write_bytes((source / name).read_bytes())
    suite.make(kernel.build, f"M={directory}", "modules")
