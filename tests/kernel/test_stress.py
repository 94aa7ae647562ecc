"""Random operations by many processes, data checked against each one's own record."""

import os
import re

import mfs
import pytest

SECONDS = int(os.environ.get("MSHARE_STRESS_SECONDS", "30"))
PROCESSES = int(os.environ.get("MSHARE_STRESS_PROCESSES", "16"))


@pytest.mark.timeout(SECONDS + 600)
def test_sixteen_processes(region, client):
    fd = region(2003)
    seed = int(os.environ.get("MSHARE_STRESS_SEED", "1"))
    before = mfs.meminfo("PageTables")
    text = client("stress", region.path, SECONDS, seed, PROCESSES, timeout=SECONDS + 300)
    print(text)
    assert int(re.search(r"operations=(\d+)", text).group(1)) > SECONDS * 10
    facts = mfs.info(fd)
    assert (facts["attachments"], facts["processes"]) == (0, 0)
    os.ftruncate(fd, 0)
    assert mfs.info(fd)["pages"] == 0
    os.unlink(region.path)
    assert mfs.meminfo("PageTables") - before < 400
