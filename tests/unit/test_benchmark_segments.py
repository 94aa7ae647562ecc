"""The page of `make bench-segments`: its arithmetic, and a measurement of small segments."""

from __future__ import annotations

from pathlib import Path

import pytest

import mshare
from benchmarks import machine, segments


def test_the_page_has_ratios_and_sums() -> None:
    figures = [segments.Figure(4096, "create", 20, 1000), segments.Figure(4096, "attach", 30, 60)]
    page = segments.markdown(figures, machine.facts(), 3)
    assert "| 4 KiB | create | 20 µs | 1,000 µs | 50 |" in page
    assert "| 4 KiB | attach | 30 µs | 60 µs | 2 |" in page
    assert "- All steps of 4 KiB take 21 times the standard time." in page


def test_each_step_is_measured_and_nothing_stays(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROUNDS", {4096: 2, 3 << 20: 1})
    figures = segments.measure(1)
    assert [(each.size, each.step) for each in figures] == [
        (size, step) for size in segments.ROUNDS for step in segments.STEPS
    ]
    assert all(each.ratio > 0 for each in figures)
    assert mshare.regions() == []
