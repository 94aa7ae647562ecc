"""The story, step by step, and the statements that must be true after each step.

May depend on: columns, flights, loader, worker, measure, removal, errors, listing, roots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from ..._core import listing, removal, roots
from ..._core.errors import MshareError, RegionNotFoundError
from ...measure.child import Child, ask_all
from . import columns, flights, loader, worker

Tell = Callable[[str], None]
"""Called with what is being done, before it is done."""


class DemoFailedError(MshareError):
    """Something that mshare promises did not happen: a bug in mshare, or a machine that kills processes."""


@dataclass(frozen=True, slots=True)
class Story:
    """The observations of the story. A promise that fails raises `DemoFailedError` instead."""

    name: str
    size_bytes: int
    rows: int
    tiles: int
    """Copies of the table that fill the region."""
    backend: str
    reason: str
    addr: int
    """The region's address in all processes."""
    processes: int
    columns_written_when_killed: int
    columns: int
    rows_done_when_killed: int
    """Rows the workers had behind them, all together, when the loader was killed."""
    workers_attached_after_kill: int
    """Workers that /proc showed with the region mapped once the loader was gone."""
    workers_agreeing: int
    """Workers whose result equals the plain computation: same count, same mean to the last bit."""
    latecomer_agrees: bool
    """So did a process that attached when loader and workers were all gone."""
    delays: dict[str, flights.Delay]
    """Per carrier, from the plain computation: flights of the original table, not of the tiles."""
    load_s: float
    work_s: float


def _promise(kept: bool, what: str) -> None:
    if not kept:
        raise DemoFailedError(what, "please report this with the output of `mshare doctor`")


def _exists(name: str) -> bool:
    """Tell whether anything, region or not, has the name in any root."""
    return any(Path(root, name).exists() for root in roots.directories())


def kill_while_loading(name: str, size_bytes: int) -> tuple[int, int]:
    """Kill a loader with half of the columns written; return (columns written, columns). Nothing may be left of it."""
    with loader.start(name, size_bytes, stop_at_column=9) as child:
        said = {"columns_written": 0, "columns": 0}
        while said["columns_written"] < 9:
            said = child.answer()
            _promise(not _exists(name), f"region {name!r} was visible half written")
        _promise(child.kill() == -9, "the loader ended before it was killed")
    _promise(not _exists(name), f"a killed loader has left region {name!r}")
    return said["columns_written"], said["columns"]


def _agrees(result: dict[str, tuple[int, float]], plain: dict[str, flights.Delay], tiles: int) -> bool:
    """Tell whether a worker's result is the plain one: each mean the same, each count once per tile."""
    expected = {carrier: [delay.flights * tiles, delay.mean_minutes] for carrier, delay in plain.items()}
    return {carrier: list(values) for carrier, values in result.items()} == expected


def _latecomer(name: str, addr: int, plain: dict[str, flights.Delay], tiles: int) -> bool:
    info = listing.region_info(name)
    _promise(info.orphan, f"region {name!r} has users left")
    with worker.start(name) as child:
        _promise(child.answer()["addr"] == addr, "a late process has the region at another address")
        (answer,) = ask_all([child], upto=1.0)
    return _agrees(answer["result"], plain, tiles)


def play(name: str, size_bytes: int, processes: int, tell: Tell) -> Story:
    """Do all of it under `name`, and remove the region at the end, whatever happens.

    Raises `DemoFailedError`, `InvalidSizeError`, and `ChildEndedError` if a process ends that was not to.
    """
    with removed_at_end(name):
        tell("the plain computation (pyarrow, no region)")
        table = flights.load()
        columns.lay_out(columns.encode(table), size_bytes)  # raises now, not in the loader, if it is too small
        plain = flights.plain_delays(table)
        del table
        tell(f"a loader, killed with SIGKILL when half of the columns of region {name!r} are written")
        written, of = kill_while_loading(name, size_bytes)
        tell("a second loader, which is left alone")
        with ExitStack() as stack:
            started = perf_counter()
            loading = stack.enter_context(loader.start(name, size_bytes))
            while "columns_written" in (made := loading.answer()):
                pass
            load_s = perf_counter() - started
            tell(f"{processes} processes attach")
            started = perf_counter()
            workers: list[Child] = [stack.enter_context(worker.start(name)) for _ in range(processes)]
            attached = [child.answer() for child in workers]
            _promise({a["addr"] for a in attached} == {made["addr"]}, "the region is not at one address everywhere")
            tell("each computes every carrier's mean delay, up to the middle")
            rows_done = sum(answer["rows_done"] for answer in ask_all(workers, upto=0.5))
            tell(f"the loader (process {loading.pid}) is killed with SIGKILL")
            _promise(loading.kill() == -9, "the loader ended before it was killed")
            pids = listing.region_info(name).pids
            tell("the second half")
            answers = ask_all(workers, upto=1.0)
            agreeing = sum(_agrees(answer["result"], plain, made["tiles"]) for answer in answers)
            work_s = perf_counter() - started
        _promise(agreeing == processes, f"only {agreeing} of {processes} processes have the plain computation's result")
        tell("all are gone; a new process attaches to what the dead loader left")
        late = _latecomer(name, made["addr"], plain, made["tiles"])
        _promise(late, "the late process has another result than the plain computation")
        return Story(
            name=name,
            size_bytes=size_bytes,
            rows=attached[0]["rows"],
            tiles=made["tiles"],
            backend=made["backend"],
            reason=made["reason"],
            addr=made["addr"],
            processes=processes,
            columns_written_when_killed=written,
            columns=of,
            rows_done_when_killed=rows_done,
            workers_attached_after_kill=len({child.pid for child in workers} & set(pids)),
            workers_agreeing=agreeing,
            latecomer_agrees=late,
            delays=plain,
            load_s=load_s,
            work_s=work_s,
        )


@contextmanager
def removed_at_end(name: str) -> Iterator[None]:
    """Remove the region `name`, if there is one, however the block ends."""
    try:
        yield
    finally:
        with suppress(RegionNotFoundError):
            removal.unlink(name)
