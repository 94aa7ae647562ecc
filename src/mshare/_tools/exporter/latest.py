"""One scan for all requests at about the same time. May depend on: table."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from ..table import printable

T = TypeVar("T")


class Scan(NamedTuple, Generic[T]):
    """One attempt to read."""

    found: T | None
    """None if it failed."""
    seconds: float
    failures: int
    """The number of attempts that have failed so far."""


class Latest(Generic[T]):
    """Gives the result of `read`, and calls `read` again when the result is older than `max_age_s`.

    A failure is counted, reported on stderr, and kept as long as a success. `read`'s error never reaches the caller.
    """

    def __init__(self, read: Callable[[], T], max_age_s: float) -> None:
        self._read = read
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        """Held while reading: a request that arrives in the meantime waits, and takes the same result.

        Protects the two below."""
        self._last: Scan[T] | None = None
        self._begun = 0.0

    def get(self) -> Scan[T]:
        """Return a scan that began at most `max_age_s` before this call."""
        asked = time.monotonic()
        with self._lock:
            if self._last is None or self._begun < asked - self._max_age_s:
                self._begun = time.monotonic()
                self._last = self._scan(0 if self._last is None else self._last.failures)
            return self._last

    def _scan(self, failures: int) -> Scan[T]:
        try:
            found = self._read()
        except Exception as error:
            print(f"mshare: scan failed: {printable(f'{type(error).__name__}: {error}')}", file=sys.stderr, flush=True)
            return Scan(None, time.monotonic() - self._begun, failures + 1)
        return Scan(found, time.monotonic() - self._begun, failures)
