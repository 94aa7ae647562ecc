"""The measured mechanisms, in the order of the tables. May depend on: backends, frameworks, measure, mechanisms."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

from mshare._core import backends
from mshare.measure import Nothing, SharedMemory

from .. import frameworks, mechanisms


class MechanismSpec(NamedTuple):
    """The description of a mechanism: only a trial makes the mechanism and imports its library."""

    label: str
    spec: str
    """The argument of `mshare.measure.mechanisms.load`."""
    package: str | None = None
    """The package that must be importable."""
    huge_pages: bool = False
    """The mechanism takes pages of the machine's pool."""
    heavy: bool = False
    """A framework of hundreds of megabytes, or one with a daemon."""
    hidden: bool = False
    """The memory is a daemon's memfd, which no file system shows, so memory that stays is not seen."""

    def problem(self) -> str | None:
        """Return why the mechanism cannot be measured here, or None."""
        if self.package and not find_spec(self.package):
            return f"{self.package} is not installed"
        if self.label == "mshare msharefs":
            available = backends.ALL[0].availability()
            return None if available.usable else available.reason
        return None


BASELINE = Nothing.label
PLAIN = mechanisms.Memfd.label
"""Ratios compare with this mechanism: 4 KiB pages and nothing around them."""

ALL = (
    MechanismSpec(BASELINE, Nothing.spec),
    *(
        MechanismSpec(f"mshare {name}", f"mshare.measure.mechanisms:Mshare:{name}", huge_pages=name == "hugetlb")
        for name in ("msharefs", "hugetlb", "thp", "shm")
    ),
    MechanismSpec(PLAIN, mechanisms.Memfd.spec),
    MechanismSpec(SharedMemory.label, SharedMemory.spec),
    MechanismSpec("posix_ipc", mechanisms.PosixIpc.spec, "posix_ipc"),
    MechanismSpec("sysv_ipc", f"{mechanisms.__name__}:SysV:small", "sysv_ipc"),
    MechanismSpec("sysv_ipc SHM_HUGETLB", f"{mechanisms.__name__}:SysV:huge", "sysv_ipc", huge_pages=True),
    MechanismSpec("SharedArray", mechanisms.SharedArray.spec, "SharedArray"),
    MechanismSpec("Ray", frameworks.Ray.spec, "ray", heavy=True),
    MechanismSpec("torch file_descriptor", f"{frameworks.__name__}:Torch:file_descriptor", "torch", heavy=True),
    MechanismSpec("torch file_system", f"{frameworks.__name__}:Torch:file_system", "torch", heavy=True),
    MechanismSpec("iceoryx2", frameworks.Iceoryx2.spec, "iceoryx2", heavy=True),
    MechanismSpec("vineyard", frameworks.Vineyard.spec, "vineyard", heavy=True, hidden=True),
)
