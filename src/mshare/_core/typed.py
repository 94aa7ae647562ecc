"""`NamedTuple` and `Protocol` for modules that `import mshare` loads. Pure. May depend on: nothing.

The module `typing` takes 10 ms to load, which is nearly as long as Python itself (docs/results/start.md).
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple, Protocol
else:
    Protocol = object

    class _Fields(type):
        """Makes a named tuple of a class that lists its fields with types and defaults, as `typing` does."""

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = namespace["__annotations__"]
            defaults = [namespace.pop(field) for field in fields if field in namespace]
            base = namedtuple(name, fields, defaults=defaults, module=namespace["__module__"])
            return type(name, (base,), {"__slots__": (), **namespace})

    class NamedTuple(metaclass=_Fields):
        """The base of a class that lists its fields."""


__all__ = ["NamedTuple", "Protocol"]
