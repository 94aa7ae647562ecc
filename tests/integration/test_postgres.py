"""`benchmarks.cluster`: a real server, which ends with the process that started it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from benchmarks.cluster import Cluster, binaries
from benchmarks.postgres_page import AHEAD, COLLAPSE, HUGE, LATER, OURS, STOCK
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("postgres")]

NR_HUGEPAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
SURPLUS = NR_HUGEPAGES.with_name("surplus_hugepages")

_KILLED = """
import sys
from benchmarks.cluster import Cluster
with Cluster() as cluster:
    print(cluster.pid, cluster.directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def postgres() -> None:
    try:
        binaries()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_a_server_with_settings_another_start_and_nothing_left() -> None:
    with Cluster({"shared_buffers": "16MB"}) as cluster:
        assert cluster.psql("show shared_buffers; select 1, 2") == "16MB\n1|2"
        assert cluster.psql("show listen_addresses") == ""
        assert Path(f"/proc/{cluster.pid}").stat().st_uid != 0
        cluster.psql("create table kept as select generate_series(1, 3)")
        with pytest.raises(ChildProcessError, match="nowhere"):
            cluster.psql("select * from nowhere")
        cluster.stop()
        with pytest.raises(ProcessLookupError, match="stopped"):
            cluster.pid  # noqa: B018
        with pytest.raises(ChildProcessError, match="shared_buffers"):
            cluster.start({"shared_buffers": "a lot"})
        cluster.start({"shared_buffers": "24MB"})
        assert cluster.psql("show shared_buffers; select count(*) from kept") == "24MB\n3"
        pid, directory = cluster.pid, cluster.directory
    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_killing_its_owner_leaves_no_server_and_no_files() -> None:
    owner = subprocess.Popen([sys.executable, "-c", _KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        server = os.pidfd_open(int(pid))
        owner.send_signal(signal.SIGKILL)
    assert select.select([server], [], [], 60)[0], "the server lives on"
    os.close(server)
    eventually(lambda: not Path(directory).exists(), f"{Path(directory)} is still there")


@pytest.mark.usefixtures("pool_turn")
@pytest.mark.timeout(300)
def test_the_benchmark_measures_a_real_server_in_every_way(tmp_path: Path) -> None:
    """A way that this machine does not offer has a note. msharefs needs the module, and is measured in a guest."""
    arguments = ["--shared-buffers", "48M", "--clients", "2", "--seconds", "1", "--rounds", "1"]
    files = ["--json", str(tmp_path / "out.json")]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.postgres", *arguments, *files],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    runs = {one["setting"]: one for one in document["runs"]}
    starts = {one["setting"]: one for one in document["starts"]}
    assert runs.keys() == starts.keys()
    assert {"huge_pages=off", "mshare run --fill later", "mshare run --fill ahead"} <= runs.keys()
    assert all(any(note.startswith(each) for note in document["missing"]) for each in (HUGE, *OURS) if each not in runs)
    assert all(one["tps"] > 0 and one["minor_faults"] > 0 and one["vmpte_bytes"] > 0 for one in document["runs"])
    assert all(one["start_ms"] > 0 and one["backend_minor_faults"] > 0 for one in document["starts"])
    assert document["targets"] == []
    assert "| 2 | huge_pages=off |" in run.stdout
    if os.geteuid() == 0:
        assert COLLAPSE in runs
        assert starts[STOCK]["leaves"] == 0
        assert all(starts[each]["leaves"] > 10 for each in (LATER, AHEAD, COLLAPSE))
        assert all(starts[each]["leaves_ms"] > 0 for each in (LATER, COLLAPSE))
        assert all(0 < one["faults"] < one["backend_minor_faults"] for one in document["starts"])
        assert max(starts[each]["faults"] for each in (LATER, AHEAD, COLLAPSE)) < starts[STOCK]["faults"]


@pytest.mark.skipif(os.geteuid() != 0 or not NR_HUGEPAGES.exists(), reason="needs root for huge pages")
@pytest.mark.usefixtures("pool_turn")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_benchmark_and_gives_the_huge_pages_back(number: signal.Signals) -> None:
    arguments = ["--shared-buffers", "16M", "--clients", "2", "--seconds", "1", "--rounds", "5"]
    before = pool_pages()
    run = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.postgres", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        deadline = monotonic() + 60
        while pool_pages() == before and run.poll() is None and monotonic() < deadline:
            sleep(0.01)
        assert pool_pages() != before
        run.send_signal(number)
        run.communicate()
    assert run.returncode == 128 + number
    assert pool_pages() == before


def pool_pages() -> int:
    """Return the size of the pool. A server's pages stay as surplus until the kernel frees its IPC namespace, some time
    after its end."""
    deadline = monotonic() + 60
    while int(SURPLUS.read_text()) and monotonic() < deadline:
        sleep(0.01)
    return int(NR_HUGEPAGES.read_text())
