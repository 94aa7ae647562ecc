"""Starts one trial: one column of one mechanism, in namespaces of its own, with a time limit.

Facts: daemons, resource trackers and segments outlive the processes that made them, and we measure such remains.
Consequence: the remains of one trial would disturb the next, and stay on the machine. Decision: each trial has its own
PID, mount and IPC namespaces. When the first process of a trial ends, in whatever way, the kernel removes all other
processes, /dev/shm and the segments.

May depend on: inside, specs, pool, geometry.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from tempfile import TemporaryFile
from typing import Any

from mshare._core.geometry import PMD

from .. import pool
from .inside import ANSWER, CROWD
from .specs import MechanismSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a run. Sizes are in bytes."""

    size_bytes: int
    """The region for page tables, faults, times and first touch."""
    random_bytes: int
    """The region for random reads."""
    small_bytes: int
    """The region whose creator is killed, the one that fills a file system, and the one that a crowd attaches."""
    count: int
    """Processes in the crowd."""
    runs: int
    """Fresh processes per figure."""
    limit_s: float
    """Time for one trial."""
    random_rounds: int = 1
    """How often the mechanisms take turns at random reads, each time in a fresh process."""

    def size(self, column: str) -> int:
        """Return the size of the region for `column`."""
        if column == "random":
            return self.random_bytes
        return self.size_bytes if column in ("process", "tables", "touch") else self.small_bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one trial: values, or the reason why there are none."""

    mechanism: str
    column: str
    seconds: float
    values: dict[str, Any] | None = None
    failure: str = ""


_TAIL_CHARS = 600


def run_trial(spec: MechanismSpec, column: str, plan: Plan) -> Outcome:
    """Run the trial to its end, or to the time limit."""
    start = time.monotonic()
    size = plan.size(column)
    with pool.pages(size + 8 * PMD) if spec.huge_pages else nullcontext((1, "")) as (_, problem):
        values, failure = (None, problem) if problem else _run(spec, column, plan, size)
    return Outcome(spec.label, column, round(time.monotonic() - start, 2), values, failure)


def _run(spec: MechanismSpec, column: str, plan: Plan, size: int) -> tuple[dict[str, Any] | None, str]:
    request = {"spec": list(spec), "column": column, "size_bytes": size, "runs": plan.runs}
    request |= {"count": plan.count if column == CROWD else 0, "limit_s": plan.limit_s}
    unshare = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    inside = [sys.executable, "-m", "benchmarks.compare.inside", json.dumps(request)]
    with TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            # The trial does not outlive us. Facts: with random addresses, chance decides whether a mapping straddles a
            # 2 MiB boundary. A thousand forks inherit the result, a page table or two each. Decision: fixed addresses.
            ["setpriv", "--pdeathsig", "KILL", "setarch", "--addr-no-randomize", *unshare, *inside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            errors="replace",
            process_group=0,
        )
        try:
            output, _ = process.communicate(timeout=plan.limit_s)
        except subprocess.TimeoutExpired:
            return None, f"no end within {plan.limit_s:.0f} s"
        finally:
            # The group has the first process of the namespace, with which the kernel kills all others. Shortly after
            # its fork that process would not yet die with `unshare`.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        said.seek(0)
        words = said.read()[-_TAIL_CHARS:].strip()
    values, failure = parse_answer(output)
    if values is not None:
        return values, ""
    failure = failure or f"ended with status {process.returncode}, without an answer"
    return None, f"{failure}\n{words}" if words else failure


def parse_answer(output: str) -> tuple[dict[str, Any] | None, str]:
    """Return the values, or the failure, in a trial's output, or neither if the output is cut short or only junk."""
    for line in reversed(output.splitlines()):
        if line.startswith(ANSWER):
            try:
                answer = json.loads(line.removeprefix(ANSWER))
            except ValueError:
                return None, ""
            return answer.get("values"), answer.get("failure", "")
    return None, ""


def middle(outcomes: Sequence[Outcome]) -> Outcome:
    """Return one outcome of several rounds of random reads: the median, the least and the most of the rounds that
    succeeded, or a failure if none did."""
    good = [outcome.values for outcome in outcomes if outcome.values is not None]
    seconds = round(sum(outcome.seconds for outcome in outcomes), 2)
    if not good:
        return replace(outcomes[0], seconds=seconds)
    times = [values["ns"] for values in good]
    values = {
        "ns": median(times),
        "least_ns": min(times),
        "most_ns": max(times),
        "best_ns": min(values["best_ns"] for values in good),
        "rounds": len(times),
    }
    failed = next((outcome.failure for outcome in outcomes if outcome.failure), "")
    return Outcome(outcomes[0].mechanism, outcomes[0].column, seconds, values, failed)
