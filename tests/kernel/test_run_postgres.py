"""Debian's PostgreSQL, unmodified, with its shared buffers on msharefs.

The tests share one server: in a guest `initdb` takes longer than what is tested.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from benchmarks.cluster import Cluster
from mshare._tools.preload import library
from tests.helpers import postgresql

from . import mfs

ON_MSHAREFS = "shared page tables (msharefs)"


@pytest.fixture(scope="module")
def preload() -> Iterator[dict[str, str]]:
    """The variables of `mshare run --only postgres`, where the server's user may write to msharefs."""
    before = os.stat(mfs.ROOT).st_mode
    os.chmod(mfs.ROOT, 0o1777)
    yield {"LD_PRELOAD": str(library.ensure()), "MSHARE_RUN": "only=postgres"}
    os.chmod(mfs.ROOT, before)


@pytest.fixture(scope="module")
def cluster(preload: dict[str, str]) -> Iterator[Cluster]:
    """A stopped server: `nothing_left` counts what msharefs has before a test."""
    with postgresql.leaving_nothing(postgresql.SETTINGS, preload) as server:
        server.stop()
        yield server


@pytest.fixture
def server(cluster: Cluster, preload: dict[str, str]) -> Iterator[Cluster]:
    """The server, started for this test and stopped at its end."""
    cluster.environment = dict(preload)
    cluster.start()
    yield cluster
    cluster.stop()


def mapped(server: Cluster) -> int:
    """Return how often memory of the server was put on msharefs."""
    return sum(ON_MSHAREFS in line for line in postgresql.said(server))


def test_a_server_does_its_work_and_recovers(server: Cluster) -> None:
    before = mapped(server)
    assert before
    postgresql.works(server)
    postgresql.survives_killed_backends(server)
    assert mapped(server) - before == 3
    server.stop(signal.SIGQUIT)
    server.start()
    assert server.psql("select count(*) from pgbench_accounts") == "300000"
    postgresql.starts_and_stops_by_pg_ctl(server)
    assert mapped(server) - before == 7


@pytest.mark.parametrize("with_library", [(True, True), (True, False), (False, True)], ids=str)
def test_no_second_server_starts_on_the_same_data(
    server: Cluster, preload: dict[str, str], with_library: tuple[bool, bool]
) -> None:
    first, second = (preload if there else {} for there in with_library)
    before = mapped(server)
    postgresql.refuses_a_second_server(server, first, second)
    # The refused server has mapped its memory before it was refused, or not: that is PostgreSQL's order.
    assert mapped(server) - before >= sum(with_library)
