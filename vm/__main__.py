"""`python3 -m vm`. May depend on: cli."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # of mshare, what the docstring of `vm` names

from .cli import main

sys.exit(main())
