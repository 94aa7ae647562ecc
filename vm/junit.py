"""Reads pytest's JUnit report. Pure: bytes in, record out."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import NamedTuple


class Report(NamedTuple):
    """Counts of test cases, and `name: reason` for each that was skipped or did not pass."""

    tests: int
    skipped: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def problem(self) -> str | None:
        """The reason why this report does not prove a passed suite, or None. A skip is also a problem."""
        if self.failed:
            return f"{len(self.failed)} test(s) failed"
        if self.skipped:
            return f"{len(self.skipped)} test(s) skipped, and a skip counts as a failure here"
        if self.tests == 0:
            return "no test ran"
        return None


def parse(report: bytes) -> Report:
    """Return the report's test cases, each counted once. Raises ValueError on a torn or foreign file."""
    try:
        root = ET.fromstring(report)
    except ET.ParseError as error:
        raise ValueError(f"not a JUnit report: {error}") from error
    tests = 0
    skipped: list[str] = []
    failed: list[str] = []
    for case in root.iter("testcase"):
        tests += 1
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        for target, tags in ((failed, ("failure", "error")), (skipped, ("skipped",))):
            child = next((found for tag in tags if (found := case.find(tag)) is not None), None)
            if child is not None:
                target.append(f"{name}: {child.get('message', '').strip()}")
    return Report(tests, tuple(skipped), tuple(failed))
