"""Copies on the hosts of a Dask cluster on one network: kills at any line, and any order of calls, kills and joins.

The hosts are directories of regions. No root is needed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import mshare
import mshare.dask
from mshare._core.procfs import parse_fields_kb
from mshare.dask import ReplicationError
from tests.helpers.dask_cluster import Cluster, Server, cluster, is_dead
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.xdist_group("dask")

NAME = "weights"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Cluster]:
    """A cluster with two hosts, which have no workers yet."""
    with (
        TemporaryDirectory(prefix="mshare-test-", dir="/dev/shm") as roots,
        TemporaryDirectory(prefix="mshare-dask-") as directory,
        cluster(Path(directory), network=False) as made,
    ):
        for number in range(2):
            root = Path(roots) / str(number)
            (root / "shm").mkdir(parents=True)
            made.add(root=root)
        for host in made.hosts:
            host.ready()
        yield made


@pytest.fixture
def empty(hosts: Cluster) -> Iterator[Cluster]:
    """The same cluster, for one test, which may leave workers and copies."""
    yield hosts
    clear(hosts)


def clear(hosts: Cluster) -> None:
    """Remove all workers and copies."""
    for host in hosts.hosts:
        if not host.workers and host.files():
            host.start()
    hosts.settle()
    with suppress(mshare.RegionNotFoundError):
        mshare.dask.drop(hosts.client, NAME)
    assert [host.files() for host in hosts.hosts] == [[], []]
    for host in hosts.hosts:
        while host.workers:
            host.kill(host.workers[0])
    hosts.settle()


def look(name: str) -> bytes | None:
    """Return the bytes of the copy, as a task sees them."""
    try:
        with mshare.dask.attach(name) as region:
            return bytes(region.buf)
    except mshare.RegionNotFoundError:
        return None


def seen(hosts: Cluster) -> list[bytes | None]:
    """Return the bytes that a task finds on each worker."""
    tasks = [hosts.client.submit(look, NAME, workers=[each], pure=False) for each in hosts.addresses()]
    return [task.result(timeout=90) for task in tasks]


@settings(max_examples=7)
@example(place=(500, "announce"), replaced=True, number=0)  # between the label and the name
@given(
    place=st.one_of(
        st.tuples(st.integers(1, 3500), st.just("_get")),  # anywhere from the look at the host to the attached copy
        st.tuples(st.integers(1, 1500), st.just("announce")),  # where the region gets its label and its name
    ),
    replaced=st.booleans(),
    number=st.integers(0, 2**31),
)
def test_a_worker_killed_at_any_line_leaves_a_whole_copy_or_none(
    hosts: Cluster, place: tuple[int, str], replaced: bool, number: int
) -> None:
    older, newer = (random.Random(number + each).randbytes(70_001) for each in (0, 1))
    host = hosts.hosts[0]
    with Server(older, "127.0.0.1") as server:
        if replaced:
            host.start()
            hosts.settle()
            mshare.dask.replicate(hosts.client, NAME, server.url)
            host.kill(host.workers[0])
        server.content = newer
        host.start(1, f"doomed {place[0]} {place[1]}")
        pid = host.workers[0]
        eventually(lambda: is_dead(pid) or len(hosts.addresses(host)) == 1)
        with suppress(ReplicationError):
            mshare.dask.replicate(hosts.client, NAME, server.url, replace=replaced)
        left = (host.shm / NAME).read_bytes()[: len(newer)] if NAME in host.files() else None
        assert left in (newer, older if replaced else None)
        host.kill(pid)
        host.start()
        hosts.settle()
        if left != newer:  # the order is the older one, or the newer one if the worker had died before the call
            assert seen(hosts) in ([left], [newer])
        mshare.dask.replicate(hosts.client, NAME, server.url, replace=True)
        assert seen(hosts) == [newer]
    clear(hosts)


class Calls(RuleBasedStateMachine):
    """Calls of a client, workers that join, and workers that are killed."""

    hosts: Cluster
    server: Server

    @initialize()
    def begin(self) -> None:
        self.content: bytes | None = None
        self.versions = iter(range(100))

    def _next(self) -> bytes:
        return random.Random(next(self.versions)).randbytes(50_000)

    @rule(number=st.integers(0, 1))
    @precondition(lambda self: len(self.hosts.addresses()) < 4)
    def join(self, number: int) -> None:
        self.hosts.hosts[number].start()
        self.hosts.settle()

    @rule(number=st.integers(0, 1))
    def kill(self, number: int) -> None:
        host = self.hosts.hosts[number]
        if host.workers:
            host.kill(host.workers[0])
            self.hosts.settle()

    @rule()
    def replicate(self) -> None:
        if self.content is None:
            self.server.content = self.content = self._next()
        mshare.dask.replicate(self.hosts.client, NAME, self.server.url)

    @rule()
    def replace(self) -> None:
        self.server.content = self.content = self._next()
        mshare.dask.replicate(self.hosts.client, NAME, self.server.url, replace=True)

    @rule()
    def fail(self) -> None:
        content, self.server.content = self.server.content, b""
        try:
            if any(host.workers for host in self.hosts.hosts):
                with pytest.raises(ReplicationError, match="as before"):
                    mshare.dask.replicate(self.hosts.client, NAME, self.server.url, replace=True)
        finally:
            self.server.content = content

    @rule()
    def drop(self) -> None:
        with suppress(mshare.RegionNotFoundError):
            mshare.dask.drop(self.hosts.client, NAME)
        self.content = None

    @invariant()
    def tasks_see_what_was_replicated(self) -> None:
        if not hasattr(self, "content"):
            return
        assert set(seen(self.hosts)) <= {self.content}
        for host in self.hosts.hosts:
            if host.workers:
                assert (NAME in host.files()) == (self.content is not None)
                assert len(host.files()) in (0, 2)
        assert {copy.error for copy in mshare.dask.status(self.hosts.client)} <= {None}

    def teardown(self) -> None:
        clear(self.hosts)


def test_any_order_of_calls_kills_and_joins(empty: Cluster) -> None:
    with Server(b"x", "127.0.0.1") as server:
        machine = type("Machine", (Calls,), {"hosts": empty, "server": server})
        run_state_machine_as_test(machine, settings=settings(max_examples=3, stateful_step_count=8, deadline=None))


@pytest.mark.parametrize(("backend", "size", "most"), [("shm", 160 << 20, 64 << 20), ("thp", 320 << 20, 192 << 20)])
def test_a_load_takes_little_memory_of_the_worker(
    empty: Cluster, tmp_path: Path, backend: str, size: int, most: int
) -> None:
    """Dask ends workers by their memory. A region's pages count as long as the worker has them mapped."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(size)
    (host, _) = empty.hosts
    host.start()
    empty.settle()
    (pid,) = host.workers
    mshare.dask.replicate(empty.client, NAME, "/etc/passwd", backend=backend)  # loads all modules
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins again
    before = parse_fields_kb(Path(f"/proc/{pid}/status").read_bytes())["VmHWM"]
    (copy,) = mshare.dask.replicate(empty.client, NAME, large, backend=backend, replace=True)
    assert copy.size == size
    assert copy.checksum == hashlib.sha256(bytes(size)).hexdigest()
    assert parse_fields_kb(Path(f"/proc/{pid}/status").read_bytes())["VmHWM"] - before < most


def test_the_copies_of_an_earlier_cluster(tmp_path: Path) -> None:
    """A copy outlives its cluster. The next cluster does not take it for its own, and replaces or drops it."""
    with TemporaryDirectory(prefix="mshare-test-", dir="/dev/shm") as root:
        Path(root, "shm").mkdir()
        for number in range(3):
            with cluster(tmp_path, network=False) as made:
                host = made.add(root=Path(root))
                host.ready()
                host.start()
                made.settle()
                if number == 0:
                    mshare.dask.replicate(made.client, NAME, "/etc/passwd")
                elif number == 1:
                    with pytest.raises(ReplicationError, match="did not load") as error:
                        mshare.dask.replicate(made.client, NAME, "/etc/group")
                    assert [type(each) for each in error.value.failed.values()] == [mshare.RegionExistsError]
                    assert Path("/etc/passwd").read_bytes() in (host.shm / NAME).read_bytes()
                    mshare.dask.replicate(made.client, NAME, "/etc/group", replace=True)
                    assert seen(made) == [Path("/etc/group").read_bytes()]
                else:
                    mshare.dask.drop(made.client, NAME)
                    assert host.files() == []
