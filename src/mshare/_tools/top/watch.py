"""Reads again and again in a separate thread, so that a key never waits. May depend on: nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Watch(Generic[T]):
    """A thread that calls `read` every `interval_s` seconds, and passes the result or the error to `deliver`.

    The thread rests at least as long as a reading takes. If a reading takes longer than the interval, the thread
    therefore takes at most half of a core. The thread dies with the process: a user who quits does not wait for it.
    """

    def __init__(self, read: Callable[[], T], deliver: Callable[[T | Exception], object], interval_s: float) -> None:
        self._read = read
        self._deliver = deliver
        self._interval_s = interval_s
        self._changed = threading.Condition()
        """Protects `_paused` and `_stopped`."""
        self._paused = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self, wanted: bool) -> None:
        """Stop reading, or go on at once."""
        with self._changed:
            self._paused = wanted
            self._changed.notify()

    def stop(self) -> None:
        """Deliver nothing more. Does not wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or not self._paused)
                if self._stopped:
                    return
            start = time.monotonic()
            try:
                found: T | Exception = self._read()
            except Exception as error:
                found = error
            took = time.monotonic() - start
            with self._changed:
                if self._stopped:
                    return
                self._deliver(found)
                self._changed.wait_for(lambda: self._stopped or self._paused, max(self._interval_s - took, took))
