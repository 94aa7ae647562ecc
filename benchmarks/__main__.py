"""`python -m benchmarks [--quick] [--sizes 64M,1G] [--json FILE] [--markdown FILE]`: report on stdout, steps on stderr.

A full run takes less than ten minutes, a quick one less than one.

May depend on: output, pool, report, run, units.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from mshare._core.units import parse_size

from . import output, pool, report, run


def main(argv: list[str] | None = None) -> int:
    """Run, print, write, and return 0. The code is 0 also when a target is missed; the report names missed targets."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, one process each")
    parser.add_argument("--sizes", help="sizes instead of the usual ones: 64M,1G")
    output.add_options(parser)
    options = parser.parse_args(argv)
    plan = run.QUICK if options.quick else run.FULL
    if options.sizes:
        plan = replace(plan, sizes=tuple(parse_size(size) for size in options.sizes.split(",")))
    pool.give_back_on_signals()
    results = run.measure_all(plan, lambda step: print(step, file=sys.stderr, flush=True))
    text = report.page(results)
    output.write(options, results.as_json(), text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
