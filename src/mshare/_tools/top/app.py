"""The program on the terminal: it shows readings and obeys keys. May depend on: rows, screens, watch, table,
textual."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen

from ..table import printable
from .rows import Reading, heading
from .screens import ObjectsScreen, TableScreen
from .watch import Watch


class Arrived(Message):
    """A reading, or the reason why there is none."""

    def __init__(self, found: Reading | Exception) -> None:
        super().__init__()
        self.found = found


class TopApp(App[int]):
    """`mshare top`. Its return value is the exit code.

    `read` is called in another thread every `interval_s` seconds. Objects below `least` bytes of page tables are added
    up. The program ends after `count` readings, if there is such a number.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "pause"),
        Binding("q", "leave(0)", "quit"),
        Binding("ctrl+c", "leave(130)", show=False, priority=True),
    ]

    def __init__(self, read: Callable[[], Reading], *, interval_s: float, least: int, count: int | None) -> None:
        super().__init__()
        self._least = least
        self._left = count
        self._interval_s = interval_s
        self._last: Reading | None = None
        self._problem = ""
        self._watch = Watch(read, lambda found: self.post_message(Arrived(found)), interval_s)

    def get_default_screen(self) -> Screen[None]:
        return ObjectsScreen(self._least)

    def on_mount(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.action_leave, 128 + number)

    def on_ready(self) -> None:
        self._watch.start()

    def on_unmount(self) -> None:
        self._watch.stop()

    def on_arrived(self, message: Arrived) -> None:
        if isinstance(message.found, Reading):
            self._last, self._problem = message.found, ""
        elif isinstance(message.found, OSError):  # the machine's fault, which may pass
            self._problem = f"  not read: {printable(str(message.found))}"
        else:
            raise message.found
        self.on_outdated()
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.action_leave(0)

    def on_outdated(self) -> None:
        """Show the last reading on the screen that is on top."""
        if self._last is None or not isinstance(self.screen, TableScreen) or not self.screen.is_mounted:
            return  # a new screen asks again once it is there
        taken = time.strftime("%H:%M:%S", time.localtime(self._last.snapshot.taken))
        state = "paused" if self._watch.paused else f"every {self._interval_s:g} s"
        self.screen.show(self._last, f"{heading(self._last)}  {taken} {state}{self._problem}")

    def action_pause(self) -> None:
        self._watch.pause(not self._watch.paused)
        self.on_outdated()

    def action_leave(self, code: int) -> None:
        self.exit(code)
