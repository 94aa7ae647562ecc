"""The client's part: one copy of a file or URL on every host of a cluster, what there is, and the end.

May depend on: names, errors, record, region, copies, failures, host, orders, source,
distributed.
"""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from distributed import Client
from distributed.comm.addressing import get_address_host

from .._core import names
from .._core.errors import InvalidArgumentError, RegionBusyError, RegionNotFoundError
from .._core.record import RegionInfo
from .._core.region import Region
from . import copies
from . import orders as scheduling
from . import source as sources
from .copies import Recipe, Report
from .failures import ReplicationError
from .host import Failure
from .orders import Order

_T = TypeVar("_T")
_ROUNDS = 4
"""The number of times that a call looks for workers that have joined in the meantime. A worker that is killed because
it loads may come again and again."""


class Copy(NamedTuple):
    """One host's copy of one name, as it was at one moment."""

    host: str
    """The host's name, as the host itself knows it. If two hosts have the same name, each is followed by an address."""
    name: str
    size: int
    """Bytes; 0 if the host has no copy."""
    checksum: str
    """SHA-256 of the bytes that the host read from the source, in hexadecimal; empty if the host has no copy."""
    attached: tuple[int, ...]
    """Processes that have the copy attached, by their numbers on that host, as far as its workers may look."""
    workers: tuple[str, ...]
    """The addresses of the host's workers."""
    error: Exception | None
    """The reason why a worker of the host does not have the newest copy; None if all have it."""


def replicate(
    client: Client,
    name: str,
    source: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    mode: int = 0o400,
    backend: str | None = None,
    replace: bool = False,
) -> list[Copy]:
    """Load a file or URL into a region of this name on every host of the cluster, and return the copies.

    One worker of each host reads the source, and the others wait. A worker that dies while it reads is followed by the
    next one of its host. The name appears on a host when all bytes are there, and only if the bytes are those of the
    other hosts: the scheduler compares their SHA-256. Tasks use the copy by `attach`. No process can attach a copy
    read-write. Workers that join later load or attach the copy as well, until `drop`.

    The call returns when every worker has the copy. A host whose copy was loaded before keeps it, so that the call can
    be repeated after an error. A source that has changed is read again only with `replace`.

    - `source`: a URL that fsspec knows, such as s3://bucket/key or https://host/file, or the path of a file that every
      host has. The size has to be known beforehand.
    - `storage_options`: what fsspec needs for that URL. The scheduler keeps the options as long as the name.
    - `mode`: permission bits of the regions. The owner has to be allowed to read.
    - `backend`: as for `mshare.create`.
    - `replace`: True loads the source again on all hosts. On each host the new copy takes over the name in one step,
      also from a region that `replicate` has not made. Tasks that have the older copy attached keep it.

    Raises `ReplicationError` if a host failed. The hosts that did not fail keep the new copy, and a failed host keeps
    its older one, which tasks do not get. If all hosts failed, the cluster is as before. Raises `RegionExistsError` if
    the name is replicated from another source, `RegionBusyError` if another client drops or replaces the name in the
    meantime, `InvalidNameError`, `InvalidArgumentError`. In a coroutine, and with an asynchronous client, the result is
    an awaitable. The bytes do not pass through the client or the scheduler.
    """
    names.check_name(name)
    bits = names.check_mode(mode)
    if not bits & 0o400:
        raise InvalidArgumentError(f"mode {bits:#o} lets no worker read the copy", "use a mode such as 0o400")
    recipe = Recipe(sources.absolute(source), dict(storage_options or {}), bits, backend)
    return _wait(client, _replicate(client, name, recipe, replace))


def status(client: Client, name: str | None = None) -> list[Copy]:
    """Return the copies of a name, or of all names, one for each host that has workers, in order of name and host.

    A host that loads for the first time has an error that says so. Costs a pass over /proc on each host.
    """
    return _wait(client, _status(client, name))


def drop(client: Client, name: str) -> None:
    """Remove the copies of a name from every host, and also from hosts whose workers join later.

    Tasks that have the copy attached keep the memory until they detach. A copy of this name that another cluster of the
    same user has made is removed as well, even if that cluster still runs: clusters with common hosts should use
    different names. Regions that `replicate` has not made stay. Raises `RegionNotFoundError` if there was nothing to
    remove, and `ReplicationError` if a host failed.
    """
    names.check_name(name)
    return _wait(client, _drop(client, name))


def attach(name: str) -> Region:
    """Attach the host's copy in a task, read-only and zero copy, and return the region.

    Waits while the worker's host loads the copy for the first time; in a task that is a coroutine, a name that is not
    there yet raises `RegionNotFoundError` instead. Raises the error that the host failed with, `RegionNotFoundError` if
    the name is not replicated, `InvalidArgumentError` outside of a task.

    `mshare.attach` returns the same region, or one that the cluster did not load.
    """
    return copies.attach_here(names.check_name(name))


def _wait(client: Client, call: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a call on the client's loop; for asynchronous callers, who await it, the call itself."""

    async def run() -> _T:
        return await call

    result: _T = client.sync(run)  # type: ignore[no-untyped-call]
    return result


def _scheduler(client: Client) -> Any:
    """Return the object whose methods are the scheduler's handlers."""
    return client.scheduler


async def _install(client: Client) -> None:
    """Register the two plugins, unless the cluster has them."""
    await client.register_plugin(scheduling.Orders(), name=scheduling.PLUGIN)
    await client.register_plugin(copies.Plugin(), name=copies.PLUGIN)


async def _replicate(client: Client, name: str, recipe: Recipe, replace: bool) -> list[Copy]:
    await _install(client)
    mine = uuid.uuid4().hex
    load = await _scheduler(client).mshare_place(
        name=name, load=mine, source=recipe.source, recipe=pickle.dumps(recipe), replace=replace
    )
    done = await _settle(client, name)
    if not done.failed:
        order = Order(*(await _orders(client, name))[0])
        if order.load != load:
            raise RegionBusyError(f"{name!r} was dropped or replaced while it was loaded", "see mshare.dask.status")
        return await _describe(client, done.hosts, [order])
    have = sum(any(report.load == load for report in host.reports(name)) for host in done.hosts)
    if not have and load == mine:
        await _scheduler(client).mshare_withdraw(name=name, load=load)
        await _settle(client, name)
    kept = f"{have} of {len(done.hosts)} hosts have it" if have else "no host has it, and all is as before"
    raise done.error(f"{recipe.source} is not on every host as {name!r}", f"{kept}; repair that, then call it again")


async def _status(client: Client, name: str | None) -> list[Copy]:
    await _install(client)
    listed = [Order(*fields) for fields in await _orders(client, name)]
    return await _describe(client, await _hosts(client), sorted(order for order in listed if order.load))


async def _drop(client: Client, name: str) -> None:
    await _install(client)
    known = await _scheduler(client).mshare_drop(name=name)
    done = await _settle(client, name, force=True)
    if done.failed:
        raise done.error(f"{name!r} is not gone from every host", "repair that, then call it again")
    if not known and True not in done.answers.values():
        raise RegionNotFoundError(f"no host has a copy {name!r}", "see mshare.dask.status for those that exist")


async def _orders(client: Client, name: str | None) -> Any:
    return await _scheduler(client).mshare_orders(name=name)


class _Host(NamedTuple):
    """A host and the reports of its workers, by their addresses."""

    identity: str
    name: str
    workers: dict[str, dict[str, Report]]

    def reports(self, name: str) -> list[Report]:
        """Return the reports of the workers that have something to tell of a name."""
        return [reports[name] for reports in self.workers.values() if name in reports]


async def _hosts(client: Client) -> list[_Host]:
    """Return the hosts, in order of their names."""
    answers = await client.run(copies.report, on_error="return")
    found: dict[str, _Host] = {}
    for address, answer in sorted(answers.items()):
        if isinstance(answer, OSError):  # the connection's: the worker has ended
            continue
        # A worker that cannot even tell its host (no mshare, no /dev/shm) counts as a host, which then fails.
        alone = isinstance(answer, (Exception, Failure))
        identity, name, reports = (address, address, {}) if alone else answer
        found.setdefault(identity, _Host(identity, name, {})).workers[address] = reports
    names = [host.name for host in found.values()]
    hosts = [
        host._replace(name=f"{host.name} ({get_address_host(min(host.workers))})")
        if names.count(host.name) > 1
        else host
        for host in found.values()
    ]
    return sorted(hosts, key=lambda host: (host.name, min(host.workers)))


class _Done(NamedTuple):
    """The results of one call on all workers."""

    hosts: list[_Host]
    """The hosts afterwards."""
    answers: dict[str, Any]
    """The result or the error of each worker, by its address."""
    failed: dict[str, Exception]
    """The first error of each host; by a worker's address if the host has no worker left."""

    def error(self, problem: str, hint: str) -> ReplicationError:
        """Return what to raise."""
        each = "; ".join(f"{host}: {error}" for host, error in self.failed.items())
        error = ReplicationError(f"{problem} ({each})", hint)
        error.failed = self.failed
        return error


async def _settle(client: Client, name: str, *, force: bool = False) -> _Done:
    """Settle a name on all workers, and on those that join in the meantime."""
    attempt = uuid.uuid4().hex
    where: dict[str, str] = {}
    answers: dict[str, Any] = {}
    hosts = await _hosts(client)
    for _ in range(_ROUNDS):
        where |= {address: host.identity for host in hosts for address in host.workers}
        new = sorted(where.keys() - answers.keys())
        if not new:
            break
        answers |= await client.run(copies.settle, name, attempt, force, workers=new, on_error="return")
        hosts = await _hosts(client)
    failed: dict[str, Exception] = {}
    errors = {address: error for address, answer in answers.items() if (error := _error_in(answer)) is not None}
    for host in hosts:
        # A worker that ended counts if no worker has come after it.
        ended = [] if host.workers.keys() <= answers.keys() else [a for a in errors if where[a] == host.identity]
        for address in [*host.workers, *ended]:
            if address in errors:
                failed.setdefault(host.name, errors[address])
    alive = {host.identity for host in hosts}
    failed |= {address: error for address, error in errors.items() if where[address] not in alive}
    return _Done(hosts, answers, failed)


def _error_in(answer: bool | Failure | Exception) -> Exception | None:
    """Return the error that a worker answered, or the error of the connection to a worker that ended."""
    if isinstance(answer, Failure):
        return answer.error
    return answer if isinstance(answer, Exception) else None


async def _describe(client: Client, hosts: list[_Host], orders: list[Order]) -> list[Copy]:
    """Return the copies of the names, by name and host."""
    asked = [next((address for address in host.workers if host.workers[address]), None) for host in hosts]
    infos = await client.run(copies.infos, workers=[address for address in asked if address], on_error="ignore")
    return [
        _copy(order, host, infos.get(address, {}).get(order.name))
        for order in orders
        for host, address in zip(hosts, asked, strict=True)
    ]


def _copy(order: Order, host: _Host, info: RegionInfo | None) -> Copy:
    reports = host.reports(order.name)
    newest = next((report for report in reports if report.load == order.load), None)
    any_copy = newest or next((report for report in reports if report.load), None)
    error = next((report.failure.error for report in reports if report.failure is not None), None)
    if error is None and (newest is None or len(reports) < len(host.workers)):
        error = RegionBusyError(f"workers of {host.name} do not have {order.name!r} yet", "look again later")
    return Copy(
        host.name,
        order.name,
        0 if any_copy is None else any_copy.size,
        "" if any_copy is None else any_copy.checksum,
        () if info is None else info.pids,
        tuple(host.workers),
        error,
    )
