"""Reads what pg_regress reports about PostgreSQL's own regression tests, and gives the verdict.

Pure. May depend on: nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

OK, FAILED, IGNORED = "ok", "FAILED", "failed (ignored)"
"""Results of a test. PostgreSQL itself ignores the failure of some tests (`ignore:` in the schedule)."""

_OUTCOME = re.compile(r"^(?:test|    ) +(\S+) +\.\.\. (ok|FAILED|failed \(ignored\))(?=\s|$)")


class Comparison(NamedTuple):
    """The tests of a run that did not pass.

    - `failed`: failed here, and not in the reference.
    - `known`: failed here and in the reference.
    - `missing`: have no result, because pg_regress ended before them.
    - `ignored`: failed, and PostgreSQL ignores the failure.
    """

    total: int
    passed: int
    failed: tuple[str, ...]
    known: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether every test has a result, and none failed that passed in the reference."""
        return self.total > 0 and not self.failed and not self.missing

    def __str__(self) -> str:
        text = f"{self.passed} of {self.total}"
        for what, names in (
            ("failed", self.failed),
            ("failed as in the reference", self.known),
            ("without a result", self.missing),
            ("failed, which PostgreSQL ignores", self.ignored),
        ):
            text += f"; {what}: {' '.join(names)}" if names else ""
        return text


def scheduled(schedule: str) -> tuple[str, ...]:
    """Return the tests that a schedule names, in its order."""
    lines = (line.split() for line in schedule.splitlines())
    return tuple(name for words in lines if words[:1] == ["test:"] for name in words[1:])


def outcome(line: str) -> tuple[str, str] | None:
    """Return the test and its result that a line of pg_regress (PostgreSQL 15) reports, or None."""
    found = _OUTCOME.match(line)
    return (found[1], found[2]) if found else None


def compare(tests: Iterable[str], results: Mapping[str, str], reference: Mapping[str, str] | None = None) -> Comparison:
    """Compare the results of these tests with those of the reference, if there is one."""
    names = tuple(tests)
    having = {result: {name for name in names if results.get(name) == result} for result in (OK, FAILED, IGNORED)}
    before = {name for name, result in (reference or {}).items() if result == FAILED}

    def those(chosen: set[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in chosen)

    return Comparison(
        total=len(names),
        passed=len(having[OK]),
        failed=those(having[FAILED] - before),
        known=those(having[FAILED] & before),
        missing=those(set(names) - set(results)),
        ignored=those(having[IGNORED]),
    )
