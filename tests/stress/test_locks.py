"""32 processes count under a lock, and one of them is killed every 20 ms: no increment is lost or counted twice, and
nobody hangs. `MSHARE_STRESS_SECONDS` (60) says how long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mshare
from tests.helpers import counting

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("MSHARE_STRESS_SECONDS", "60"))


def test_no_increment_is_lost_or_doubled(world: Path) -> None:
    with mshare.create("locks", counting.SIZE) as region:
        result = counting.run(region, processes=32, seconds=SECONDS, kill_every_s=0.02)
    mshare.unlink("locks")
    print(result)
    assert result.value == result.journal
    assert result.kills
    assert result.repairs
