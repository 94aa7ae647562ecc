"""The error for a command whose extra is not installed. May depend on: errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..._core.errors import MissingExtraError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import in the block what the extra `name` brings. Raises `MissingExtraError` where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise MissingExtraError(f"{package} is not installed", f"pip install '.[{name}]' in mshare's source") from error
