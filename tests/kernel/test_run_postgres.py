"""Debian's PostgreSQL, unmodified, with its shared buffers on msharefs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

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


def test_a_server_does_its_work_and_recovers(preload: dict[str, str]) -> None:
    with postgresql.leaving_nothing(postgresql.SETTINGS, preload) as server:
        assert ON_MSHAREFS in postgresql.said(server)[-1]
        postgresql.works(server)
        postgresql.survives_killed_backends(server)
        assert sum(ON_MSHAREFS in line for line in postgresql.said(server)) == 4
        server.stop(signal.SIGQUIT)
        server.start()
        assert server.psql("select count(*) from pgbench_accounts") == "300000"
        postgresql.starts_and_stops_by_pg_ctl(server)
        assert sum(ON_MSHAREFS in line for line in postgresql.said(server)) == 8


@pytest.mark.parametrize("with_library", [(True, True), (True, False), (False, True)], ids=str)
def test_no_second_server_starts_on_the_same_data(preload: dict[str, str], with_library: tuple[bool, bool]) -> None:
    first, second = (preload if there else {} for there in with_library)
    with postgresql.leaving_nothing(postgresql.SETTINGS, {}) as server:
        postgresql.refuses_a_second_server(server, first, second)
        assert bool(with_library[1]) == (ON_MSHAREFS in postgresql.said(server)[-1])
