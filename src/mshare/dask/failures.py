"""The errors of copies on the hosts of a cluster. May depend on: errors."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from .._core.errors import MshareError


class SourceChangedError(MshareError):
    """The source has other bytes than the copies that other hosts have, or changed while it was read."""

    code = errno.ESTALE


class ReplicationError(MshareError):
    """Some hosts of the cluster did not do what was asked. The other hosts did, and keep what they have."""

    failed: Mapping[str, Exception] = {}
    """The error of each host that failed, by the host's name; by the worker's address if the worker ended."""

    def __reduce__(self) -> tuple[type[MshareError], tuple[str, str], dict[str, object]]:  # type: ignore[override]
        return type(self), (self.problem, self.hint), vars(self) | {"errno": self.errno}


for _kind in (SourceChangedError, ReplicationError):
    _kind.__module__ = "mshare.dask"
