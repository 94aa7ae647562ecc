"""The column with a thousand processes: how many can attach, and what stops the next one.

A benchmark that started every interpreter would measure the start of interpreters, and their memory. One process
therefore imports the library, attaches nothing, and forks. Each child attaches by itself, touches all, and stays.

May depend on: actor, linux, measure.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from multiprocessing import resource_tracker
from typing import Any

from mshare._core.linux import proc
from mshare.measure import Mechanism, SharedMemory
from mshare.measure.child import Child, requests, say
from mshare.measure.cost import page_tables_bytes
from mshare.measure.mechanisms import load
from mshare.measure.probe import touch

from .actor import actor, death

_NAME = "mshare-compare"
_PROGRAM = "from benchmarks.compare.crowd import main; main()"
_CHILD_LIMIT_S = 20.0
_MEMORY_BYTES = 6 << 30
"""No more children are started when the machine has so much less free memory, whichever program took the memory."""


def crowd(mechanism: Mechanism, size_bytes: int, count: int, limit_s: float) -> dict[str, Any]:
    """Return how many of `count` processes attached and touched everything within `limit_s`, and what stopped the next
    one. The answer also has the machine's cost of the attached processes."""
    with actor(mechanism) as creator, Child(_PROGRAM, mechanism.spec, creator.make(_NAME, size_bytes)) as zygote:
        zygote.answer()
        tables, free = page_tables_bytes(), proc.memory_fields()["MemAvailable"]
        start = time.monotonic()
        zygote.ask(count=count, limit_s=limit_s)
        answer = zygote.answer()
        seconds = time.monotonic() - start
        attached = answer["attached"]
        return {
            **answer,
            "count": count,
            "seconds": seconds,
            "page_tables_bytes": (page_tables_bytes() - tables) // max(1, attached),
            "memory_bytes": (free - proc.memory_fields()["MemAvailable"]) // max(1, attached),
        }


def _one(mechanism: Mechanism, token: str, told: int, hold: int) -> None:
    """Attach in the child, touch everything, report success, and stay until the parent ends."""
    try:
        attachment = mechanism.attach(token)
        assert attachment.buf is not None
        touch(attachment.buf, 0, len(attachment.buf))
        os.write(told, b"ok")
    except Exception as error:
        os.write(told, f"{type(error).__name__}: {error}".encode()[:4000])
    os.read(hold, 1)
    os._exit(0)


def _cut(attached: int, why: str) -> dict[str, Any]:
    """Return the answer for a run that this benchmark stopped, and not a failure of the mechanism."""
    return {"attached": attached, "stopped": f"stopped by this benchmark, {why}", "cut": True}


def _gather(mechanism: Mechanism, token: str, count: int, limit_s: float) -> dict[str, Any]:
    """Fork children one after the other until one does not attach. The children stay until our end closes `hold`."""
    hold, _held = os.pipe()
    deadline = time.monotonic() + limit_s
    floor = proc.memory_fields()["MemAvailable"] - _MEMORY_BYTES
    for attached in range(count):
        if time.monotonic() > deadline:
            return _cut(attached, f"after {limit_s:.0f} s")
        if proc.memory_fields()["MemAvailable"] < floor:
            return _cut(attached, "as the machine had 6 GiB less free memory than at the start")
        heard, told = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            return {"attached": attached, "stopped": f"fork: {error}"}
        if pid == 0:
            os.close(_held)
            _one(mechanism, token, told, hold)
        os.close(told)
        if not select.select([heard], [], [], _CHILD_LIMIT_S)[0]:
            os.kill(pid, signal.SIGKILL)
            return {"attached": attached, "stopped": f"nothing happened for {_CHILD_LIMIT_S:.0f} s"}
        message = os.read(heard, 4096).decode(errors="replace")
        os.close(heard)
        if message != "ok":
            how = message or death(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            return {"attached": attached, "stopped": how}
    return {"attached": count, "stopped": ""}


def _prepare(mechanism: Mechanism) -> None:
    """Start, before the forks, the helpers that children of one program share.

    A process that attaches a `shared_memory` without a resource tracker starts one, which is another interpreter.
    Children of `multiprocessing` share their parent's tracker. Ray's daemon starts a helper for each reader, and no
    reader could start that helper for others.
    """
    if isinstance(mechanism, SharedMemory):
        resource_tracker.ensure_running()


def main() -> None:
    """Serve one request: gather the children, answer, and stay until the creator closes. The children end with us."""
    gc.disable()
    mechanism = load(sys.argv[1])
    _prepare(mechanism)
    gc.freeze()
    say("ready")
    for request in requests():
        say(_gather(mechanism, sys.argv[2], **request))
