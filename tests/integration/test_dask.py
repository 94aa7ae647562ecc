"""Copies on the hosts of a Dask cluster: a real scheduler, real workers, hosts with a network and a /dev/shm of their
own, sources over HTTP, and kills."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from distributed import Client, Worker, get_worker

import mshare
import mshare.dask
from mshare.dask import ReplicationError, SourceChangedError
from mshare.dask.copies import Copies, Stopped
from mshare.dask.host import Identity, Label
from tests.helpers.dask_cluster import Cluster, Host, Server, cluster, is_dead
from tests.helpers.waiting import eventually
from tests.helpers.worlds import STRANGER, needs_root

pytestmark = [needs_root, pytest.mark.xdist_group("dask")]

NAME = "weights"


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    """A cluster with three hosts."""
    with TemporaryDirectory(prefix="mshare-dask-") as directory, cluster(Path(directory)) as made:
        for host in [made.add() for _ in range(3)]:
            host.ready()
        yield made


@pytest.fixture
def pair(lab: Cluster) -> Iterator[Cluster]:
    """The cluster with three workers on the first host, two on the second, and none on the third. A test leaves nothing
    on the hosts."""
    for host, count in zip(lab.hosts, (3, 2, 0), strict=True):
        while len(host.workers) > count:
            host.kill(host.workers[-1])
        host.start(count - len(host.workers))
    lab.settle()
    yield lab
    lab.settle()
    with suppress(mshare.RegionNotFoundError):
        mshare.dask.drop(lab.client, NAME)
    assert [host.files() for host in lab.hosts] == [[], [], []]


@contextmanager
def more(lab: Cluster, *, size: str = "64m", kind: str = "worker") -> Iterator[Host]:
    """Start a worker on the third host."""
    host = lab.hosts[2]
    host.run("mount", "-o", f"remount,size={size}", "/dev/shm")
    host.start(1, kind)
    lab.settle()
    yield host
    host.run("mount", "-o", "remount,size=64m", "/dev/shm")
    host.run("sh", "-c", "rm -rf /dev/shm/* /dev/shm/.mshare-dask-*")


@pytest.fixture
def server(lab: Cluster) -> Iterator[Server]:
    with Server(random.Random(7).randbytes(3_000_001)) as serving:
        yield serving


@contextmanager
def beside(call: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Future[Any]]:
    """Make a call in another thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, *arguments, **options)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def look(name: str) -> tuple[str, str, bool]:
    """Use the copy as a task does."""
    with mshare.dask.attach(name) as region:
        return os.uname().nodename, hashlib.sha256(region.buf).hexdigest(), region.readonly


def ask(lab: Cluster, address: str, function: Callable[..., Any] = look, arguments: tuple[Any, ...] = (NAME,)) -> Any:
    """Run a task on one worker."""
    task = lab.client.submit(function, *arguments, workers=[address], pure=False)
    return task.result(timeout=90)


def seen(lab: Cluster) -> set[tuple[str, str, bool]]:
    """Return what tasks see on all workers."""
    return {ask(lab, address) for address in lab.addresses()}


def test_each_host_reads_the_source_once(pair: Cluster, server: Server) -> None:
    copies = mshare.dask.replicate(pair.client, NAME, server.url)
    assert sorted(server.reads) == [host.address for host in pair.hosts[:2]]
    assert [(copy.host, copy.name, copy.size, copy.error) for copy in copies] == [
        ("host1", NAME, 3_000_001, None),
        ("host2", NAME, 3_000_001, None),
    ]
    assert {copy.checksum for copy in copies} == {sha256(server.content)}
    assert [copy.attached for copy in copies] == [tuple(sorted(host.workers)) for host in pair.hosts[:2]]
    assert [list(copy.workers) for copy in copies] == [pair.addresses(host) for host in pair.hosts[:2]]
    assert seen(pair) == {(f"host{number}", sha256(server.content), True) for number in (1, 2)}
    assert mshare.dask.status(pair.client) == mshare.dask.status(pair.client, NAME) == copies
    mshare.dask.drop(pair.client, NAME)
    assert mshare.dask.status(pair.client) == []
    with pytest.raises(mshare.RegionNotFoundError, match="not replicated"):
        ask(pair, pair.addresses()[0])


def test_a_copy_is_the_same_memory_in_all_workers(pair: Cluster, server: Server) -> None:
    mshare.dask.replicate(pair.client, NAME, server.url, backend="shm")

    def file_of_the_pages(name: str) -> list[list[str]]:
        with mshare.dask.attach(name) as region:
            lines = Path("/proc/self/maps").read_text().splitlines()
            return [line.split()[3:5] for line in lines if line.startswith(f"{region.addr:x}-")]

    host = pair.hosts[0]
    found = [ask(pair, address, file_of_the_pages) for address in pair.addresses(host)]
    status = (host.shm / NAME).stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    assert found == [[[device, str(status.st_ino)]]] * 3


def test_workers_that_join_later_have_the_copy(pair: Cluster, server: Server) -> None:
    mshare.dask.replicate(pair.client, NAME, server.url)
    pair.hosts[1].start()
    pair.settle()
    with more(pair) as late:
        assert {each[1] for each in seen(pair)} == {sha256(server.content)}
        assert server.reads.count(late.address) == 1
        assert len(server.reads) == 3
        mshare.dask.drop(pair.client, NAME)
        assert late.files() == []
        late.start()
        pair.settle()
        with pytest.raises(mshare.RegionNotFoundError):
            ask(pair, pair.addresses(late)[0])


def test_a_worker_killed_while_it_loads_is_followed_by_the_next(pair: Cluster, server: Server) -> None:
    server.gate.clear()
    host = pair.hosts[0]
    with beside(mshare.dask.replicate, pair.client, NAME, server.url) as result:
        for times in (1, 2):
            eventually(lambda times=times: server.reads.count(host.address) == times)  # type: ignore[misc]
            assert NAME not in host.files()
            loader = host.loader()
            assert loader in host.workers
            host.kill(loader)
        eventually(lambda: server.reads.count(host.address) == 3)
        assert NAME not in host.files()
        server.gate.set()
        copies = result.result(timeout=90)
    assert [copy.error for copy in copies] == [None, None]
    assert server.reads.count(pair.hosts[1].address) == 1
    pair.settle()
    assert {each[1] for each in seen(pair)} == {sha256(server.content)}


def test_the_last_worker_of_a_host_killed_while_it_loads(pair: Cluster, server: Server) -> None:
    server.gate.clear()
    with more(pair) as host:
        with beside(mshare.dask.replicate, pair.client, NAME, server.url) as result:
            eventually(lambda: host.address in server.reads)
            (address,) = pair.addresses(host)
            host.kill(host.workers[0])
            server.gate.set()
            with pytest.raises(ReplicationError, match="2 of 2 hosts have it") as error:
                result.result(timeout=90)
        assert set(error.value.failed) == {address}
        assert NAME not in host.files()
        host.start()
        pair.settle()
        assert ask(pair, pair.addresses(host)[0])[1] == sha256(server.content)


def test_a_worker_that_waits_for_its_host_can_be_closed(pair: Cluster, server: Server) -> None:
    server.gate.clear()
    host = pair.hosts[0]
    with beside(mshare.dask.replicate, pair.client, NAME, server.url) as result:
        eventually(lambda: host.address in server.reads)
        waiting = next(pid for pid in host.workers if pid != host.loader())
        address = next(each for each in pair.addresses(host) if pair.pid(each) == waiting)
        pair.client.retire_workers([address], close_workers=True, remove=True)
        eventually(lambda: is_dead(waiting))
        host.workers.remove(waiting)
        server.gate.set()
        assert [copy.error for copy in result.result(timeout=90)] == [None, None]
    assert server.reads.count(host.address) == 1


def test_replacement_is_live(pair: Cluster, server: Server) -> None:
    mshare.dask.replicate(pair.client, NAME, server.url)
    older, server.content = sha256(server.content), random.Random(8).randbytes(1_000_000)

    def hold(name: str) -> None:
        get_worker().held = mshare.dask.attach(name)  # type: ignore[attr-defined]

    def let_go() -> tuple[str, bool]:
        region = get_worker().__dict__.pop("held")
        with region:
            return hashlib.sha256(region.buf).hexdigest(), region.superseded

    for address in pair.addresses():
        ask(pair, address, hold)
    assert [copy.checksum for copy in mshare.dask.replicate(pair.client, NAME, server.url)] == [older] * 2
    copies = mshare.dask.replicate(pair.client, NAME, server.url, replace=True)
    assert [copy.checksum for copy in copies] == [sha256(server.content)] * 2
    assert {each[1] for each in seen(pair)} == {sha256(server.content)}
    for address in pair.addresses():
        assert ask(pair, address, let_go, ()) == (older, True)
    with pytest.raises(mshare.RegionExistsError, match="another name"):
        mshare.dask.replicate(pair.client, NAME, "/etc/passwd")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_source_that_fails_everywhere_changes_nothing(pair: Cluster, server: Server, replaced: bool) -> None:
    good = sha256(server.content)
    if replaced:
        mshare.dask.replicate(pair.client, NAME, server.url)
    server.content = b""
    with pytest.raises(ReplicationError, match="all is as before") as error:
        mshare.dask.replicate(pair.client, NAME, server.url, replace=replaced)
    assert {name: type(each) for name, each in error.value.failed.items()} == {
        "host1": FileNotFoundError,
        "host2": FileNotFoundError,
    }
    if replaced:
        assert {each[1] for each in seen(pair)} == {good}
        assert [(copy.checksum, copy.error) for copy in mshare.dask.status(pair.client)] == [(good, None)] * 2
    else:
        assert mshare.dask.status(pair.client) == []
        assert [host.files() for host in pair.hosts] == [[], [], []]


def test_a_source_that_ends_early_or_late(pair: Cluster, server: Server, tmp_path: Path) -> None:
    server.promised = server.announced = len(server.content) + 1
    with pytest.raises(ReplicationError, match="all is as before"):
        mshare.dask.replicate(pair.client, NAME, server.url)
    server.announced = None
    with pytest.raises(ReplicationError, match="ended after 3000001 bytes, 3000002 were expected"):
        mshare.dask.replicate(pair.client, NAME, server.url)
    server.promised = 3_000_000
    with pytest.raises(ReplicationError, match="more than the 3000000 bytes expected"):
        mshare.dask.replicate(pair.client, NAME, server.url)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ReplicationError, match="is empty"):
        mshare.dask.replicate(pair.client, NAME, empty)
    assert [host.files() for host in pair.hosts] == [[], [], []]
    full = tmp_path / "full"
    full.write_bytes(server.content)
    (copy, _) = mshare.dask.replicate(pair.client, NAME, full)
    assert copy.checksum == sha256(server.content)


def test_one_host_without_space(pair: Cluster, server: Server) -> None:
    with more(pair, size="1m") as small:
        with pytest.raises(ReplicationError, match="2 of 3 hosts have it") as error:
            mshare.dask.replicate(pair.client, NAME, server.url)
        assert {name: type(each) for name, each in error.value.failed.items()} == {"host3": mshare.NoSpaceError}
        assert NAME not in small.files()
        assert [ask(pair, address)[1] for address in pair.addresses(pair.hosts[0])] == [sha256(server.content)] * 3
        for _ in range(2):
            with pytest.raises(mshare.NoSpaceError):
                ask(pair, pair.addresses(small)[0])
        reads = len(server.reads)
        small.run("mount", "-o", "remount,size=64m", "/dev/shm")
        copies = mshare.dask.replicate(pair.client, NAME, server.url)
        assert [copy.error for copy in copies] == [None] * 3
        assert server.reads[reads:] == [small.address]
        assert {each[1] for each in seen(pair)} == {sha256(server.content)}


def test_a_host_without_space_for_the_newer_copy(pair: Cluster, server: Server) -> None:
    newer, server.content = server.content, server.content[:300_000]
    with more(pair, size="1m") as small:
        mshare.dask.replicate(pair.client, NAME, server.url)
        older, server.content = sha256(server.content), newer
        with pytest.raises(ReplicationError, match="2 of 3 hosts have it"):
            mshare.dask.replicate(pair.client, NAME, server.url, replace=True)
        *_, copy = mshare.dask.status(pair.client)
        assert (copy.host, copy.checksum, type(copy.error)) == ("host3", older, mshare.NoSpaceError)
        with pytest.raises(mshare.NoSpaceError):
            ask(pair, pair.addresses(small)[0])
        assert {ask(pair, address)[1] for host in pair.hosts[:2] for address in pair.addresses(host)} == {sha256(newer)}


@pytest.mark.parametrize("told", [False, True])
def test_a_name_dropped_while_it_is_loaded(pair: Cluster, server: Server, told: bool) -> None:
    """The workers hear of it at once, or ask the scheduler in the end, as a worker does whose connection was lost."""
    server.gate.clear()
    drop = mshare.dask.drop if told else lambda client, name: client.sync(client.scheduler.mshare_drop, name=name)
    with more(pair):  # the only worker of its host: nobody cleans up after it
        with beside(mshare.dask.replicate, pair.client, NAME, server.url) as result:
            eventually(lambda: len(server.reads) == 3)
            with beside(drop, pair.client, NAME) as dropped:
                eventually(lambda: mshare.dask.status(pair.client) == [])
                server.gate.set()
                dropped.result(timeout=90)
            with pytest.raises(mshare.RegionBusyError, match="dropped"):
                result.result(timeout=90)
        assert [host.files() for host in pair.hosts] == [[], [], []]


def test_nobody_can_write_to_a_copy(pair: Cluster, server: Server) -> None:
    mshare.dask.replicate(pair.client, NAME, server.url, mode=0o666)

    def attach_to_write(name: str) -> None:
        mshare.attach(name)

    with pytest.raises(mshare.AccessDeniedError, match="read-only"):
        ask(pair, pair.addresses()[0], attach_to_write)


def test_two_hosts_never_have_different_bytes(pair: Cluster, server: Server) -> None:
    server.other[pair.hosts[0].address] = server.content[:-1] + b"?"
    with pytest.raises(ReplicationError, match="1 of 2 hosts have it") as error:
        mshare.dask.replicate(pair.client, NAME, server.url)
    ((failed, each),) = error.value.failed.items()
    assert isinstance(each, SourceChangedError)
    loser = pair.hosts[int(failed[-1]) - 1]
    assert NAME not in loser.files()
    loser.start()
    pair.settle()
    for address in pair.addresses(loser):
        with pytest.raises(SourceChangedError):
            ask(pair, address)
    assert server.reads.count(loser.address) == 1  # its workers, also the one that came later, share the error
    server.other.clear()
    copies = mshare.dask.replicate(pair.client, NAME, server.url, replace=True)
    assert [(copy.checksum, copy.error) for copy in copies] == [(sha256(server.content), None)] * 2


def test_a_late_host_whose_source_has_changed_is_refused(pair: Cluster, server: Server) -> None:
    mshare.dask.replicate(pair.client, NAME, server.url)
    server.content = server.content[::-1]
    with more(pair) as late:
        with pytest.raises(SourceChangedError, match="replace=True"):
            ask(pair, pair.addresses(late)[0])
        assert NAME not in late.files()
        errors = [copy.error for copy in mshare.dask.status(pair.client)]
        assert [type(each) for each in errors] == [type(None), type(None), SourceChangedError]


def test_a_host_that_was_away_when_the_name_was_dropped(pair: Cluster, server: Server) -> None:
    with more(pair) as away:
        mshare.dask.replicate(pair.client, NAME, server.url)
        away.kill(away.workers[0])
        pair.settle()
        mshare.dask.drop(pair.client, NAME)
        assert NAME in away.files()
        away.start()
        eventually(lambda: away.files() == [])


def test_a_host_whose_workers_all_died_reads_nothing_again(pair: Cluster, server: Server) -> None:
    with more(pair) as host:
        mshare.dask.replicate(pair.client, NAME, server.url)
        host.kill(host.workers[0])
        host.start()
        pair.settle()
        assert ask(pair, pair.addresses(host)[0])[1] == sha256(server.content)
        assert server.reads.count(host.address) == 1


def test_a_region_that_replicate_did_not_make(pair: Cluster, server: Server) -> None:
    host = pair.hosts[0]
    program = (
        f"import mshare; mshare.create({NAME!r}, 5, fill=lambda view: view.__setitem__(slice(None), b'hello')).close()"
    )
    host.run(sys.executable, "-c", program)
    with pytest.raises(ReplicationError, match="1 of 2 hosts") as error:
        mshare.dask.replicate(pair.client, NAME, server.url)
    assert isinstance(error.value.failed["host1"], mshare.RegionExistsError)
    with pytest.raises(mshare.RegionExistsError):
        ask(pair, pair.addresses(host)[0])
    mshare.dask.drop(pair.client, NAME)
    assert (host.shm / NAME).read_bytes()[:5] == b"hello"
    copies = mshare.dask.replicate(pair.client, NAME, server.url, replace=True)
    assert [copy.error for copy in copies] == [None, None]
    host.run(sys.executable, "-m", "mshare", "rm", "--force", NAME)
    copies = mshare.dask.replicate(pair.client, NAME, server.url)
    assert [copy.checksum for copy in copies] == [sha256(server.content)] * 2


def as_stranger(host: Host, *command: str) -> None:
    """Run a program on a host as another user."""
    host.run("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", *command)


def test_a_directory_of_lock_files_that_another_user_has_planted(pair: Cluster, server: Server) -> None:
    host = pair.hosts[0]
    as_stranger(host, "mkdir", "--mode=777", "/dev/shm/.mshare-dask-0")
    with pytest.raises(ReplicationError, match="1 of 2 hosts") as error:
        mshare.dask.replicate(pair.client, NAME, server.url)
    says = f"/dev/shm/.mshare-dask-0 belongs to uid {STRANGER}: have that user or root remove it"
    assert [(type(each), str(each)) for each in error.value.failed.values()] == [(mshare.AccessDeniedError, says)]
    assert [str(copy.error) for copy in mshare.dask.status(pair.client)] == [says, "None"]
    with pytest.raises(mshare.AccessDeniedError, match="belongs to uid"):
        ask(pair, pair.addresses(host)[0])
    assert host.files() == [".mshare-dask-0"]
    host.run("rmdir", "/dev/shm/.mshare-dask-0")
    copies = mshare.dask.replicate(pair.client, NAME, server.url)
    assert [copy.error for copy in copies] == [None, None]
    assert {each[1] for each in seen(pair)} == {sha256(server.content)}


def test_a_file_of_the_name_that_another_user_has_planted(pair: Cluster, server: Server) -> None:
    host = pair.hosts[0]
    as_stranger(host, "sh", "-c", f"echo text > /dev/shm/{NAME}")
    with pytest.raises(ReplicationError, match="1 of 2 hosts") as error:
        mshare.dask.replicate(pair.client, NAME, server.url)
    assert [type(each) for each in error.value.failed.values()] == [mshare.NotARegionError]
    mshare.dask.drop(pair.client, NAME)
    assert [each.files() for each in pair.hosts] == [[NAME], [], []]
    good, server.content = server.content, b""
    with pytest.raises(ReplicationError, match="all is as before"):  # the withdrawal has no error of its own
        mshare.dask.replicate(pair.client, NAME, server.url)
    assert [each.files() for each in pair.hosts] == [[NAME], [], []]
    host.run("rm", f"/dev/shm/{NAME}")
    server.content = good
    assert [copy.error for copy in mshare.dask.replicate(pair.client, NAME, server.url)] == [None, None]


def test_a_worker_that_has_left_keeps_no_copy(pair: Cluster) -> None:
    async def load_ends_late(dask_worker: Worker) -> bool:
        copies = Copies(dask_worker)
        await copies.leave()
        region = mshare.create("late", 5)
        with pytest.raises(Stopped):
            copies._hold("late", Label("", "", Identity(0, 0, 0)), region)
        mshare.unlink("late")  # nobody is attached
        return region.closed and not copies.reports()

    (address, *_) = pair.addresses()
    assert pair.client.run(load_ends_late, workers=[address]) == {address: True}


def test_a_worker_with_a_nanny_comes_again(pair: Cluster, server: Server) -> None:
    with more(pair, kind="nanny") as host:
        mshare.dask.replicate(pair.client, NAME, server.url)
        (first,) = pair.addresses(host)
        os.kill(ask(pair, first, os.getpid, ()), signal.SIGKILL)
        eventually(lambda: pair.addresses(host) not in ([], [first]))
        assert ask(pair, pair.addresses(host)[0])[1] == sha256(server.content)
        assert server.reads.count(host.address) == 1


def test_an_asynchronous_client(pair: Cluster, server: Server) -> None:
    async def work() -> None:
        async with Client(pair.address, asynchronous=True) as client:  # type: ignore[no-untyped-call]
            copies = await mshare.dask.replicate(client, NAME, server.url)  # type: ignore[misc]
            assert [copy.error for copy in copies] == [None, None]
            assert await mshare.dask.status(client) == copies  # type: ignore[misc]
            await mshare.dask.drop(client, NAME)  # type: ignore[func-returns-value, misc]

    asyncio.run(work())


def test_attach_in_a_coroutine_and_outside_of_a_task(pair: Cluster, server: Server) -> None:
    async def look_there(name: str) -> int:
        with mshare.dask.attach(name) as region:
            return region.size

    mshare.dask.replicate(pair.client, NAME, server.url)
    assert ask(pair, pair.addresses()[0], look_there) == len(server.content)
    with pytest.raises(mshare.InvalidArgumentError, match="outside of a task"):
        mshare.dask.attach(NAME)
    with pytest.raises(mshare.InvalidNameError):
        mshare.dask.replicate(pair.client, "../up", server.url)
    with pytest.raises(mshare.InvalidArgumentError, match="mode 0o244"):
        mshare.dask.replicate(pair.client, NAME, server.url, mode=0o244, replace=True)
    assert [copy.error for copy in mshare.dask.status(pair.client)] == [None, None]
