"""Watches programs and collapses what has become warm. May depend on: plan, room, work, tally, show, procfs, collect,
scan.

*Decision.* One round after the other, each with a new look at the processes: those that ended, started or mapped more
are seen in the next round. A round works on what `room.busy` allows and leaves the rest to a later round. What stands
in the way is told once, when it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

from ..._core.procfs import FileId
from ..collect import Choice, collect
from ..scan.survey import survey
from . import room, work
from .plan import Candidate, candidates, named
from .show import Prospect, Result
from .tally import Done, Threshold


class Watched(NamedTuple):
    """The processes and objects that are watched."""

    pids: Collection[int]
    commands: Collection[str]
    """As the kernel has them: 15 bytes."""
    name: str | None
    """Only this object of theirs, or of all processes if no process is named."""

    def find(self, regions: dict[FileId, str]) -> tuple[Candidate, ...]:
        """Return the objects that are there now."""
        every = not self.pids and not self.commands
        keep = None if every else (lambda pid, command: pid in self.pids or command in self.commands)
        snapshot = collect(choice=Choice(keep=keep), regions=regions)
        found = tuple(each for each in candidates(snapshot, survey(snapshot)) if each.mappings)
        return found if self.name is None else tuple(named(found, self.name))


class Follower:
    """Keeps what was told, so that it is told once."""

    def __init__(self, watched: Watched, pace: work.Pace, threshold: Threshold, most_pressure: float) -> None:
        self._watched = watched
        self._pace = pace
        self._threshold = threshold
        self._room = partial(room.busy, most_pressure=most_pressure)
        self._told: dict[str, str] = {}

    def round(self, regions: dict[FileId, str], tell: Callable[[str, str], None]) -> Iterator[Result]:
        """Look once, collapse what is warm, and yield what was done. `tell` gets an object's name and a sentence on it.

        Raises `AccessDeniedError` without the rights.
        """
        found = self._watched.find(regions)
        told = {}
        for each in found:
            if each.refusal is not None:
                told[each.name] = str(each.refusal)
                continue
            done, pids = Done(), each.usage.by_process
            before = work.vmpte(pids)
            counts = work.run(each, self._pace, self._threshold, done, work.silent, self._room)
            if done.shortage is not None:
                told[each.name] = str(done.shortage)
            if done.collapsed or done.interrupted:
                yield Result(Prospect(each, counts, None), done, counts, before, work.vmpte(before))
            if done.interrupted:
                return
        if not found:
            told["-"] = "no process of those maps memory that others can share: waiting"
        for name, sentence in told.items():
            if self._told.get(name) != sentence:
                tell(name, sentence)
        self._told = told
