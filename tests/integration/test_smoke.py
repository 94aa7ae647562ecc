"""The shortest test of everything: create here, attach in another process, remove."""

from __future__ import annotations

import subprocess
import sys

import mshare

READER = """
import sys, mshare
with mshare.attach("smoke", readonly=True) as region:
    sys.stdout.write(f"{region.addr} {bytes(region.buf[:5]).decode()}")
"""


def test_another_process_sees_it_at_the_same_address(backend: str) -> None:
    with mshare.create("smoke", 3 << 20, backend=backend) as region:
        region.buf[:5] = b"hello"
        addr = region.addr
    seen = subprocess.run([sys.executable, "-c", READER], capture_output=True, text=True, check=True).stdout
    assert seen == f"{addr} hello"
    mshare.unlink("smoke")
    assert mshare.regions() == []
