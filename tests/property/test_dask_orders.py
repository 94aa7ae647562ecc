"""The scheduler's part of `mshare.dask`: in any order of requests, one load has one checksum, and a load that was
replaced or dropped never gets a name again."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import mshare
from mshare.dask.orders import Order, Orders

NAMES, LOADS, SOURCES, SUMS = ("a", "b"), [str(number) for number in range(6)], ("s", "t"), ("x", "y")


class Scheduling(RuleBasedStateMachine):
    """Clients place, withdraw and drop loads, and workers ask for agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.orders = Orders()
        self.unused = [*LOADS]
        self.current: dict[str, str] = {}
        self.before: dict[str, str] = {}
        self.source: dict[str, str] = {}
        self.agreed: dict[str, str] = {}
        self.placed: dict[str, list[str]] = {}

    @rule(name=st.sampled_from(NAMES), source=st.sampled_from(SOURCES), replace=st.booleans())
    def place(self, name: str, source: str, replace: bool) -> None:
        if not self.unused:
            return
        load, older = self.unused[0], self.current.get(name, "")
        if older and not replace:
            try:
                assert self.orders.place(name, load, source, b"", replace) == older
                assert self.source[older] == source
            except mshare.RegionExistsError:
                assert self.source[older] != source
            return
        assert self.orders.place(name, load, source, b"", replace) == self.unused.pop(0)
        self.current[name], self.before[name], self.source[load] = load, older, source
        self.placed.setdefault(name, []).append(load)

    @rule(name=st.sampled_from(NAMES), load=st.sampled_from(LOADS))
    def withdraw(self, name: str, load: str) -> None:
        self.orders.withdraw(name, load)
        if self.current.get(name) == load:
            self.current[name] = self.before.pop(name, "")

    @rule(name=st.sampled_from(NAMES))
    def drop(self, name: str) -> None:
        assert self.orders.drop(name) == bool(self.current.get(name))
        if self.current.get(name):
            self.current[name] = ""
            self.before.pop(name, None)

    @rule(name=st.sampled_from(NAMES), load=st.sampled_from(LOADS), checksum=st.sampled_from(SUMS))
    def agree(self, name: str, load: str, checksum: str) -> None:
        if self.current.get(name) == load:
            assert self.orders.agree(name, load, checksum) == self.agreed.setdefault(load, checksum)
        else:
            assert self.orders.agree(name, load, checksum) == ""

    @invariant()
    def every_copy_belongs_to_a_known_load(self) -> None:
        orders = {order.name: order for order in (Order(*fields) for fields in self.orders.orders())}
        assert orders.keys() == self.placed.keys()
        for name, order in orders.items():
            assert order.load == self.current[name]
            assert {*order.past, order.load} - {""} == {*self.placed[name]}
            assert order.load not in order.past
            assert order.checksum == self.agreed.get(order.load, "")


TestScheduling = Scheduling.TestCase
