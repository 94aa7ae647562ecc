"""The scheduler's part: which load of each name is the current one, and which bytes it has.

All workers ask the scheduler before they load and before a copy gets its name. The first host that has read the source
decides what the bytes are. Another host that has read other bytes is refused.
May depend on: errors, distributed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from distributed import Scheduler, SchedulerPlugin

from .._core.errors import RegionExistsError

PLUGIN = "mshare-orders"


class Order(NamedTuple):
    """The state of a name in the cluster."""

    name: str
    load: str
    """The current load; empty if the name was dropped."""
    source: str
    recipe: bytes
    """The pickled `Recipe`. The scheduler never looks into it."""
    checksum: str
    """SHA-256 of the bytes, in hexadecimal; empty as long as no host has read them."""
    past: tuple[str, ...]
    """Older loads of the name: their copies may be replaced and removed."""
    replace: bool
    """Whether regions that this cluster did not make may be replaced."""


class Orders(SchedulerPlugin):
    """The orders of a cluster. The scheduler has one such object; workers and clients call it by handlers."""

    idempotent = True

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}
        self._before: dict[str, Order] = {}
        """For each name the order that the current load has taken the place of."""

    async def start(self, scheduler: Scheduler) -> None:
        """Offer the handlers."""
        scheduler.handlers |= {
            "mshare_place": self.place,
            "mshare_withdraw": self.withdraw,
            "mshare_drop": self.drop,
            "mshare_orders": self.orders,
            "mshare_agree": self.agree,
        }

    def place(self, name: str, load: str, source: str, recipe: bytes, replace: bool) -> str:
        """Order a load, and return its name: that of the current load if the name has the same source already.

        Raises `RegionExistsError` if the name has another source, unless the caller replaces it.
        """
        older = self._orders.get(name, Order(name, "", "", b"", "", (), False))
        if older.load and not replace:
            if older.source != source:
                raise RegionExistsError(
                    f"{name!r} is replicated from {older.source}", "use replace=True, or choose another name"
                )
            self._orders[name] = older._replace(recipe=recipe)
            return older.load
        self._before[name] = older
        self._orders[name] = Order(name, load, source, recipe, "", self._ended(older).past, replace)
        return load

    def withdraw(self, name: str, load: str) -> None:
        """Go back to the order before this load, of which no host has a copy."""
        order = self._orders.get(name)
        if order is not None and order.load == load:
            ended = self._ended(order)
            before = self._before.pop(name, ended)
            self._orders[name] = before._replace(past=tuple(each for each in ended.past if each != before.load))

    def drop(self, name: str) -> bool:
        """Forget the load. The name stays known, so that workers that join later remove their host's copy."""
        order = self._orders.get(name)
        if order is None or not order.load:
            return False
        self._before.pop(name, None)
        self._orders[name] = self._ended(order)
        return True

    @staticmethod
    def _ended(order: Order) -> Order:
        """Return the order as it is without its load."""
        past = (*order.past, order.load) if order.load else order.past
        return Order(order.name, "", "", b"", "", past, False)

    def orders(self, name: str | None = None) -> list[tuple[Any, ...]]:
        """Return the order of a name, or all orders."""
        return [tuple(order) for order in self._orders.values() if name in (None, order.name)]

    def agree(self, name: str, load: str, checksum: str) -> str:
        """Return the checksum that the load has on all hosts; empty if the load is not the current one."""
        order = self._orders.get(name)
        if order is None or order.load != load:
            return ""
        if not order.checksum:
            self._orders[name] = order = order._replace(checksum=checksum)
        return order.checksum
