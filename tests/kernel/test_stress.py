"""Many processes run random operations, and each checks the data against its own record."""

import os

import pytest

from . import mfs
from .programs import Program, figures
from .regions import Regions

SECONDS = int(os.environ.get("MSHARE_STRESS_SECONDS", "30"))
PROCESSES = int(os.environ.get("MSHARE_STRESS_PROCESSES", "16"))


@pytest.mark.timeout(SECONDS + 600)
def test_sixteen_processes(region: Regions, client: Program) -> None:
    fd = region(2003)
    seed = int(os.environ.get("MSHARE_STRESS_SEED", "1"))
    before = mfs.meminfo("PageTables")
    text = client("stress", region.path, SECONDS, seed, PROCESSES, timeout=SECONDS + 300)
    print(text)
    assert figures(text)["operations"] > SECONDS * 10
    facts = mfs.info(fd)
    assert (facts["attachments"], facts["processes"]) == (0, 0)
    os.ftruncate(fd, 0)
    assert mfs.info(fd)["pages"] == 0
    os.unlink(region.path)
    assert mfs.meminfo("PageTables") - before < 400
