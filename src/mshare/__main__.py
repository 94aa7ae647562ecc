"""`mshare` and `python -m mshare`: the command line, if its extra is installed. May depend on: cli."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `cli/_exits.py`). `argv` is without the program's name."""
    try:
        from ._tools.cli import dispatch
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.stderr.write(f"mshare: the command line needs {error.name}: pip install '.[cli]' in its source\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return dispatch(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
