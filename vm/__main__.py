"""`python3 -m vm`. May depend on: cli."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
