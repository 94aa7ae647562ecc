"""The benchmark's server, started in each of the ways that `postgres_page` names, and its 2 MiB pages.

May depend on: cluster, leaves, pool, postgres_page, preload, mshare._tools.scan, geometry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

from mshare._core.geometry import PMD
from mshare._tools.preload import host
from mshare._tools.preload.status import status
from mshare._tools.scan.case import SHMEM_ENABLED, chosen

from . import leaves, pool
from .cluster import Cluster
from .postgres_page import AHEAD, COLLAPSE, HUGE, LATER, MSHAREFS

_MSHARE = (sys.executable, "-m", "mshare")
_OPTIONS = {
    LATER: ("--backend", "thp", "--fill", "later"),
    AHEAD: ("--backend", "thp", "--fill", "ahead"),
    MSHAREFS: ("--backend", "msharefs"),
}
LEAVES_S = 180.0
"""The longest wait for the thread of `--fill later`."""
_LOOK_S = 0.25


@contextmanager
def shmem_enabled(value: str) -> Iterator[None]:
    """Set it for the time of a `with` block, as root. Programs that do this at the same time take turns."""
    setting = Path(SHMEM_ENABLED)
    with setting.open() as turn:
        flock(turn, LOCK_EX)
        before = chosen(setting.read_text())
        try:
            setting.write_text(value)
            yield
        finally:
            setting.write_text(before)


@contextmanager
def started(server: Cluster, setting: str, pool_bytes: int) -> Iterator[tuple[float, str]]:
    """Start the stopped server in one of the ways, and stop it at the end of the `with` block. Give the time of the
    start in ms, and the reason if the server cannot be had so.

    - `pool_bytes`: the huge pages that the server needs.
    """
    problem = _obstacle(setting)
    if problem:
        yield 0.0, problem
        return
    server.environment = variables(_OPTIONS[setting]) if setting in _OPTIONS else {}
    with ExitStack() as stack:
        if setting == HUGE:
            _, problem = stack.enter_context(pool.pages(pool_bytes))
            if problem:
                yield 0.0, problem
                return
        stack.callback(server.stop)
        with ExitStack() as start:
            if setting == COLLAPSE:
                start.enter_context(shmem_enabled("advise"))
            began = time.perf_counter()
            try:
                server.start({"huge_pages": "on" if setting == HUGE else "off"})
            except ChildProcessError as error:
                if setting != HUGE:
                    raise
                problem = f"{HUGE} is missing in a round, because another program took the huge pages: {error}"
            took_ms = (time.perf_counter() - began) * 1000
        yield took_ms, problem or _untouched(server, setting)


def variables(options: tuple[str, ...]) -> dict[str, str]:
    """Return the variables of `mshare run` for a server."""
    command = [*_MSHARE, "run", "--environment", "--json", "--only", "postgres", *options]
    found: dict[str, str] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def _obstacle(setting: str) -> str:
    """Return why this machine does not offer it; empty if it does."""
    if setting == COLLAPSE and os.geteuid() != 0:
        return f"{COLLAPSE} is missing: it needs root"
    here = host.look()
    if setting == MSHAREFS and here.msharefs_obstacle:
        return f"{MSHAREFS} is missing: {here.msharefs_obstacle}"
    if setting in (LATER, AHEAD, COLLAPSE) and here.thp_obstacle:
        return f"{setting} is missing: {here.thp_obstacle}"
    return ""


def _untouched(server: Cluster, setting: str) -> str:
    """Return why `mshare run` had no effect on a server that it started; empty if it had."""
    if setting not in _OPTIONS:
        return ""
    found = status(server.pid)
    largest = max(found.mappings, key=lambda each: each.length, default=None)
    if largest is None or not found.library:
        return f"{setting} is missing: the server does not have the library"
    if (setting == MSHAREFS) != (largest.object.kind == "msharefs"):
        return f"{setting} is missing: the server's shared memory is {largest.object.kind}: {said(server)}"
    if largest.start % PMD:
        return f"{setting} is missing: the server's shared memory is not aligned: {said(server)}"
    return ""


def said(server: Cluster) -> str:
    """Return the last line of the library about the server."""
    lines = (server.directory / "log").read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("mshare: ")), "the library said nothing")


def wait_for_leaves(pid: int) -> tuple[float | None, str]:
    """Wait until `--fill later` has made 2 MiB pages of all that it takes. Return the time in ms, or None and the
    reason."""
    began = time.perf_counter()
    while (found := leaves.leaves(pid)) is None or found.left or not found.huge:
        if found is None:
            return None, f"the time of {LATER} until 2 MiB pages are there: it needs root"
        if time.perf_counter() - began > LEAVES_S:
            return None, f"the time of {LATER}: {found.left} blocks of 2 MiB were left after {LEAVES_S:.0f} s"
        time.sleep(_LOOK_S)
    return (time.perf_counter() - began) * 1000, ""


def collapse(pid: int) -> tuple[float | None, str]:
    """Call `mshare collapse` for the server. Return the time in ms, or None and the reason."""
    began = time.perf_counter()
    command = [*_MSHARE, "collapse", "--pid", str(pid), "--yes", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    took_ms = (time.perf_counter() - began) * 1000
    if done.returncode:
        return None, f"{COLLAPSE} is missing: {done.stderr.strip() or f'exit code {done.returncode}'}"
    return took_ms, ""
