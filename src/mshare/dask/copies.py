"""The worker's part: the copies that one worker has attached, and the load of the copies that its host lacks.

A worker *settles* a name: it asks the scheduler for the order of the name, waits for its host's turn, and then attaches
the host's copy, loads the copy, or removes it. Settling twice changes nothing.
May depend on: attachment, creation, errors, handle, procfs, record, region, removal, failures, host, orders, source,
distributed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from distributed import Worker, WorkerPlugin

from .._core.attachment import attach
from .._core.creation import Spec, build
from .._core.errors import InvalidArgumentError, MshareError, RegionExistsError, RegionNotFoundError
from .._core.handle import Handle
from .._core.procfs import FileId
from .._core.record import Record, RegionInfo
from .._core.region import Region
from .._core.removal import unlink_file
from . import host, source
from .failures import SourceChangedError
from .host import Failure, Identity, Label, Turn
from .orders import Order

PLUGIN = "mshare-copies"
_log = logging.getLogger("distributed.worker.mshare")
"""A child of Dask's logger, so that a worker's log has the cause of an error with its traceback."""


class Recipe(NamedTuple):
    """The arguments of `replicate` that a worker needs to load a copy."""

    source: str
    options: Mapping[str, Any]
    mode: int
    backend: str | None


class Held(NamedTuple):
    """A copy that this worker has attached."""

    label: Label
    region: Region
    handle: Handle

    @property
    def load(self) -> str:
        return self.label.load

    def close(self) -> None:
        """Detach."""
        self.region.close()
        self.handle.close()


class Report(NamedTuple):
    """One worker's copy of one name, for `status`."""

    load: str
    checksum: str
    size: int
    failure: Failure | None
    """The reason why the worker does not have the copy of the current load."""


class Superseded(Exception):
    """The order has changed while this worker loaded."""


class Stopped(Exception):
    """The worker closes, or a newer order makes its load useless."""


class Copies:
    """The copies of one worker. All methods run on the worker's event loop."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._held: dict[str, Held] = {}
        self._failed: dict[str, Failure] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._loading: dict[str, tuple[str, threading.Event]] = {}
        self._tasks: set[asyncio.Task[bool]] = set()
        self._left = False

    async def join(self) -> None:
        """Settle all names of the cluster, without waiting for the loads: the worker has to answer the scheduler."""
        for order in await self._orders():
            task = asyncio.create_task(self._settle_quietly(order.name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _settle_quietly(self, name: str) -> bool:
        try:
            return await self.settle(name)
        except Exception as error:  # tasks and `status` tell of it
            self._failed.setdefault(name, Failure.of("", "", error))
            return False

    async def leave(self) -> None:
        """Stop all loads and detach all copies. The regions stay."""
        self._left = True
        for _, stop in self._loading.values():
            stop.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name in list(self._held):
            self._let_go(name)

    async def settle(self, name: str, *, attempt: str = "", force: bool = False) -> bool:
        """Bring this worker's copy of a name in line with the order. Return True if this call removed the host's copy.

        - `attempt`: the call that asks. A load that has failed on this host is not tried again in the same call, or in
          none: its error is raised.
        - `force`: a dropped name loses its copy even if another cluster has made the copy.

        Raises the errors of the source, of `create` and of `attach`, and `SourceChangedError`.
        """
        order = await self._order(name)
        load, stop = self._loading.get(name, ("", None))
        if stop is not None and (order is None or load != order.load):
            stop.set()
        async with self._turns.setdefault(name, asyncio.Lock()):
            while True:
                try:
                    async with host.turn(name, self._check) as turn:
                        return await self._settle(name, turn, attempt, force)
                except (Superseded, Stopped):
                    self._check()  # else the order is another one now
                except Exception as error:
                    held = self._held.get(name)
                    if order is not None and order.load and (held is None or held.load != order.load):
                        self._failed[name] = Failure.of(order.load, attempt, error)
                    raise

    def _check(self) -> None:
        if self._left:
            raise Stopped("the worker is closing")

    async def _settle(self, name: str, turn: Turn, attempt: str, force: bool) -> bool:
        order, label = await self._order(name), turn.label()
        if order is None or not order.load:
            turn.fail(None)
            return self._drop(
                name, label, force or (order is not None and label is not None and label.load in order.past)
            )
        failed = turn.failure()
        if failed is not None and failed.load == order.load and attempt in ("", failed.attempt):
            self._failed[name] = failed
            raise failed.error
        try:
            await self._get(order, label, turn)
        except (Superseded, Stopped):
            raise
        except Exception as error:
            _log.warning("%s has no copy of %r", socket.gethostname(), name, exc_info=error)
            self._failed[name] = failed = Failure.of(order.load, attempt, error)
            if label is None or label.load != order.load:  # else only this worker cannot attach the copy
                turn.fail(failed)
            raise
        self._failed.pop(name, None)
        return False

    def _drop(self, name: str, label: Label | None, removable: bool) -> bool:
        self._let_go(name)
        self._failed.pop(name, None)
        if label is None or not removable:
            return False
        unlink_file(name, FileId(label.region.dev, label.region.ino))
        return True

    async def _get(self, order: Order, label: Label | None, turn: Turn) -> None:
        """Have the copy of the order's load attached."""
        held = self._held.get(order.name)
        if label is not None and label.load == order.load:
            if held is None or held.label != label:
                self._hold(order.name, label, attach_labelled(order.name, label))
            return
        exists = host.region_now(order.name) is not None
        if exists and not order.replace and (label is None or label.load not in order.past):
            raise RegionExistsError(
                f"{socket.gethostname()} has a region {order.name!r} that this cluster did not load",
                "remove it (mshare.dask.drop, mshare rm), choose another name, or use replace=True",
            )
        stop = threading.Event()
        self._loading[order.name] = order.load, stop
        loading = asyncio.ensure_future(asyncio.to_thread(self._load, order, exists, turn, stop))
        try:
            self._hold(order.name, *await asyncio.shield(loading))
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(loading, return_exceptions=True)  # the thread must not go on without the turn
            raise
        finally:
            del self._loading[order.name]

    def _load(self, order: Order, exists: bool, turn: Turn, stop: threading.Event) -> tuple[Label, Region]:
        """Load the host's copy. Runs in a thread of its own."""
        recipe: Recipe = pickle.loads(order.recipe)
        checksum = ""

        def check(*_: int) -> None:
            if stop.is_set():
                raise Stopped

        def fill(view: memoryview) -> None:
            nonlocal checksum
            checksum = source.copy(reader, view, recipe.source, check)
            self._agree(order, recipe, checksum)

        def announce(file: FileId, record: Record) -> None:
            check()
            turn.write(Label(order.load, checksum, Identity.of(file, record)))

        with source.opened(recipe.source, recipe.options) as (reader, size):
            spec = Spec(order.name, size, recipe.mode, progress=check, fill=fill, frozen=True, replace=exists)
            region = build(spec._replace(lean=True, announce=announce), recipe.backend)
        label = turn.label()
        if label is None or label.load != order.load:
            region.close()
            raise _replaced(order.name)
        return label, region

    def _agree(self, order: Order, recipe: Recipe, checksum: str) -> None:
        """Ask the scheduler whether the bytes may get the name."""
        asked = self.worker.scheduler.mshare_agree(name=order.name, load=order.load, checksum=checksum)
        agreed = asyncio.run_coroutine_threadsafe(asked, _loop_of(self.worker)).result()
        if not agreed:
            raise Superseded
        if agreed != checksum:
            raise SourceChangedError(
                f"{socket.gethostname()} read {recipe.source} with SHA-256 {checksum}, another host with {agreed}",
                "use replicate(replace=True), which loads it on all hosts again",
            )

    def _hold(self, name: str, label: Label, region: Region) -> None:
        try:
            self._check()  # `leave` has closed the others, and closes none that comes later
            handle = region.handle()
        except BaseException:
            region.close()
            raise
        self._let_go(name)
        self._held[name] = Held(label, region, handle)

    def _let_go(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            held.close()

    async def _orders(self, name: str | None = None) -> list[Order]:
        return [Order(*fields) for fields in await self.worker.scheduler.mshare_orders(name=name)]

    async def _order(self, name: str) -> Order | None:
        return next(iter(await self._orders(name)), None)

    async def attached(self, name: str) -> Region:
        """Attach the worker's copy for a task. Waits while the host loads the copy for the first time."""
        if name not in self._held and name not in self._failed:
            await self.settle(name)
        return self.attached_now(name)

    def attached_now(self, name: str) -> Region:
        """Attach the worker's copy for a task. Raises the error of the load, or `RegionNotFoundError`."""
        if name in self._failed:
            raise self._failed[name].error
        held = self._held.get(name)
        if held is None:
            raise RegionNotFoundError(f"{name!r} is not replicated in this cluster", "call mshare.dask.replicate first")
        try:
            region = attach(name, readonly=True)
        except MshareError:
            return attach(held.handle, readonly=True)
        if os.path.samestat(region._status, held.region._status):
            return region
        region.close()
        return attach(held.handle, readonly=True)  # the name has a newer load, which this worker is about to get

    def reports(self) -> dict[str, Report]:
        """Return this worker's copies by their names."""
        found = {}
        for name in {*self._held, *self._failed}:
            held, failed = self._held.get(name), self._failed.get(name)
            copy = ("", "", 0) if held is None else (held.load, held.label.checksum, held.region.size)
            found[name] = Report(*copy, failed)
        return found

    def infos(self) -> dict[str, RegionInfo]:
        """Return the regions of this worker's copies as they are now. Costs a pass over /proc for each."""
        return {name: held.region.info() for name, held in self._held.items()}


def attach_labelled(name: str, label: Label) -> Region:
    """Attach the region that the label tells of. Raises `RegionExistsError` if the name means another one by now."""
    region = attach(name, readonly=True, owner=os.geteuid())
    status = region._status
    if Identity(status.st_dev, status.st_ino, region._record.created_ns) != label.region:
        region.close()
        raise _replaced(name)
    return region


def _replaced(name: str) -> RegionExistsError:
    return RegionExistsError(f"another program has just replaced region {name!r}", "replicate again")


def _loop_of(worker: Worker) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop  # type: ignore[attr-defined]
    return loop


def copies_of(worker: Worker) -> Copies:
    """Return the copies of a worker of this process."""
    extensions: dict[str, Any] = worker.extensions
    if "mshare" not in extensions:
        extensions["mshare"] = Copies(worker)
    copies: Copies = extensions["mshare"]
    return copies


class Plugin(WorkerPlugin):
    """Brings workers that join the cluster in line with its orders."""

    idempotent = True

    async def setup(self, worker: Worker) -> None:
        await copies_of(worker).join()

    async def teardown(self, worker: Worker) -> None:
        await copies_of(worker).leave()


async def settle(name: str, attempt: str, force: bool, dask_worker: Worker) -> bool | Failure:
    """Settle a name on one worker, for `Client.run`. An error is an answer: errors that Dask sends lose their class."""
    try:
        return await copies_of(dask_worker).settle(name, attempt=attempt, force=force)
    except Exception as error:
        return Failure.of("", attempt, error)


async def report(dask_worker: Worker) -> tuple[str, str, dict[str, Report]] | Failure:
    """Return the host, its name, and the copies of one worker, for `Client.run`."""
    try:
        return host.host_id(), socket.gethostname(), copies_of(dask_worker).reports()
    except Exception as error:
        return Failure.of("", "", error)


async def infos(dask_worker: Worker) -> dict[str, RegionInfo]:
    """Return the regions of one worker's copies, for `Client.run`."""
    return copies_of(dask_worker).infos()


def attach_here(name: str) -> Region:
    """Attach the copy of the worker whose task runs in this thread."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        raise InvalidArgumentError(
            "mshare.dask.attach was called outside of a task", "use mshare.attach(name, readonly=True)"
        ) from None
    copies, loop = copies_of(worker), _loop_of(worker)
    try:
        on_loop = asyncio.get_running_loop() is loop
    except RuntimeError:
        on_loop = False
    if on_loop:  # a task that is a coroutine: it cannot wait for the load here
        return copies.attached_now(name)
    return asyncio.run_coroutine_threadsafe(copies.attached(name), loop).result()
