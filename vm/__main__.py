"""`python3 -m vm`. May depend on: cli."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # of mshare, what the docstring of `vm` names

from .cli import main

# A terminated program must also end its machine: `sys.exit` runs the `finally` clauses, which clean up. The handler is
# set here, because who calls `main` in another program keeps that program's handler.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
sys.exit(main())
