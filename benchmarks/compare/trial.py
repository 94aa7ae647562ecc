"""Starts one trial: one column of one peer, in namespaces of its own, with a time limit.

Fact: daemons, resource trackers and segments outlive the processes that made them; that is among what we measure.
Consequence: a trial would find what others left, and so would the machine. Decision: PID, mount and IPC namespaces per
trial; with its first process the kernel takes away all others, /dev/shm and the segments, however it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any

from mshare.geometry import PMD

from .. import pool
from .contenders import Contender
from .inside import CROWD


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. Sizes in bytes."""

    size_bytes: int
    """What page tables, faults, times and first touch are measured with."""
    random_bytes: int
    """What random reads are measured with."""
    small_bytes: int
    """What is killed, filled and attached by a crowd."""
    count: int
    """Processes in the crowd."""
    runs: int
    """Fresh processes per figure."""
    limit_s: float
    """Time for one trial."""

    def size(self, column: str) -> int:
        """Return the size of the region for `column`."""
        if column == "random":
            return self.random_bytes
        return self.size_bytes if column in ("process", "tables", "touch") else self.small_bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one trial came to: values, or why there are none."""

    peer: str
    column: str
    seconds: float
    values: dict[str, Any] | None = None
    failure: str = ""


_TAIL_CHARS = 600


def run(contender: Contender, column: str, plan: Plan) -> Outcome:
    """Run it to its end, or to the time limit."""
    start = time.monotonic()
    size = plan.size(column)
    with pool.pages(size + 8 * PMD) if contender.huge_pages else nullcontext((1, "")) as (_, problem):
        values, failure = (None, problem) if problem else _run(contender, column, plan, size)
    return Outcome(contender.label, column, round(time.monotonic() - start, 2), values, failure)


def _run(contender: Contender, column: str, plan: Plan, size: int) -> tuple[dict[str, Any] | None, str]:
    request = {"contender": list(contender), "column": column, "size_bytes": size, "runs": plan.runs}
    request |= {"count": plan.count if column == CROWD else 0, "limit_s": plan.limit_s}
    unshare = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    inside = [sys.executable, "-m", "benchmarks.compare.inside", json.dumps(request)]
    with TemporaryFile("w+") as said:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *unshare, *inside],  # nor does it outlive us
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            process_group=0,
        )
        try:
            output, _ = process.communicate(timeout=plan.limit_s)
        except subprocess.TimeoutExpired:
            return None, f"no end within {plan.limit_s:.0f} s"
        finally:
            process.kill()  # its child, the first process of the namespace, dies with it, and with that all others
            process.communicate()
        said.seek(0)
        words = said.read()[-_TAIL_CHARS:].strip()
    answer = json.loads(output.splitlines()[-1]) if output.strip() else {}
    if "values" in answer:
        return answer["values"], ""
    failure = answer.get("failure", f"ended with status {process.returncode}")
    return None, f"{failure}\n{words}" if words else failure
