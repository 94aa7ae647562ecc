"""Exit codes, one per cause, and how an error is told. May depend on: table, errors, typer."""

from __future__ import annotations

import errno
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from ..._core import errors
from ..table import printable

if TYPE_CHECKING:
    UsageError = typer.BadParameter
else:
    # What the parser raises for an invalid command line. typer exports a subclass only.
    UsageError = typer.BadParameter.__mro__[1]

OK, FAILED, USAGE, NOT_FOUND, EXISTS, BUSY, NO_SPACE, DENIED, UNAVAILABLE, NOT_A_REGION = range(10)
INTERRUPTED, BROKEN_PIPE = 130, 141

MEANINGS = {
    OK: "done",
    FAILED: "failed for another reason (the message says which)",
    USAGE: "the command line, a name, a size or an address is invalid",
    NOT_FOUND: "no region, file or process has that name",
    EXISTS: "the name is taken",
    BUSY: "processes are attached",
    NO_SPACE: "it does not fit into memory, file system or huge page pool",
    DENIED: "permission denied",
    UNAVAILABLE: "the backend cannot be used on this machine, or not by this program",
    NOT_A_REGION: "the name belongs to something else than a region, or to two files; or the file is not a snapshot",
    INTERRUPTED: "interrupted (Ctrl-C); nothing is left half done",
    BROKEN_PIPE: "the reader of the output has gone",
}

_CLASSES: tuple[tuple[type[Exception], int], ...] = (
    (UsageError, USAGE),
    (errors.NotARegionError, NOT_A_REGION),
    (errors.AmbiguousNameError, NOT_A_REGION),
    (errors.NotASnapshotError, NOT_A_REGION),
    (errors.InvalidNameError, USAGE),
    (errors.InvalidSizeError, USAGE),
    (errors.InvalidAddressError, USAGE),
    (errors.InvalidArgumentError, USAGE),
    (errors.BackendUnavailableError, UNAVAILABLE),
    (errors.NoSpaceError, NO_SPACE),
    (errors.RegionBusyError, BUSY),
    (errors.ViewsAliveError, BUSY),
    (FileNotFoundError, NOT_FOUND),
    (ProcessLookupError, NOT_FOUND),
    (FileExistsError, EXISTS),
    (PermissionError, DENIED),
)
_NUMBERS = {errno.ENOSPC: NO_SPACE, errno.EDQUOT: NO_SPACE, errno.EFBIG: NO_SPACE, errno.ENOMEM: NO_SPACE}
_NUMBERS[errno.EOPNOTSUPP] = UNAVAILABLE  # also errors of parts that are loaded only where they are used


def code_of(error: Exception) -> int:
    """Return the exit code for `error`."""
    for kind, code in _CLASSES:
        if isinstance(error, kind):
            return code
    return _NUMBERS.get(getattr(error, "errno", None) or 0, FAILED)


def message_of(error: Exception) -> str:
    """Return what to tell the user, on one line."""
    if isinstance(error, UsageError):
        return printable(error.format_message())
    if isinstance(error, errors.MshareError):
        return printable(str(error))
    text = getattr(error, "strerror", None) or str(error)
    name = getattr(error, "filename", None)
    return printable(f"{text}: {name}" if isinstance(name, str) else text)


def error_json(error: Exception) -> dict[str, Any]:
    """Return `error` as JSON has it."""
    return {
        "class": type(error).__name__,
        "errno": errno.errorcode.get(getattr(error, "errno", None) or 0),
        "message": message_of(error),
        "hint": getattr(error, "hint", None),
        "exit_code": code_of(error),
    }


def fail(error: Exception, *, as_json: bool) -> int:
    """Tell the user on stderr and return the exit code."""
    if as_json:
        sys.stderr.write(json.dumps({"error": error_json(error)}) + "\n")
    else:
        sys.stderr.write(f"mshare: {message_of(error)}\n")
        context = getattr(error, "ctx", None)
        if context is not None:
            sys.stderr.write(f"Try '{context.command_path} --help'.\n")
    return code_of(error)


def epilog() -> str:
    """Return the table of exit codes for `mshare --help`."""
    lines = [f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items()]
    return "\b\nExit codes:\n" + "\n".join(lines) + "\n\nWith --json, results are JSON on stdout, errors on stderr."
