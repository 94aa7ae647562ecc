"""The requests of `mshare run` to the preload library, as the text of the variable MSHARE_RUN. Pure. May depend on:
errors, units, geometry.

The C side is preload/config.c. The text has neither blanks nor quotes, so that it stands in a unit, in Debian's
`environment` file and in a Dockerfile alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from ..._core.errors import InvalidArgumentError, InvalidSizeError
from ..._core.geometry import PMD
from ..._core.units import format_size

VARIABLE = "MSHARE_RUN"
Backend = Literal["auto", "msharefs", "thp"]
Fill = Literal["auto", "ahead", "later", "never"]

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=./~-]+", re.ASCII)
_LONGEST = {"only": 63, "log": 255, "root": 127}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `mshare run`. The defaults are those of the library."""

    backend: Backend = "auto"
    """The place of shared anonymous memory. `auto`: on msharefs where that can be had, else 2 MiB leaves."""
    fill: Fill = "auto"
    """When memory is taken and gets 2 MiB leaves."""
    min: int = 32 << 20
    """Bytes: smaller mappings are left alone. At least 2 MiB."""
    sysv: Literal["thp", "off"] = "thp"
    posix: Literal["thp", "off"] = "thp"
    hugetlb: Literal["pass", "answer"] = "pass"
    """The answer to a request for hugetlb pages that the kernel refuses."""
    mprotect: Literal["refuse", "ignore"] = "refuse"
    """The answer to a change of rights of memory on msharefs."""
    only: str = ""
    """Name of the one program in which the library is active; empty: all."""
    require: Literal["yes", "no"] = "no"
    """Memory that cannot be had as asked is ENOMEM."""
    log: str = ""
    """Absolute path of the file that gets the lines; empty: stderr."""
    quiet: Literal["yes", "no"] = "no"
    root: str = "/sys/fs/mshare"
    """The mount point of msharefs."""

    def __post_init__(self) -> None:
        """Check what goes into the variable. Raises `InvalidSizeError`, `InvalidArgumentError`."""
        if self.min < PMD:
            raise InvalidSizeError(
                f"mappings of {format_size(self.min)} cannot have 2 MiB leaves", f"use {format_size(PMD)} or more"
            )
        for name, longest in _LONGEST.items():
            text = getattr(self, name)
            if text and (not _PLAIN.fullmatch(text) or len(text) > longest):
                raise InvalidArgumentError(
                    f"invalid --{name} {text!r}",
                    f"use at most {longest} letters, digits and characters out of _@%+=./~-",
                )

    def text(self) -> str:
        """Return the value of the variable: what differs from the defaults."""
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        return ",".join(f"{name}={value}" for name, value in mine.items() if value != getattr(_DEFAULTS, name))


_DEFAULTS = Options()
