"""The benchmark of copies on a Dask cluster: the page compares within one run, and each way gives the same table."""

from __future__ import annotations

from pathlib import Path

import numpy

import mshare
from benchmarks.machine import facts
from benchmarks.replicas import LOADING, OURS, SCATTER, WAYS, Trial, markdown, medians, trial


def test_the_page_has_ratios() -> None:
    size = 1 << 30
    trials = [Trial(LOADING, 0.0, whole, 4 * size) for whole in (1.0, 2.0, 9.0)]
    trials += [Trial(SCATTER, 3.0, 4.0, 5 * size), Trial(OURS, 0.5, 0.8, size)]
    page = markdown(medians(trials), facts(("numpy", "distributed", "fsspec")), size, 4, 3)
    assert f"| {LOADING} | 0.0 µs | 2,000.0 ms | 1.00 | 4 GiB | 4.000 |" in page
    assert f"| {OURS} | 500.0 ms | 800.0 ms | 0.40 | 1 GiB | 1.000 |" in page
    assert "`scatter` takes 5.0 times the memory of `replicate`" in page
    assert "`scatter` takes 5.0 times as long\nas `replicate`, and a copy in each worker 2.5 times" in page


def test_each_way_gives_the_table_and_leaves_nothing(world: Path, tmp_path: Path) -> None:
    table = numpy.arange(100_000, dtype="u8")
    table.tofile(tmp_path / "table")
    for name in WAYS:
        figures, total = trial(name, tmp_path / "table", workers=1)
        assert total == table.sum()
        assert 0 < figures.ready_s < figures.whole_s
    assert mshare.regions() == []
    assert [path.name for path in (world / "shm").iterdir()] == []
