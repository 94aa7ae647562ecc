"""The results of one run of the load, and the arithmetic on them. Pure. May depend on: geometry.

Everything is in bytes, nanoseconds or seconds, as the field's name says. Page tables of a run are growths: `PageTables`
less what it was before the region was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import linear_regression, median
from typing import Any, NamedTuple, Self

from ..._core.geometry import PMD, round_up

MACHINE, V2, V1 = "machine", "control group", "control group v1"
"""The owner of the memory that runs out."""


class Sample(NamedTuple):
    """The memory when so many clients lived and had read everything."""

    clients: int
    page_tables_bytes: int
    free_bytes: int


def again_step_bytes(size_bytes: int, step_bytes: int) -> int:
    """Return the distance of the bytes that all clients read again after the creator's death. A large region has 512 to
    1,024 such bytes, and one below 2 GiB has one in a page of every 2 MiB. A multiple of `step_bytes`."""
    return max(step_bytes, PMD, round_up(size_bytes // 1024, PMD))


class Line(NamedTuple):
    """Least squares through samples: bytes of page tables = `start` + `slope` times clients."""

    slope: float
    start: float

    def at(self, clients: int) -> float:
        return self.start + self.slope * clients


def fit(samples: Sequence[Sample]) -> Line:
    """Return the line through `samples`; a flat one through fewer than two."""
    points = {sample.clients: sample.page_tables_bytes for sample in samples}
    if len(points) < 2:
        return Line(0.0, float(next(iter(points.values()), 0)))
    slope, start = linear_regression(list(points.keys()), list(points.values()))
    return Line(slope, start)


class Spread(NamedTuple):
    """The clients' reports, one per client."""

    median: float
    least: int
    most: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Self:
        return cls(median(numbers), min(numbers), max(numbers)) if numbers else cls(0.0, 0, 0)


NOBODY = Spread(0.0, 0, 0)


@dataclass(frozen=True, slots=True)
class Run:
    """One mechanism under the load."""

    mechanism: str
    label: str
    size_bytes: int
    step_bytes: int
    """A client reads one byte of every so many: of every page, or of every 2 MiB of a sparse region."""
    wanted: int
    """The wanted number of clients."""
    limit_kind: str = ""
    limit_bytes: int = 0
    charged: bool = True
    """The region's memory counts against the limit of a control group."""
    unavailable: str | None = None
    """The reason why this machine does not have the mechanism. No other field counts then."""
    failure: str | None = None
    """The failure before the end. The other fields have the facts that were known by then."""
    samples: tuple[Sample, ...] = ()
    base: tuple[Sample, ...] = ()
    """The same processes with nothing mapped, in the same run, afterwards."""
    created_s: float = 0.0
    created_tables_bytes: int = 0
    """Page tables when the region was made and filled: the creator's own, and the region's if there are any."""
    reached: int = 0
    """The most clients that lived at the same time and had read everything."""
    ended_by: str | None = None
    """The reason why there are not more: `out of memory`, or a client's failure. None if all were reached."""
    oom_kills: int = 0
    oom_log: tuple[str, ...] = ()
    wrong: int = 0
    """Clients that did not find the creator's bytes in every page."""
    faults: Spread = NOBODY
    base_faults: Spread = NOBODY
    attach_ns: Spread = NOBODY
    read_ns: Spread = NOBODY
    all_read_s: float = 0.0
    """From the first client's start until the last one has read everything."""
    workers: int = 0
    """The number of clients that were reading at the same time."""
    fork_ns: int = 0
    exit_ns: int = 0
    """Median, of a child of an attached client that reads everything and ends."""
    base_fork_ns: int = 0
    base_exit_ns: int = 0
    asked: int = 0
    """Clients alive when the creator was killed."""
    survivors: int = 0
    """Of the `asked`, those that read the right bytes afterwards."""
    killed_later: int = 0
    """Of the `asked`, those that the kernel killed for lack of memory before they could."""
    newcomer: str = ""
    """The result of a process that attached by name after that: `ok`, or the error."""
    total_s: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def grown(self) -> tuple[Sample, ...]:
        """Return the samples up to the last before somebody was killed; all where that would leave fewer than two."""
        return self.samples[:-1] if self.oom_kills and len(self.samples) > 2 else self.samples

    def line(self) -> Line:
        return fit(self.grown())

    def base_line(self) -> Line:
        return fit(self.base)

    def per_client_bytes(self) -> float:
        """Page tables of the region per further client: the slope, less that of processes with nothing mapped."""
        return self.line().slope - self.base_line().slope

    def caused_bytes(self) -> float:
        """Page tables that the region causes with the clients of the last of `grown`: measured, less what as many
        processes with nothing mapped have (their slope times their number; the few tables of the process that forks
        them stay in)."""
        if not self.samples:
            return 0.0
        last = self.grown()[-1]
        return last.page_tables_bytes - self.base_line().slope * last.clients

    def needed_bytes(self, clients: int) -> float:
        """Page tables that the region would need for so many clients: arithmetic, from the measured slope."""
        return self.per_client_bytes() * clients

    def private_bytes(self) -> float:
        """Memory that a client takes with nothing mapped, page tables included (fall of free memory per client)."""
        points = [(sample.clients, sample.free_bytes) for sample in self.base]
        if len(points) < 2:
            return 0.0
        return -linear_regression(*zip(*points, strict=True)).slope

    def as_json(self) -> dict[str, Any]:
        document = asdict(self)
        document["samples"] = [sample._asdict() for sample in self.samples]
        document["base"] = [sample._asdict() for sample in self.base]
        for name in _SPREADS:
            document[name] = getattr(self, name)._asdict()
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the run that `as_json` gave. Raises TypeError or KeyError for anything else."""
        known = dict(document)
        for name in ("samples", "base"):
            known[name] = tuple(Sample(**sample) for sample in document[name])
        for name in _SPREADS:
            known[name] = Spread(**document[name])
        known["oom_log"] = tuple(document["oom_log"])
        return cls(**known)


_SPREADS = ("faults", "base_faults", "attach_ns", "read_ns")
