"""One host of a Dask cluster, as a process: `python -m tests.helpers.dask_host SCHEDULER ADDRESS`.

The process loads distributed once. For each line on stdin it forks a worker and prints the worker's process number.
The line is `worker`, `nanny` for a worker with a nanny, or `doomed N FUNCTION` for a worker that is killed at the
Nth line of mshare that it runs after the first call of FUNCTION. Workers end with this process.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import dask
from distributed import Nanny, Worker

import mshare
import mshare.dask.copies  # so that the workers that are forked have it

_SET_PDEATHSIG = 1
TraceFunction = Callable[[FrameType, str, Any], Any]


def _doom(lines: int, function: str) -> None:
    """Kill this process at a line of mshare, so many lines after the first call of a function of mshare."""
    package, left, begun = str(Path(mshare.__file__).parent), [lines], [False]

    def trace(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        if not frame.f_code.co_filename.startswith(package):
            return None
        begun[0] = begun[0] or frame.f_code.co_name == function
        if begun[0] and event == "line":
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


async def _work(scheduler: str, address: str, kind: str) -> None:
    options: dict[str, Any] = {"host": address, "name": os.getpid(), "local_directory": str(Path.cwd())}
    options |= {"nthreads": 1, "dashboard": False, "memory_limit": 0}
    if kind.startswith("doomed"):
        _, lines, function = kind.split()
        _doom(int(lines), function)
    made = Nanny if kind == "nanny" else Worker
    async with made(scheduler, **options) as worker:
        await worker.finished()


def main() -> None:
    """Fork workers until stdin ends."""
    scheduler, address = sys.argv[1:]
    dask.config.set({"distributed.admin.log-length": 0, "logging": {"distributed": "critical"}})
    me = os.getpid()
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(1)
            os.close(0)
            os.open("/dev/null", os.O_RDONLY)
            asyncio.run(_work(scheduler, address, line.strip()))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
