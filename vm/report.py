"""Reports what a boot proved: a line and the kernel's complaints for people, an object for programs. Pure.

May depend on: junit, machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import junit

if TYPE_CHECKING:
    from .machine import Boot


def as_object(release: str, boot: Boot, suite: junit.Report | None = None) -> dict[str, Any]:
    """Return the object that `--json` prints. Durations are in seconds, or null if the machine did not get so far."""
    found = boot.verdict
    item: dict[str, Any] = {
        "kernel": release,
        "outcome": found.outcome.value,
        "reason": found.reason,
        "exit_code": found.exit_code,
        "command_status": found.status,
        "stage": found.stage or None,
        "attempts": boot.attempts,
        "boot_seconds": None if boot.boot_seconds is None else round(boot.boot_seconds, 1),
        "total_seconds": round(boot.total_seconds, 1),
        "results": str(boot.directory),
        "complaints": [complaint._asdict() for complaint in found.complaints],
        "excerpt": list(found.excerpt),
    }
    if suite is not None:
        item |= {"tests": suite.tests, "failed": list(suite.failed), "skipped": list(suite.skipped)}
    return item


def as_lines(release: str, boot: Boot, suite: junit.Report | None = None) -> list[str]:
    """Return the lines for people on standard error: complaints first, the verdict last."""
    found = boot.verdict
    lines = [f"    {line}" for line in found.excerpt]
    if suite is not None:
        lines += [f"    skipped: {name}" for name in suite.skipped]
        lines.append(f"{suite.tests} tests, {len(suite.failed)} failed, {len(suite.skipped)} skipped")
    again = "" if boot.attempts == 1 else ", second attempt after a lost VM"
    booted = "not booted" if boot.boot_seconds is None else f"boot {boot.boot_seconds:.1f} s"
    lines.append(
        f"{release}: {found.outcome.value}: {found.reason} ({booted}, {boot.total_seconds:.1f} s in all{again})"
    )
    return lines
