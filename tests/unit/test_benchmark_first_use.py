"""The benchmark of the first use: the page compares within one run, and each mechanism gives workers the same table."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

import mshare
from benchmarks.first_use import LOADING, MECHANISMS, OURS, Place, Trial, markdown, medians
from benchmarks.machine import facts


def test_the_page_has_ratios_and_verdicts() -> None:
    size = 1 << 30
    trials = [Trial(LOADING, 0.0, first, 3.0, 8 * size) for first in (1.0, 2.0, 9.0)]
    trials += [Trial(OURS, 1.0, first, 0.5, int(size * 1.03)) for first in (0.02, 0.05, 0.5)]
    page = markdown(medians(trials), facts(("numpy", "joblib", "torch", "ray")), size, 8, 3)
    assert "| mshare.numpy | 1,000.0 ms | 50.0 ms | 0.0250 | 500.0 ms | 1.02 GiB | 1.030 |" in page
    assert "1/40, met" in page
    assert "1.030 copies, not met" in page


def test_the_page_names_what_did_not_run() -> None:
    trials = [Trial(LOADING, 0.0, 1.0, 3.0, 8), Trial(OURS, 1.0, 0.01, 0.5, 1)]
    page = markdown(trials, facts(("numpy", "joblib", "torch", "ray")), 1, 8, 3, {"Ray": "ray is not installed"})
    assert "| Ray | not run: ray is not installed | | | | | |" in page


def test_a_mechanism_says_what_it_lacks() -> None:
    """The loader needs a copy in each worker and the file in the page cache; others need one copy."""
    assert MECHANISMS[LOADING].missing(10, 8, 91) is None
    assert "90 B of memory, 90 B are free" in str(MECHANISMS[LOADING].missing(10, 8, 90))
    assert MECHANISMS[OURS].missing(10, 8, 11) is None
    absent = replace(MECHANISMS[OURS], package="a_package_that_nobody_has")
    assert absent.missing(1, 1, 1000) == "a_package_that_nobody_has is not installed"


@pytest.mark.parametrize("name", [name for name, each in MECHANISMS.items() if each.package is None])
def test_each_mechanism_gives_the_table_and_leaves_nothing(world: Path, tmp_path: Path, name: str) -> None:
    table = numpy.arange(1000, dtype="f8")
    numpy.save(tmp_path / "table.npy", table)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, ExitStack() as undo:
        place = Place(tmp_path / "table.npy", Path(memory), f"bench-first-use-{Path(memory).name}")
        kept: list[object] = []
        used = MECHANISMS[name].use(MECHANISMS[name].provide(place, undo), kept)
        assert numpy.array_equal(used, table)
        del used, kept
        undo.close()
        assert list(Path(memory).iterdir()) == []
    assert mshare.regions() == []
