"""mshare: named shared-memory regions that outlive their creator, with the cheapest page tables the machine offers.

>>> import mshare
>>> with mshare.create("docs-example", 1 << 20) as r:
...     r.buf[:5] = b"hello"
>>> with mshare.attach("docs-example", readonly=True) as r:
...     bytes(r.buf[:5])
b'hello'
>>> mshare.unlink("docs-example")

The public parts are `mshare.__all__`, `mshare.shared_memory`, `mshare.numpy`, `mshare.arrow`, `mshare.torch`,
`mshare.dask`, `mshare.testing`, `mshare.measure`, the command line with its JSON and exit codes, the record in a
region's file and the kernel ABI (docs/api.md). All else may change in any release.

May depend on: _core, sync.
"""

# General layout. Each module names in its docstring what it may depend on, and tests/unit/test_layering.py compares
# the imports. docs/decisions/0026-private-rooms.md says why there are two private packages.
#
#   _tools/cli -> _tools/*, measure -> _core: calls, creation, attachment, region -> listing, removal, names, mapping
#                                                                   -> backends/* -> backend, linux/* -> pure
#
#   _core            what `import mshare` loads
#     pure           errors units geometry record procfs: no operating system
#     linux/*        system calls and /proc; knows nothing of regions
#     backend        what a backend is, and the choice;  backends/*: one file each
#     mapping        what this process has mapped, and its owners;  placement: which addresses are free
#     roots          the directories of regions;  entry: the file of one region
#     names          find, publish, withdraw;  listing: what there is;  removal: unlink, gc
#     handle         descriptors of regions and their rights;  handover: sending them over a socket
#     region         Region;  attachment: attach;  creation: create, create_anonymous;  calls: the proposal's two calls
#   _tools           what the commands need beyond the library
#     cli/*          one file per command
#     collect/*      takes a snapshot of who maps what;  scan/* (pure): snapshot -> survey -> text
#     page/* (the report), top/* (the live screen), exporter/* (metrics): all from surveys, each with an extra
#     module         builds, loads and unloads our kernel module; kernel_source/ is the repository's kernel/
#     table, show    cells for a terminal, and texts about regions
#     machine        what this machine offers (`findings` judges it);  plan: what page tables will cost
#     lab            how many processes there is memory for;  demo: the story of `mshare demo`
#   sync             public: locks in regions, loaded with the first use of one of its names
#   shared_memory    public: the classes of multiprocessing.shared_memory, on regions
#   numpy, arrow     public: arrays in regions as the files of numpy, tables as streams of Arrow
#   torch            public: tensors in regions as safetensors files
#   dask             public: one copy of a file per host of a Dask cluster
#   measure          public: what processes pay, measured in real processes
#   testing          public: the reference model, the conformance suite and the state machine, for others' backends

from ._core.attachment import ANYWHERE, attach, reattach
from ._core.calls import mshare, mshare_unlink
from ._core.creation import create, create_anonymous
from ._core.errors import (
    AccessDeniedError,
    AddressTakenError,
    AlreadyOwnerError,
    AmbiguousNameError,
    BackendUnavailableError,
    DescriptorLimitError,
    InvalidAddressError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidSizeError,
    LockTimeoutError,
    MissingExtraError,
    ModuleBuildError,
    MshareError,
    NoSpaceError,
    NotAHandleError,
    NotALockError,
    NotARegionError,
    NotASnapshotError,
    NotOwnerError,
    NotSealedError,
    OwnerDiedError,
    ReadOnlyMappingError,
    RegionBusyError,
    RegionClosedError,
    RegionExistsError,
    RegionNotFoundError,
    ViewsAliveError,
)
from ._core.handle import Handle
from ._core.handover import recv_handle, send_handle
from ._core.listing import held_regions, regions
from ._core.record import HeldRegion, RegionInfo
from ._core.region import Region
from ._core.removal import gc, unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .sync import Counter, Event, Lock, RWLock, Semaphore
del TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "ANYWHERE",
    "AccessDeniedError",
    "AddressTakenError",
    "AlreadyOwnerError",
    "AmbiguousNameError",
    "BackendUnavailableError",
    "Counter",
    "DescriptorLimitError",
    "Event",
    "Handle",
    "HeldRegion",
    "InvalidAddressError",
    "InvalidArgumentError",
    "InvalidNameError",
    "InvalidSizeError",
    "Lock",
    "LockTimeoutError",
    "MissingExtraError",
    "ModuleBuildError",
    "MshareError",
    "NoSpaceError",
    "NotAHandleError",
    "NotALockError",
    "NotARegionError",
    "NotASnapshotError",
    "NotOwnerError",
    "NotSealedError",
    "OwnerDiedError",
    "RWLock",
    "ReadOnlyMappingError",
    "Region",
    "RegionBusyError",
    "RegionClosedError",
    "RegionExistsError",
    "RegionInfo",
    "RegionNotFoundError",
    "Semaphore",
    "ViewsAliveError",
    "attach",
    "create",
    "create_anonymous",
    "gc",
    "held_regions",
    "mshare",
    "mshare_unlink",
    "reattach",
    "recv_handle",
    "regions",
    "send_handle",
    "unlink",
]


def __getattr__(name: str) -> object:
    """Load `mshare.sync` at the first use of one of its names: `import mshare` takes no longer because of it."""
    if name == "sync" or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import sync

    value = getattr(sync, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
