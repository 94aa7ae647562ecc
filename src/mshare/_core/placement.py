"""Placement: which addresses a region may have, and which are free. May depend on: limits, linux, errors, geometry,
units."""

from __future__ import annotations

from . import limits
from .errors import InvalidAddressError, NoSpaceError
from .geometry import USER_END, WINDOW, Span, pick_address
from .linux import proc
from .units import format_size, whole


def check_address(addr: int, size: int, unit: int) -> int:
    """Return `addr` as an int, if `size` bytes may lie there. Raises `InvalidAddressError`."""
    addr = whole(addr, "an address")
    if addr <= 0 or addr % unit:
        raise InvalidAddressError(
            f"address {addr:#x} is not a positive multiple of {format_size(unit)}", "round the address, or pass None"
        )
    if addr + size > USER_END:
        raise InvalidAddressError(
            f"{addr:#x} plus {format_size(size)} ends above user space ({USER_END:#x})",
            "choose a lower address",
        )
    return addr


def free_address(seed: int, size: int, known: list[Span]) -> int:
    """Return an address clear of this process's present mappings, and of `known` regions if they leave room."""
    window = Span(*WINDOW)
    mine: list[Span] = []
    try:
        for vma in proc.maps():
            if vma.span.start >= window.end:  # programs and libraries lie above, and mappings come in order
                break
            if vma.span.overlaps(window):
                mine.append(vma.span)
    except OSError as error:  # no /proc: the caller's mmap fails if the address is taken, and the caller asks again
        limits.reraise(error)
    addr = pick_address(seed, size, [*known, *mine])
    if addr is None:  # a hostile file may claim the whole window
        addr = pick_address(seed, size, mine)
    if addr is None:
        raise NoSpaceError(
            f"no {format_size(size)} of addresses are free in mshare's window",
            "pass addr= yourself, or remove regions",
        )
    return addr
