"""Numbers that the kernel gives out (descriptors, addresses) in lists that own them. May depend on: nothing.

Facts: Python runs signal handlers, and they may raise (KeyboardInterrupt), between any two steps of bytecode: also
between the return of `os.open` and the assignment of what it returned. Python runs none while C calls C. A handler may
itself call whatever it has interrupted.
Consequence: a number that passes through bytecode can get lost, and the open file or the memory with it. A number that
is looked at before it is taken can be given back twice.
Decision: the number goes from the system call into a list, and from the list into the call that gives it back, by C
(`starmap`, `map`). An object owns the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import starmap, tee


def take(held: list[int], call: Callable[..., int], arguments: Iterable[object], *, unless: int | None = None) -> int:
    """Put what `call(*arguments)` returns into `held`, except the number `unless`. `call` must be written in C.

    Returns the number also, which a handler may have given back by then.
    """
    taken, told = tee(starmap(call, (arguments,)))
    held.extend(taken if unless is None else filter(unless.__ne__, taken))
    return next(told)


def give_back(held: list[int], call: Callable[..., object], *more: object) -> object:
    """Return `call(number, *more)` for the number in `held`, taken out in the same step; None, and nothing done, if it
    is empty. `call` must be written in C."""
    try:
        return next(map(call, map(held.pop, (0,)), *((each,) for each in more)))
    except IndexError:
        return None
