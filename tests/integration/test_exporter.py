"""`mshare exporter` as Prometheus uses it: the real command, real HTTP, real processes, /proc as oracle."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mshare._core.units import MIB
from mshare._tools.collect import Choice, collect
from mshare._tools.exporter import server
from mshare._tools.exporter.latest import Latest
from mshare._tools.exporter.metrics import Metrics
from mshare._tools.exporter.objects import MOST_CHARACTERS
from mshare._tools.scan.snapshot import Snapshot
from mshare._tools.scan.survey import Survey, survey
from mshare.testing.processes import in_child
from tests.helpers.capabilities import CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, become
from tests.helpers.mappers import Mapping, mapped
from tests.helpers.worlds import STRANGER, needs_root

pytestmark = pytest.mark.machine

EXPORTER = (sys.executable, "-m", "mshare", "exporter")
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def parsed(text: str) -> Samples:
    """Return the samples by name and labels. Each pair may occur only once."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    return found


def one(samples: Samples, name: str, **labels: str) -> float:
    return samples[name][tuple(sorted(labels.items()))]


def once(*args: str) -> Samples:
    return parsed(subprocess.run([*EXPORTER, "--once", *args], capture_output=True, check=True, text=True).stdout)


def of_reading(found: tuple[Snapshot, Survey], objects: int) -> Samples:
    """Return the samples of one scan, with so many objects."""
    registry = CollectorRegistry()
    registry.register(Metrics(Latest(lambda: found, 0), objects, "1"))
    return parsed(generate_latest(registry).decode())


@contextmanager
def serving(*args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run an exporter on a private port. Give the process and its URL."""
    with subprocess.Popen([*EXPORTER, "--listen", "127.0.0.1:0", *args], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = re.fullmatch(r"mshare exporter: (http://\S+/metrics)\n", process.stderr.readline())
            assert told is not None
            yield process, told[1]
        finally:
            process.kill()


def scraped(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return parsed(answer.read().decode())


def memory_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_a_scrape_says_what_proc_says(world: Path) -> None:
    path = world / "seen-by-exporter"
    with mapped(Mapping("tmpfs", 64 * MIB, processes=7, path=str(path))) as there, serving() as (_, url):
        found = scraped(url)
        labels = {"object": str(path), "kind": "tmpfs"}
        truth = sum(there.growth)
        assert one(found, "mshare_page_table_lower_bytes", **labels) <= truth
        assert truth <= one(found, "mshare_page_table_upper_bytes", **labels)
        assert one(found, "mshare_page_table_bytes", **labels) == pytest.approx(truth, rel=0.05)
        assert one(found, "mshare_object_processes", **labels) == 7
        assert one(found, "mshare_object_size_bytes", **labels) == 64 * MIB
        by_remedy = [one(found, "mshare_object_what_if_bytes", remedy=r, **labels) for r in ("shared", "leaves_2m")]
        assert all(0 < cost < truth for cost in by_remedy)
        assert one(found, "mshare_memory_bytes") == memory_bytes("MemTotal")
        whole, rest = one(found, "mshare_page_tables_bytes"), one(found, "mshare_page_tables_unexplained_bytes")
        assert whole >= truth
        assert one(found, "mshare_page_tables_explained_bytes") + rest == whole
        assert one(found, "mshare_scan_success") == 1
        assert one(found, "mshare_scan_errors_total") == 0
        assert one(found, "mshare_scan_duration_seconds") > 0
        assert len(found["mshare_build_info"]) == 1


def test_a_hundred_objects_are_no_more_series_than_asked_for(world: Path) -> None:
    with ExitStack() as all_of_them:
        program = "import mmap,os,sys;k=[]\nfor n in range(100):\n f=os.memfd_create(f'many{n}');os.ftruncate(f,4096);"
        program += "m=mmap.mmap(f,4096);m[0]=1;k.append(m)\nos.write(1,b'x');os.read(0,1)"
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        all_of_them.enter_context(process)
        assert process.stdin is not None
        assert process.stdout is not None
        all_of_them.callback(process.stdin.close)
        assert process.stdout.read(1) == b"x"
        found = once("--objects", "13")
        assert len(found["mshare_page_table_bytes"]) == 14
        assert one(found, "mshare_objects") >= 100
        assert one(found, "mshare_object_processes", object="other", kind="other") >= 1
        snapshot = collect(choice=Choice(pids=[process.pid]))
        looked = snapshot, survey(snapshot)
        few, everything = (of_reading(looked, objects) for objects in (13, 1000))
        assert len(few["mshare_page_table_bytes"]) == 14
        assert sum("many" in dict(labels)["object"] for labels in everything["mshare_page_table_bytes"]) == 100
        both = [sum(each["mshare_page_table_bytes"].values()) for each in (few, everything)]
        assert both[0] == pytest.approx(both[1])


@pytest.mark.parametrize("name", ["a\n\"\\}\x1b]0;owned\x07 \u202e{b='c'}", "x" * 200, "byte\udcff\u00e9"])
def test_a_hostile_name_is_one_harmless_label(world: Path, name: str) -> None:
    path = world / name
    with mapped(Mapping("tmpfs", 64 * MIB, processes=2, path=str(path))):
        found = once("--objects", "1000")
        start = str(world)
        mine = [dict(labels)["object"] for labels in found["mshare_object_processes"] if start in str(labels)]
        assert len(mine) == 1
        assert len(mine[0]) <= MOST_CHARACTERS
        assert mine[0].isprintable()


def test_objects_of_one_name_are_one_series() -> None:
    with mapped(Mapping(processes=2)), mapped(Mapping(processes=3)):
        found = once("--objects", "1000")
        assert one(found, "mshare_object_processes", object="memfd:known", kind="memfd") >= 5


def test_who_asks_at_the_same_time_gets_the_same_scan() -> None:
    began, go_on, scans = threading.Event(), threading.Event(), []

    def read() -> int:
        scans.append(1)
        began.set()
        assert go_on.wait(60)
        return len(scans)

    latest = Latest(read, max_age_s=3600)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(latest.get) for _ in range(5)]
        assert began.wait(60)
        go_on.set()
        assert {each.result(60).found for each in asked} == {1}
    assert Latest(read, max_age_s=0).get().found == 2
    always = Latest(read, max_age_s=0)
    assert [always.get().found for _ in range(2)] == [3, 4]


def test_two_scrapers_share_a_scan_over_http() -> None:
    with serving("--max-age", "3600") as (_, url), ThreadPoolExecutor(4) as pool:
        times = {one(found, "mshare_scan_timestamp_seconds") for found in pool.map(scraped, [url] * 4)}
        assert len(times) == 1
    with serving("--max-age", "0") as (_, url):
        assert one(scraped(url), "mshare_scan_timestamp_seconds") < one(scraped(url), "mshare_scan_timestamp_seconds")


def test_a_scan_that_fails_is_counted_and_told_and_the_next_one_works(capsys: pytest.CaptureFixture[str]) -> None:
    broken = [OSError(5, "broken\x1b[2J"), ValueError("odd"), None]

    def read() -> object:
        error = broken.pop(0)
        if error is not None:
            raise error
        snapshot = collect()
        return snapshot, survey(snapshot)

    registry = CollectorRegistry()
    registry.register(Metrics(Latest(read, 0), 20, "1"))  # type: ignore[arg-type]
    for failures in (1, 2):
        found = parsed(generate_latest(registry).decode())
        assert one(found, "mshare_scan_success") == 0
        assert one(found, "mshare_scan_errors_total") == failures
        assert "mshare_page_tables_bytes" not in found  # an old scan is not presented as a new one
    found = parsed(generate_latest(registry).decode())
    assert (one(found, "mshare_scan_success"), one(found, "mshare_scan_errors_total")) == (1, 2)
    assert one(found, "mshare_page_tables_bytes") > 0
    told = capsys.readouterr().err
    assert "OSError: [Errno 5] broken\\x1b[2J" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(number: signal.Signals) -> None:
    with serving() as (process, url):
        scraped(url)
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        with pytest.raises(URLError):
            urllib.request.urlopen(url, timeout=5)


def refused(*args: str) -> tuple[int, str]:
    done = subprocess.run([*EXPORTER, *args], capture_output=True, check=False, text=True)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, told = refused("--listen", address)
        assert code == 1
        assert told.startswith(f"mshare: cannot listen on {address}: Address already in use: choose another")
        code, told = refused("--listen", address, "--json")
        assert json.loads(told)["error"]["class"] == "CannotListenError"


@pytest.mark.parametrize("address", ["", "9779", ":9779", "::1:9779", "[::1]", "localhost:", "localhost:70000", "a:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    code, told = refused("--listen", address)
    assert code == 2
    assert "127.0.0.1:9779" in told


def test_a_host_name_that_none_can_be_is_an_error_that_says_so() -> None:
    code, told = refused("--listen", ".x:0")
    assert code == 1
    assert told.startswith("mshare: cannot listen on .x:0: ")


def test_a_silent_client_is_let_go(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 0.1)
    with server.listen(CollectorRegistry(), server.parse_address("127.0.0.1:0")) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            for said in (b"", b"GET /metr"):
                with socket.create_connection(("127.0.0.1", listening.server_port), timeout=60) as client:
                    client.sendall(said)
                    assert client.recv(1) == b""
        finally:
            listening.shutdown()
            thread.join()
    assert capsys.readouterr() == ("", "")


def test_it_listens_on_ipv6() -> None:
    with serving("--listen", "[::1]:0") as (_, url):
        assert url.startswith("http://[::1]:")
        assert one(scraped(url), "mshare_scan_success") == 1


def test_without_the_extra_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from mshare._tools.cli import dispatch; sys.exit(dispatch(['exporter']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert done.stderr == "mshare: prometheus_client is not installed: pip install '.[exporter]' in mshare's source\n"


@needs_root
def test_what_the_two_capabilities_of_the_unit_are_for() -> None:
    """docs/exporter.md claims: CAP_SYS_PTRACE opens other users' mappings, CAP_DAC_READ_SEARCH their leaf sizes."""
    with mapped(Mapping("memfd", 64 * MIB, processes=1)) as there:
        (pid,) = there.pids
        collect()  # loads all modules of the child, which may not read root's files

        def looked(*capabilities: int) -> tuple[bool, list[int]]:
            def look() -> tuple[bool, list[int]]:
                become(STRANGER, capabilities)
                snapshot = collect()
                (process,) = (each for each in snapshot.processes if each.pid == pid)
                if process.areas is None:
                    return False, []
                mine = {snapshot.objects[area.object] for area in process.areas if area.object >= 0}
                return True, [leaf for each in mine if each.path == "/memfd:known" for leaf in each.leaves]

            readable, leaves = in_child(look).value
            return bool(readable), list(leaves)

        assert looked() == (False, [])
        assert looked(CAP_DAC_READ_SEARCH) == (False, [])
        assert looked(CAP_SYS_PTRACE) == (True, [])
        assert looked(CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH) == (True, [os.sysconf("SC_PAGE_SIZE")])
