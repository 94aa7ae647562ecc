"""The classes of `mshare.shared_memory` and the standard ones do the same: each operation runs on both.

The standard segments are in /dev/shm, and ours in a world of their own, so that a name can be used for both. The two
differences that a program can see without a crash are excluded: the standard `buf` is None after a failed close, and
the standard `unlink` also removes a newer segment of the same name.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing import shared_memory as standard
from operator import attrgetter
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, NamedTuple
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import mshare
from mshare import shared_memory as ours

KINDS = (
    FileExistsError,
    FileNotFoundError,
    BufferError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    struct.error,
    AttributeError,
    OSError,
)
"""The errors that a program may catch, special ones first: an error of mshare is often two of them."""

MODULES: tuple[Any, Any] = (ours, standard)
NAMES = [f"mshare-model-{os.getpid()}-{letter}" for letter in "ab"]


class Outcome(NamedTuple):
    """The result of an operation: a value, or the first of `KINDS` that its error is."""

    value: Any
    error: type[BaseException] | None = None


def outcome(call: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(call())
    except KINDS as error:
        return Outcome(None, next(kind for kind in KINDS if isinstance(error, kind)))


def same(calls: Sequence[Callable[[], Any]]) -> Outcome:
    """Make a call on ours and one on the standard one, and return the outcome that both have."""
    mine, theirs = map(outcome, calls)
    assert mine == theirs
    return mine


def content(segment: Any) -> bytes:
    return bytes(segment.buf)


def store(segment: Any, offset: int, value: int) -> None:
    segment.buf[offset] = value


@contextmanager
def two_worlds() -> Iterator[None]:
    """Give ours a root of their own, keep the tracker out of the standard ones, and remove all in the end."""
    root = Path(mkdtemp(prefix="mshare-model-", dir="/dev/shm"))
    (root / "shm").mkdir()
    ignored = mock.Mock()
    with (
        mock.patch.dict(os.environ, {"MSHARE_ROOT": str(root)}),
        mock.patch.object(resource_tracker, "register", ignored),
        mock.patch.object(resource_tracker, "unregister", ignored),
    ):
        try:
            yield
        finally:
            for name in NAMES:
                Path("/dev/shm", name).unlink(missing_ok=True)
            rmtree(root)


class Pair(NamedTuple):
    """One of ours and a standard one that went through the same."""

    both: tuple[Any, Any]
    name: str
    generation: int


class Segments(RuleBasedStateMachine):
    """Segments of two names, objects, views and arrays, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.worlds = two_worlds()
        self.worlds.__enter__()
        self.pairs: list[Pair] = []
        self.views: list[tuple[Pair, list[Any]]] = []
        self.generations = dict.fromkeys(NAMES, 0)

    def opened(self, name: str, make: Callable[[Any], Any]) -> None:
        made: list[Any] = []
        if same([partial(lambda module: made.append(make(module)), module) for module in MODULES]).error is None:
            self.pairs.append(Pair((made[0], made[1]), name, self.generations[name]))

    @rule(name=st.sampled_from(NAMES), size=st.sampled_from([-1, 0, 1, 2, 4095, 4096, 4097, 10_000]))
    def create(self, name: str, size: int) -> None:
        self.generations[name] += not Path("/dev/shm", name).exists()
        self.opened(name, lambda module: module.SharedMemory(name, create=True, size=size))

    @rule(name=st.sampled_from(NAMES), size=st.sampled_from([-1, 0, 1, 10_000]))
    def attach(self, name: str, size: int) -> None:
        self.opened(name, lambda module: module.SharedMemory(name=name, size=size))

    @rule(data=st.data())
    @precondition(lambda self: self.pairs)
    def pickle(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.pairs))
        raw = {module: pickle.dumps(each) for module, each in zip(MODULES, pair.both, strict=True)}
        self.opened(pair.name, lambda module: pickle.loads(raw[module]))

    @rule(data=st.data(), offset=st.sampled_from([0, 1, -1, 4095, 5000]), value=st.sampled_from([0, 7, 256]))
    @precondition(lambda self: self.pairs)
    def store(self, data: st.DataObject, offset: int, value: int) -> None:
        both = data.draw(st.sampled_from(self.pairs)).both
        same([partial(store, each, offset, value) for each in both])

    @rule(data=st.data(), start=st.sampled_from([0, 1, 4096]))
    @precondition(lambda self: self.pairs)
    def view(self, data: st.DataObject, start: int) -> None:
        pair = data.draw(st.sampled_from(self.pairs))
        views: list[Any] = []
        if same([partial(lambda each: views.append(each.buf[start:]), each) for each in pair.both]).error is None:
            self.views.append((pair, views))

    @rule(data=st.data())
    @precondition(lambda self: self.views)
    def let_go(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.views) - 1))
        _, (mine, theirs) = self.views.pop(number)
        assert bytes(mine) == bytes(theirs)
        mine.release()
        theirs.release()

    @rule(data=st.data())
    @precondition(lambda self: self.pairs)
    def close(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.pairs))
        mine, theirs = pair.both
        closed = same([mine.close, theirs.close])
        if closed.error is not None:
            assert bytes(mine.buf)  # The standard one has none now, so that both have to be closed.
            for other, views in [*self.views]:
                if other is pair:
                    self.views.remove((other, views))
                    for view in views:
                        view.release()
            assert same([mine.close, theirs.close]).error is None

    @rule(data=st.data())
    @precondition(lambda self: self.pairs)
    def unlink(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.pairs))
        mine, theirs = pair.both
        newer = pair.generation != self.generations[pair.name] and Path("/dev/shm", pair.name).exists()
        if newer:
            assert outcome(mine.unlink).error is FileNotFoundError
        else:
            same([mine.unlink, theirs.unlink])

    @invariant()
    def they_look_the_same(self) -> None:
        for pair in self.pairs:
            mine, theirs = pair.both
            assert (mine.name, mine.size, mine._name, repr(mine)) == (
                theirs.name,
                theirs.size,
                theirs._name,
                repr(theirs),
            )
            assert isinstance(mine, type(theirs))
            same([partial(content, each) for each in pair.both])
        names = [name for name in NAMES if Path("/dev/shm", name).exists()]
        assert names == sorted(os.listdir(Path(os.environ["MSHARE_ROOT"], "shm")))

    def teardown(self) -> None:
        for _, views in self.views:
            for view in views:
                view.release()
        for pair in self.pairs:
            for each in pair.both:
                each.close()
        self.worlds.__exit__(None, None, None)


TestSegments = Segments.TestCase
TestSegments.settings = settings(max_examples=50, stateful_step_count=20)

GOOD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=12).filter(lambda text: "\0" not in text),
    st.binary(max_size=12).filter(lambda raw: b"\0" not in raw),
)
ITEMS = GOOD | st.sampled_from([1 << 63, -(1 << 63) - 1, [], 1j])

OPERATIONS = st.one_of(
    st.tuples(st.just("get"), st.integers(-8, 8)),
    st.tuples(st.just("set"), st.integers(-8, 8), ITEMS),
    st.tuples(st.sampled_from(["count", "index"]), ITEMS),
)


def apply(made: Any, operation: tuple[Any, ...]) -> Any:
    what, *rest = operation
    match what:
        case "get":
            return made[rest[0]]
        case "set":
            made[rest[0]] = rest[1]
            return None
        case "count":
            return made.count(rest[0])
        case _:
            return made.index(rest[0])


def state(made: Any) -> list[Outcome]:
    """Return all that can be seen of a list. A standard bug can make each part an error: a negative index beyond the
    list's start writes into its header, and text is cut by its number of characters and not of bytes."""
    parts = (list, len, repr, attrgetter("format"), attrgetter("shm.size"), lambda made: content(made.shm))
    return [outcome(partial(part, made)) for part in parts]


@given(items=st.lists(GOOD, max_size=6) | st.lists(ITEMS, max_size=6), operations=st.lists(OPERATIONS, max_size=8))
@settings(max_examples=60)
def test_lists_do_the_same(items: list[Any], operations: list[tuple[Any, ...]]) -> None:
    with two_worlds():
        made: list[Any] = []
        if same([partial(lambda m: made.append(m.ShareableList(items, name=NAMES[0])), m) for m in MODULES]).error:
            assert mshare.regions() == []  # the standard class leaves its segment behind
            return
        for operation in operations:
            same([partial(apply, each, operation) for each in made])
            assert state(made[0]) == state(made[1])
        others: list[Any] = []
        raw = [pickle.dumps(each) for each in made]
        same([partial(lambda each: others.append(pickle.loads(each)), each) for each in raw])
        same([partial(lambda module: others.append(module.ShareableList(name=NAMES[0])), m) for m in MODULES])
        for mine, theirs in zip(others[::2], others[1::2], strict=True):
            assert (type(mine), type(theirs)) == (ours.ShareableList, standard.ShareableList)
            assert state(mine) == state(theirs)
        for each in (*made, *others):
            same([each.shm.close] * 2)
        for _ in range(2):
            same([each.shm.unlink for each in made])
        assert mshare.regions() == []
