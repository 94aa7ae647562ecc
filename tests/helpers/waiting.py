"""Waiting for what no event tells."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(
    condition: Callable[[], object],
    complaint: str | Callable[[], object] = "the condition did not become true",
    seconds: float = 60,
) -> None:
    """Wait until condition() is true, or fail with the complaint, which may be computed then."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, complaint if isinstance(complaint, str) else complaint()
        time.sleep(0.001)  # between two looks, so that what is awaited can run
