"""`mshare` and `python -m mshare`: the command line, if its extra is installed. May depend on: cli,
streams, _mshare_command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

Begin = Callable[[], object]


def main(argv: Sequence[str] | None = None, begin: Begin = bool) -> int:
    """Run one command and return its exit code (see `cli/_exits.py`). `argv` is without the program's name. `begin` is
    called when the command line is understood and the work begins."""
    try:
        from ._tools.cli import dispatch
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.stderr.write(f"mshare: the command line needs {error.name}: pip install '.[cli]' in its source\n")
        return 1
    return dispatch(sys.argv[1:] if argv is None else argv, begin)


def process(begin: Begin = bool) -> int:
    """Run the command of this process's command line, with standard streams that are safe to use."""
    from ._tools import streams

    streams.prepare()
    return main(begin=begin)


if __name__ == "__main__":
    from _mshare_command import run

    sys.exit(run(process))
