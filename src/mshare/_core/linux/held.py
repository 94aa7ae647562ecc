"""Numbers that the kernel gives out (descriptors, addresses) in lists that own them. May depend on: nothing.

Facts: Python runs signal handlers, which may raise (KeyboardInterrupt), between any two steps of bytecode: also between
the return of `os.open` and the assignment of its result. Python runs no handler while C calls C. A handler may itself
make the call that it has interrupted.
Consequence: a number that passes through bytecode can get lost, and with it the open file or the memory. A number that
is looked at before it is taken can be given back twice.
Decision: C code (`starmap`, `map`) moves the number from the system call into a list, and from the list into the call
that gives the number back. An object owns the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import starmap, tee


def take(held: list[int], call: Callable[..., int], arguments: Iterable[object], *, unless: int | None = None) -> int:
    """Put the result of `call(*arguments)` into `held`, except the number `unless`. `call` must be written in C.

    Also returns the number, which a handler may have given back by then.
    """
    taken, told = tee(starmap(call, (arguments,)))
    held.extend(taken if unless is None else filter(unless.__ne__, taken))
    return next(told)


def give_back(held: list[int], call: Callable[..., object], *more: object) -> object:
    """Take the number out of `held` and return `call(number, *more)`, in one step. If `held` is empty, do nothing and
    return None. `call` must be written in C."""
    try:
        return next(map(call, map(held.pop, (0,)), *((each,) for each in more)))
    except IndexError:
        return None
