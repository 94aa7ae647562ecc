"""The pool of huge pages is as large as before, however the run that borrowed from it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import pool
from mshare._core.geometry import PMD

pytestmark = pytest.mark.machine

ROOT = Path(__file__).parents[2]
NR_HUGEPAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")

_INTERRUPTED = """
import signal, sys
from benchmarks import pool
pool.give_back_on_signals()
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
with pool.pages(512 << 20):
    signal.pause()
"""


class Pool:
    """The kernel's file. With `given` a signal comes during a write, after the kernel has given so many pages."""

    def __init__(self, count: int, given: int | None = None, surplus: int = 0) -> None:
        self.count = count
        self._given = given
        self._surplus = surplus

    def read_text(self) -> str:
        return f"{self.count + self._surplus}\n"

    def write_text(self, text: str) -> None:
        if self._given is not None:
            self.count += self._given
            self._given = None
            raise SystemExit(128 + signal.SIGTERM)
        self.count = int(text)


@pytest.mark.parametrize("given", [0, 1, 4])
def test_what_an_interrupted_write_got_is_given_back(monkeypatch: pytest.MonkeyPatch, given: int) -> None:
    kernel = Pool(7, given)
    monkeypatch.setattr(pool, "_POOL", kernel)
    monkeypatch.setattr(pool, "_SURPLUS", Pool(0))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SystemExit), pool.pages(4 * PMD):
        pytest.fail("there is no pool")
    assert kernel.count == 7


def test_pages_that_others_have_yet_to_free_are_not_part_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Pool(7, surplus=64)
    monkeypatch.setattr(pool, "_POOL", kernel)
    monkeypatch.setattr(pool, "_SURPLUS", Pool(64))
    monkeypatch.setattr(pool, "_SETTLE_S", 0.0)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pool.pages(4 * PMD) as (got_bytes, _):
        assert got_bytes == 4 * PMD
    assert kernel.count == 7


@pytest.mark.skipif(os.geteuid() != 0 or not NR_HUGEPAGES.exists(), reason="needs root for huge pages")
@pytest.mark.usefixtures("pool_turn")
@pytest.mark.parametrize("delay", ["0.0002", "0.001", "0.005", "0.3"])
def test_a_signal_at_any_moment_gives_everything_back(delay: str) -> None:
    before = NR_HUGEPAGES.read_text()
    try:
        run = subprocess.run(
            [sys.executable, "-c", _INTERRUPTED, delay], cwd=ROOT, check=False, capture_output=True, timeout=60
        )
        assert run.returncode == 128 + signal.SIGTERM, run.stderr
        assert NR_HUGEPAGES.read_text() == before
    finally:
        NR_HUGEPAGES.write_text(before)
