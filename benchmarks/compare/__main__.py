"""`python -m benchmarks.compare [--quick] [--mechanisms ...] [--columns ...] [--json FILE] [--markdown FILE]`.

The report is on stdout, the steps are on stderr. Only root measures huge pages.

May depend on: inside, report, specs, trial, machine, output, pool, units.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from mshare._core.units import GIB, MIB, parse_size

from .. import machine, output, pool
from . import inside, report, specs, trial

FULL = trial.Plan(GIB, 4 * GIB, 64 * MIB, count=1000, runs=3, limit_s=240, random_rounds=3)
QUICK = trial.Plan(32 * MIB, 64 * MIB, 8 * MIB, count=20, runs=1, limit_s=60)
_PACKAGES = ("mshare", "numpy", "posix_ipc", "sysv_ipc", "SharedArray", "ray", "torch", "iceoryx2", "vineyard")


def _chosen(names: str | None, known: Sequence[str], what: str) -> list[str]:
    if names is None:
        return list(known)
    chosen = names.split(",")
    unknown = set(chosen) - set(known)
    if unknown:
        sys.exit(f"no such {what}: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    return [name for name in known if name in chosen]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small regions, one process per figure")
    parser.add_argument("--light", action="store_true", help="without the frameworks (Ray, torch, iceoryx2, vineyard)")
    parser.add_argument("--mechanisms", help="only these, by their labels, with commas between")
    parser.add_argument("--columns", help=f"only these: {','.join(inside.NAMES)}")
    parser.add_argument("--size", type=parse_size, help="region for page tables, faults, times and first touch")
    parser.add_argument("--random-size", type=parse_size, help="region for random reads")
    parser.add_argument("--small-size", type=parse_size, help="region that is killed, filled and attached by a crowd")
    parser.add_argument("--processes", type=int, help="the crowd")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="for one column of one mechanism")
    output.add_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write, and return 0: a mechanism's failure is a result and not an error."""
    options = _parse(argv)
    plan = QUICK if options.quick else FULL
    given = {
        "size_bytes": options.size,
        "random_bytes": options.random_size,
        "small_bytes": options.small_size,
        "count": options.processes,
        "limit_s": options.limit,
    }
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    labels = [mechanism.label for mechanism in specs.ALL if not (options.light and mechanism.heavy)]
    mechanisms = _chosen(options.mechanisms, labels, "mechanism")
    columns = _chosen(options.columns, inside.NAMES, "column")
    pool.give_back_on_signals()

    start, load = time.monotonic(), os.getloadavg()[0]
    facts = machine.facts(_PACKAGES)
    outcomes: list[trial.Outcome] = []
    missing: list[str] = []
    ready = []
    for mechanism in specs.ALL:
        if mechanism.label in mechanisms:
            problem = mechanism.problem()
            if problem:
                missing.append(f"{mechanism.label}: {problem}")
            else:
                ready.append(mechanism)
    document: dict[str, Any] = {
        "machine": facts,
        "command": shlex.join(["python", "-m", "benchmarks.compare", *(sys.argv[1:] if argv is None else argv)]),
        "missing": missing,
        "plan": asdict(plan),
    }
    text = ""
    for column in columns:
        who = [c for c in ready if c.label != specs.BASELINE or column in inside.OF_THE_BASELINE]
        outcomes += _measure(column, who, plan)
        document |= {"load_1min": [load, os.getloadavg()[0]], "seconds": time.monotonic() - start}
        document["outcomes"] = [asdict(outcome) for outcome in outcomes]
        text = report.page(document, plan, outcomes)
        output.save(options, document, text)  # kept even if the run ends early
    sys.stdout.write(text)
    return 0


def _measure(column: str, who: Sequence[specs.MechanismSpec], plan: trial.Plan) -> list[trial.Outcome]:
    """Measure the mechanisms one after the other, so that compared figures are near in time. Random reads depend most
    on the kernel's placement of memory, so the mechanisms take turns at them in rounds of alternating order."""
    rounds = plan.random_rounds if column == "random" else 1
    found: dict[str, list[trial.Outcome]] = {mechanism.label: [] for mechanism in who}
    for number in range(rounds):
        for mechanism in who if number % 2 == 0 else reversed(who):
            done = trial.run_trial(mechanism, column, plan)
            found[mechanism.label].append(done)
            print(f"{column}: {done.mechanism}: {done.seconds:.1f} s {done.failure}", file=sys.stderr, flush=True)
    return [trial.middle(outcomes) if column == "random" else outcomes[0] for outcomes in found.values()]


if __name__ == "__main__":
    sys.exit(main())
