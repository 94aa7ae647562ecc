"""Decides what a boot proved, from the text of the guest's channels. Pure: text in, record out.

May depend on: dmesg.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import NamedTuple

from . import dmesg


class Outcome(Enum):
    """The outcome of a boot; `--json` prints the value."""

    PASSED = "passed"
    FAILED = "failed"
    COMPLAINED = "kernel complained"
    TIMEOUT = "timeout"
    LOST = "lost VM"


# Statuses of `python3 -m vm`. A failed command returns its own status; these numbers are for the other outcomes.
EXIT_HOST, EXIT_COMPLAINED, EXIT_LOST, EXIT_TIMEOUT = 120, 121, 122, 124


class Records(NamedTuple):
    """The guest's messages on its verdict port. A field whose message did not arrive is None."""

    init: bool = False
    start: bool = False
    status: int | None = None
    expired: bool = False
    stage: str = ""
    tainted: int | None = None

    @property
    def complete(self) -> bool:
        """Whether the last record arrived. The guest writes that record after everything else."""
        return self.status is not None and self.tainted is not None


class Verdict(NamedTuple):
    """The judgement of one boot. `status` is the command's exit status, None if it never ended.

    `stage` names the step that failed, where a script of several steps said so.
    """

    outcome: Outcome
    reason: str
    status: int | None
    started: bool
    complaints: tuple[dmesg.Complaint, ...] = ()
    excerpt: tuple[str, ...] = ()
    stage: str = ""

    @property
    def exit_code(self) -> int:
        """The exit status of `python3 -m vm` for this verdict."""
        match self.outcome:
            case Outcome.PASSED:
                return 0
            case Outcome.FAILED:
                return self.status or 1
            case Outcome.COMPLAINED:
                return EXIT_COMPLAINED
            case Outcome.TIMEOUT:
                return EXIT_TIMEOUT
            case Outcome.LOST:
                return EXIT_LOST

    @property
    def early_death(self) -> bool:
        """Whether the guest died before its first user process. Such a death is the emulator's fault: try again."""
        return not self.started


def parse(port: bytes) -> Records:
    """Return the records on the verdict port, one JSON object a line. Torn and foreign lines prove nothing."""
    records = Records()
    for line in port.split(b"\n"):
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if not isinstance(item, dict):
            continue
        match item:
            case {"event": "init"}:
                records = records._replace(init=True)
            case {"event": "start"}:
                records = records._replace(start=True)
            case {"event": "exit", "status": int(status), "expired": bool(expired)} if not isinstance(status, bool):
                records = records._replace(status=status, expired=expired, stage=str(item.get("stage", "")))
            case {"event": "end", "tainted": int(tainted)} if not isinstance(tainted, bool):
                records = records._replace(tainted=tainted)
            case _:
                pass
    return records


def judge(port: bytes, log: str, console: str, *, killed: str | None = None) -> Verdict:
    """Return the verdict on one boot.

    `port`: bytes of the verdict port; `log`: the guest's kernel log, sent at its end; `console`: the serial console,
    the only witness of a panic; `killed`: why the host ended the machine, None if it ended by itself.

    No final record means no pass, whatever the command printed. A complaint outweighs everything else after the first
    user process. A death before the first user process is the emulator's fault (README, "Known emulator races") and
    counts as a lost VM.
    """
    records = parse(port)
    started = records != Records() or dmesg.FIRST_PROCESS in console
    source = log if records.complete else console
    complaints = dmesg.scan(source)

    def verdict(outcome: Outcome, reason: str) -> Verdict:
        lines = tuple(dmesg.excerpt(source, complaints))
        return Verdict(outcome, reason, records.status, started, tuple(complaints), lines, records.stage)

    if not started:
        seen = f" ({complaints[0].text})" if complaints else ""
        return verdict(Outcome.LOST, f"{killed or 'the machine ended'} before the first user process{seen}")
    if complaints:
        return verdict(
            Outcome.COMPLAINED, f"{len(complaints)} line(s) in the kernel log, the first: {complaints[0].text}"
        )
    if records.complete:
        assert records.tainted is not None
        if bad := dmesg.taints(records.tainted):
            return verdict(Outcome.COMPLAINED, f"the kernel is tainted: {', '.join(bad)}")
        if dmesg.FIRST_PROCESS not in log:
            return verdict(Outcome.LOST, "the kernel log is cut short, so it cannot prove a clean run")
        if records.expired:
            return verdict(Outcome.TIMEOUT, "the command did not end within its time limit")
        if records.status != 0:
            where = f" at step {records.stage}" if records.stage else ""
            return verdict(Outcome.FAILED, f"the command exited with status {records.status}{where}")
        return verdict(Outcome.PASSED, "the command succeeded and the kernel log is clean")
    if not records.start:
        return verdict(Outcome.LOST, f"{killed or 'the machine ended'} before the command was started")
    return verdict(Outcome.LOST, f"{killed or 'the machine ended'} without a verdict")
