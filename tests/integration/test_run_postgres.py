"""Debian's PostgreSQL, unmodified, under the preload library: 2 MiB leaves for shared anonymous memory and for SysV."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.cluster import Cluster
from mshare._core.units import MIB
from mshare._tools.preload import library
from mshare._tools.preload.status import status
from tests.helpers import postgresql
from tests.helpers.waiting import eventually
from tests.helpers.worlds import needs_root, small_tmpfs

pytestmark = [needs_root, pytest.mark.timeout(600)]

KINDS = ("mmap", "sysv")
FILLS = ("ahead", "later")


@pytest.fixture(scope="module")
def preload() -> dict[str, str]:
    """The variables of `mshare run --backend thp --only postgres`. The server's user reads root's cache."""
    return {"LD_PRELOAD": str(library.ensure()), "MSHARE_RUN": "backend=thp,only=postgres"}


def settings(kind: str) -> dict[str, str]:
    return {**postgresql.SETTINGS, "shared_memory_type": kind}


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, preload: dict[str, str]) -> Iterator[Cluster]:
    """A server under the library that leaves nothing behind."""
    with postgresql.leaving_nothing(settings(request.param), preload) as running:
        yield running


def test_a_server_does_its_work_with_2_mib_leaves(server: Cluster) -> None:
    postgresql.works(server)
    line = next(line for line in postgresql.said(server) if "blocks)" in line)
    kind = "SysV shared memory" if server.settings["shared_memory_type"] == "sysv" else "shared anonymous memory"
    assert kind in line
    client = server.client()
    backend = int(postgresql.answer(client, "select pg_backend_pid();"))
    assert postgresql.answer(client, "select count(*) from pgbench_accounts;") == "300000"
    (memory,) = (each for each in status(backend).mappings if each.length > 160 * MIB)
    assert memory.cheap
    assert memory.leaf_bytes > 0
    assert memory.page_bytes <= 4 * MIB  # The last part is smaller than a block.
    client.communicate()


def test_it_recovers_from_killed_backends(server: Cluster) -> None:
    postgresql.survives_killed_backends(server)
    # Each recovery makes the memory again, in the same postmaster.
    assert sum("blocks)" in line for line in postgresql.said(server)) == 4


def test_it_survives_an_immediate_shutdown(server: Cluster) -> None:
    server.psql("create table kept (n int); insert into kept values (7)")
    server.stop(signal.SIGQUIT)
    server.start()
    assert server.psql("select n from kept") == "7"


def test_pg_ctl_starts_restarts_and_stops_it(server: Cluster) -> None:
    postgresql.starts_and_stops_by_pg_ctl(server)
    assert sum("blocks)" in line for line in postgresql.said(server)) == 4


@pytest.mark.parametrize("with_library", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_second_server_starts_on_the_same_data(
    preload: dict[str, str], kind: str, with_library: tuple[bool, bool]
) -> None:
    first, second = (preload if there else {} for there in with_library)
    with postgresql.leaving_nothing(settings(kind), {}) as server:
        postgresql.refuses_a_second_server(server, first, second)


def test_leaves_come_later_in_a_server_under_load(preload: dict[str, str]) -> None:
    environment = {**preload, "MSHARE_RUN": "backend=thp,only=postgres,fill=later"}
    with Cluster(settings("mmap"), environment) as server:
        server.run_program("pgbench", "--initialize", "--quiet", "--scale=8")
        server.psql("create extension pg_prewarm; select pg_prewarm('pgbench_accounts')")
        eventually(
            lambda: sum(each.leaf_bytes for each in status(server.pid).mappings) >= 100 * MIB,
            f"what pgbench has touched was not collapsed: {postgresql.said(server)}",
        )
        server.run_program("pgbench", "--select-only", "--client=5", "--transactions=997")
        eventually(
            lambda: any("2 MiB leaves for" in line for line in postgresql.said(server)), "the thread says nothing"
        )


@pytest.mark.machine
def test_a_server_that_tries_huge_pages_starts_without_them(preload: dict[str, str]) -> None:
    """The pool of the tests is smaller than the server's memory, and tests that grow the pool run before or after."""
    with Cluster({**settings("mmap"), "huge_pages": "try", "shared_buffers": "400MB"}, preload) as server:
        assert "blocks)" in postgresql.said(server)[-1]
    answer = {**preload, "MSHARE_RUN": "backend=thp,only=postgres,hugetlb=answer"}
    with Cluster({**settings("mmap"), "huge_pages": "off", "shared_buffers": "400MB"}, answer) as server:
        server.stop()
        server.start({"huge_pages": "on"})
        assert "instead of hugetlb pages, which the kernel refused" in postgresql.said(server)[-1]
        server.stop()
        server.environment = dict(preload)
        with pytest.raises(ChildProcessError, match="Cannot allocate memory"):
            server.start({"huge_pages": "on"})


@pytest.mark.parametrize("only", [True, False])
def test_the_library_is_active_in_the_named_program_only(preload: dict[str, str], only: bool) -> None:
    """`archive_command`, `copy ... to program` and the like inherit the variables."""
    child = "python3 -c 'import mmap; mmap.mmap(-1, 64 << 20)'; cat".replace("'", "''")
    with Cluster(settings("mmap")) as server:
        server.stop()
        log = server.directory / "taken"
        asked = f"backend=thp,log={log}" + (",only=postgres" if only else "")
        server.environment = {**preload, "MSHARE_RUN": asked}
        server.start()
        server.psql(f"copy (select 1) to program '{child}'")
        programs = {line.removeprefix("mshare: ").partition("[")[0] for line in log.read_text().splitlines()}
    assert {name.rstrip("0123456789.") for name in programs} == ({"postgres"} if only else {"postgres", "python"})


def test_debians_environment_file_starts_a_cluster_with_the_library(tmp_path: Path) -> None:
    """As docs/databases.md says: the two lines of `mshare run --environment`, then `pg_ctlcluster`."""
    printed = subprocess.run(
        [sys.executable, "-m", "mshare", "run", "--environment", "--only", "postgres", "--backend", "thp"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    with TemporaryDirectory(prefix="mshare-debian-", dir="/tmp") as place, small_tmpfs(Path("/etc/postgresql"), "8m"):
        home = Path(place)
        home.chmod(0o755)
        shutil.chown(home, "postgres", "postgres")
        files = ["-d", str(home / "data"), "-s", place, "-l", str(home / "log")]
        # A server that tries huge pages may find those of another test.
        debian(["pg_createcluster", *files, "-o", "huge_pages=off", "15", "mshare"])
        try:
            with Path("/etc/postgresql/15/mshare/environment").open("a") as file:
                file.write(printed)
            debian(["pg_ctlcluster", "15", "mshare", "start"])
            postmaster = int((home / "data" / "postmaster.pid").read_text().split()[0])
            found = status(postmaster)
            assert found.library
            assert f"LD_PRELOAD='{found.library}'" in printed
            assert "blocks)" in (home / "log").read_text()
        finally:
            debian(["pg_dropcluster", "--stop", "15", "mshare"])


def debian(command: list[str]) -> None:
    """Run a command of Debian's postgresql-common, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
